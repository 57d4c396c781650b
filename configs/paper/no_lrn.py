"""Without local response normalization (section 3.3).

  python -m alexnet_jax.main --config=configs/paper/no_lrn.py:DATA

DATA is imagenet, imagenette, cifar10 or digits. The paper: 1.4% (top-1) and
1.2% (top-5) worse than `base.py`, on ImageNet.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('no_lrn',)
  return config
