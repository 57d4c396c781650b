"""Caffe's AlexNet on scikit-learn's handwritten digits, without a download.

  python -m alexnet_jax.main --config=configs/digits.py

The network has its full width; 67x67 images are the smallest that it accepts.
It learns sooner than the paper's: its biases are 0.1 instead of 1, so more of
the difference between two images passes.

Hardware: two CPU cores.
Time: about two minutes.
Expected test error: below 3% top-1.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 32
  config.num_epochs = 11
  config.log_every_steps = 15
  config.model.name = 'caffe'
  config.model.num_classes = 10
  config.data.name = 'digits'
  config.data.val_split = 'test'
  config.data.resize_size = 72
  config.data.crop_size = 67
  # A mirrored digit is not a digit.
  config.data.flip = False
  config.data.lighting = 'none'
  config.optimizer.learning_rate = 0.005
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = (9,)
  # The loss leaves ln 10 at about step 120.
  config.guards.stall_steps = 200
  return config
