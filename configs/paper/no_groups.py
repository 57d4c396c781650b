"""As many kernels as two columns have, in one: no groups.

  python -m alexnet_jax.main --config=configs/paper/no_groups.py:DATA

DATA is imagenet, imagenette, cifar10 or digits. Not in the paper, whose two
columns spare the connections between them; what most later AlexNets are.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('no_groups',)
  return config
