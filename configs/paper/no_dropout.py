"""Without dropout in fc6 and fc7 (section 4.2).

  python -m alexnet_jax.main --config=configs/paper/no_dropout.py:DATA

DATA is one of those of base.py. The paper: without dropout, the
network overfits substantially; with it, training needs roughly twice as many
iterations.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.dropout_rate = 0.0
  return config
