"""Compares the paper's tables and figures with runs: `alexnet_jax.report`."""
