"""Pooling without overlap: windows of 2 with a stride of 2 (section 3.4).

  python -m alexnet_jax.main --config=configs/paper/no_overlap.py:DATA

DATA is one of those of base.py. The paper: on
ImageNet, the top-1 error is 0.4% and the top-5 error 0.3% higher than that of
`base.py`, and the network overfits slightly more. Compare the training errors,
too.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('no_overlap',)
  return config
