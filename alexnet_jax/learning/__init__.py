"""Training steps, the paper's SGD, and metrics."""
