"""The paper's tables and figures, from runs: `alexnet_jax.report`."""
