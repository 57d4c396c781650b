"""The paper's network for one GPU: half the kernels, no groups (section 3.2).

  python -m alexnet_jax.main --config=configs/paper/one_column.py:DATA

DATA is one of those of base.py. The paper: on
ImageNet, the top-1 error is 1.7% and the top-5 error 1.2% higher than that of
`base.py`. The last convolution and the dense layers keep their size.
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.model.ablations = ('one_column',)
  return config
