"""Evaluation on ten crops instead of the center crop (section 4.1).

  python -m alexnet_jax.main --config=configs/paper/ten_crops.py:DATA

DATA is one of those of base.py. The paper, on ImageNet's 2010
test split: 37.5% top-1 and 17.0% top-5 error on ten crops, 39.0% and 18.3% on
the center crop.

To compare the two, evaluate one checkpoint in both ways: copy the workdir of
`base.py`, and evaluate the copy with --mode=eval --config.eval.step=latest. (A
training on ImageNet with this config would differ from that of `base.py`: its
plateau rule would see the error on ten crops.)
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.eval.crops = 10
  return config
