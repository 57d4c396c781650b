"""The paper's net for one GPU, one column of half the kernels (section 3.5).

  python -m alexnet_jax.main --config=configs/paper/one_column.py:DATA

DATA is imagenet, imagenette, cifar10 or digits. The paper: 1.7% (top-1) and
1.2% (top-5) worse than `base.py`, on ImageNet. The last convolution and the
dense layers keep their size.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('one_column',)
  return config
