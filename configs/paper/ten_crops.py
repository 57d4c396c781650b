"""Scored on ten crops instead of the centre (section 4.1).

  python -m alexnet_jax.main --config=configs/paper/ten_crops.py:DATA

DATA is imagenet, imagenette, cifar10 or digits. The paper, on ImageNet's 2010
test set: 37.5 / 17.0% against 39.0 / 18.3%. Only one checkpoint scored both
ways compares them: score a copy of the workdir of `base.py`, by --mode=eval
--config.eval.step=latest. (Trained by itself on ImageNet, its plateau rule
would see the ten crops' error.)
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.eval.crops = 10
  return config
