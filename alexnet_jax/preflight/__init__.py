"""Catches out-of-memory and config errors before you rent a TPU.

`python -m alexnet_jax.preflight`; see `__main__.py`.
"""
