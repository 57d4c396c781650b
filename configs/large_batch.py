"""The recipes of large batches, at a size that two CPU cores can train.

  python -m alexnet_jax.main --config=configs/large_batch.py:RECIPE-DATA

RECIPE is one of

  owt     cuda-convnet2's network, batches of 64
  linear  the same with 16 times the batch and the learning rate, and a warm-up:
          configs/imagenet_1024.py
  sqrt    the same with 4 times the learning rate: imagenet_1024.py:sqrt
  bn      AlexNet-BN, batches of 64
  lars    the same with 16 times the batch, and LARS:
          configs/imagenet_lars_8k.py

and DATA is `imagenette` or `cifar10`. All runs of a dataset have the same
number of epochs and the same polynomial decay of the learning rate. The
networks are narrow, on crops of 67 pixels.

Time: four to five minutes on two CPU cores.
Validation errors: docs/pods.md.
"""

import dataclasses

import ml_collections

from alexnet_jax.model import ARCHITECTURES, Architecture
from alexnet_jax.model.layer_types import Conv
from configs import default

_RECIPES = ('owt', 'linear', 'sqrt', 'bn', 'lars')
_TIMES = 16
_EPOCHS = {'imagenette': 30, 'cifar10': 6}
# The best of those that were tried (docs/pods.md).
_LEARNING_RATES = {'owt': 0.01, 'alexnet_bn': 0.02}


def _narrow(name: str) -> Architecture:
  """Returns a network with fewer channels (a quarter) and units (an eighth)."""
  architecture = ARCHITECTURES[name]

  def narrower(layer):
    if layer.features is None:
      return layer
    by = 4 if isinstance(layer, Conv) else 8
    # Fewer inputs: the weights have the same sum of squares per unit.
    return dataclasses.replace(
      layer,
      features=layer.features // by,
      weight_std=layer.weight_std and layer.weight_std * by**0.5,
    )

  return dataclasses.replace(
    architecture,
    name=f'narrow_{name}',
    layers=tuple(map(narrower, architecture.layers)),
  )


for _name in ('owt', 'alexnet_bn'):
  ARCHITECTURES[f'narrow_{_name}'] = _narrow(_name)


def get_config(which: str = 'linear-imagenette') -> ml_collections.ConfigDict:
  recipe, _, data = which.partition('-')
  if recipe not in _RECIPES or data not in _EPOCHS:
    raise ValueError(
      f'{which!r} is not RECIPE-DATA, of {", ".join(_RECIPES)}, and '
      f'{" or ".join(_EPOCHS)}'
    )
  config = default.get_config()
  config.batch_size = 64
  config.num_epochs = _EPOCHS[data]
  network = 'alexnet_bn' if recipe in ('bn', 'lars') else 'owt'
  config.model.name = f'narrow_{network}'
  config.model.num_classes = 10
  config.data.crop_size = 67
  config.data.lighting = 'none'
  if data == 'cifar10':
    config.data.name = 'cifar10'
    config.data.val_split = 'test'
    config.data.resize_size = 72
  else:
    config.data.name = 'imagenette/320px-v2'
    config.data.resize_size = 80
  optimizer = config.optimizer
  optimizer.schedule = 'polynomial'
  optimizer.learning_rate = _LEARNING_RATES[network]
  config.eval.every_epochs = 5
  config.guards.stall_steps = 10_000
  if recipe in ('linear', 'sqrt', 'lars'):
    config.batch_size *= _TIMES
    optimizer.warmup_epochs = config.num_epochs / 6
    optimizer.warmup_learning_rate = optimizer.learning_rate
    optimizer.learning_rate *= _TIMES if recipe == 'linear' else _TIMES**0.5
  if recipe in ('bn', 'lars'):
    config.data.std = (256.0, 256.0, 256.0)
  if recipe == 'lars':
    optimizer.lars_coefficient = 0.001
    optimizer.warmup_learning_rate = 1.0
    optimizer.learning_rate = 40.0
  return config
