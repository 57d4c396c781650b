"""What can be known of a run before a machine is rented for it.

`python -m alexnet_jax.preflight`; see `__main__.py`.
"""
