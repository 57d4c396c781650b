"""Tanh units in place of ReLUs (section 3.1).

  python -m alexnet_jax.main --config=configs/paper/tanh.py:DATA

DATA is one of those of base.py. The paper reports no error,
because training would have been too slow. `fig1_tanh.py` is the paper's Figure
1.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('tanh',)
  return config
