"""Without groups: all kernels of both columns in one column.

  python -m alexnet_jax.main --config=configs/paper/no_groups.py:DATA

DATA is one of those of base.py. The paper has no such network:
its two columns save the connections between them. Most later AlexNets have no
groups.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('no_groups',)
  return config
