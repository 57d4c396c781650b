r"""Figure 1, dashed line: the network of `fig1_relu.py` with tanh units.

  python -m alexnet_jax.main --config=configs/paper/fig1_tanh.py
  python -m alexnet_jax.learning_rates --config=configs/paper/fig1_tanh.py \
    --rates=0.002,0.004,0.008 --workdir=runs/fig1_tanh
"""

import ml_collections

from configs.paper import fig1_relu


def get_config() -> ml_collections.ConfigDict:
  config = fig1_relu.get_config()
  config.num_epochs = 25
  config.model.ablations = ('tanh',)
  return config
