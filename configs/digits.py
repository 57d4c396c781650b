"""The paper's network on scikit-learn's handwritten digits: no download.

  python -m alexnet_jax.main --config=configs/digits.py

Hardware: two CPU cores.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 32
  config.num_epochs = 10
  config.log_every_steps = 15
  config.model.name = 'paper'
  config.model.num_classes = 10
  config.data.name = 'digits'
  config.data.val_split = 'test'
  # 67 is the smallest input of the paper's network.
  config.data.resize_size = 72
  config.data.crop_size = 67
  # A mirrored digit is not a digit.
  config.data.flip = False
  config.data.lighting = 'none'
  return config
