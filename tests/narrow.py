"""The digits config with a narrow network, for tests that train.

It also shows that a config file can add its own network to ARCHITECTURES.
"""

import dataclasses

import ml_collections

from alexnet_jax.model import ARCHITECTURES
from configs import digits


def _narrow(layer):
  if layer.features is None:
    return layer
  by = 8 if hasattr(layer, 'kernel') else 32
  return dataclasses.replace(layer, features=layer.features // by)


_CAFFE = ARCHITECTURES['caffe']
ARCHITECTURES['narrow'] = dataclasses.replace(
  _CAFFE, name='narrow', layers=tuple(map(_narrow, _CAFFE.layers))
)


def get_config() -> ml_collections.ConfigDict:
  config = digits.get_config()
  config.model.name = 'narrow'
  return config
