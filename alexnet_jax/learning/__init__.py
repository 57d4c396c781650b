"""Training and evaluation steps, the paper's SGD, and metrics."""
