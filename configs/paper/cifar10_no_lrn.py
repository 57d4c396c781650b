"""CIFAR-10 without LRN, otherwise like `cifar10_lrn.py` (section 3.3).

python -m alexnet_jax.main --config=configs/paper/cifar10_no_lrn.py
"""

import ml_collections

from configs.paper import cifar10_lrn


def get_config() -> ml_collections.ConfigDict:
  config = cifar10_lrn.get_config()
  config.model.ablations = ('no_lrn',)
  return config
