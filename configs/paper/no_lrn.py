"""Without local response normalization (section 3.3).

  python -m alexnet_jax.main --config=configs/paper/no_lrn.py:DATA

DATA is one of those of base.py. The paper: on
ImageNet, the top-1 error is 1.4% and the top-5 error 1.2% higher than that of
`base.py`.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('no_lrn',)
  return config
