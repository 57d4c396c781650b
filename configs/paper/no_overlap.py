"""Pooling that does not overlap: windows of 2 at stride 2 (section 3.4).

  python -m alexnet_jax.main --config=configs/paper/no_overlap.py:DATA

DATA is imagenet, imagenette, cifar10 or digits. The paper: .4% (top-1) and .3%
(top-5) worse than `base.py`, on ImageNet, and overfits a little sooner: compare
the training errors too.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('no_overlap',)
  return config
