"""Without PCA lighting (section 4.1).

  python -m alexnet_jax.main --config=configs/paper/no_lighting.py:DATA

DATA is one of those of base.py. The paper: on
ImageNet, the top-1 error is over 1% higher than that of `base.py`.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.data.lighting = 'none'
  return config
