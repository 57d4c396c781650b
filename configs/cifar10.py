"""torchvision's AlexNet on CIFAR-10, with images enlarged to 72x72.

  python -m alexnet_jax.data.prepare cifar10
  python -m alexnet_jax.main --config=configs/cifar10.py

Hardware: one GPU or TPU core.
Time and expected error: unknown. We have not run it to the end.

bfloat16 is used if the host's CPU multiplies in it. To go on with a run on
another host, add the run's own --config.model.dtype=DTYPE.
"""

import ml_collections

from alexnet_jax.cli import machine
from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 128
  config.num_epochs = 30
  config.model.name = 'torchvision'
  config.model.num_classes = 10
  config.model.dtype = machine.fast_dtype()
  config.data.name = 'cifar10'
  config.data.val_split = 'test'
  # 63 pixels are the smallest input of this network.
  config.data.resize_size = 72
  config.data.crop_size = 63
  config.data.mean = 'channel'
  config.data.std = 'channel'
  config.data.lighting = 'none'
  return config
