"""Figure 1, dashed line: the network of `fig1_relu.py` with tanh units.

python -m alexnet_jax.main --config=configs/paper/fig1_tanh.py
"""

import ml_collections

from configs.paper import fig1_relu


def get_config() -> ml_collections.ConfigDict:
  config = fig1_relu.get_config()
  config.num_epochs = 25
  config.model.ablations = ('tanh',)
  return config
