"""Caffe's AlexNet on scikit-learn's handwritten digits: no download.

  python -m alexnet_jax.main --config=configs/digits.py

The network at its full widths on 67x67 pictures, the smallest that it takes.
`caffe` because its biases of 0.1 let the difference between two pictures
through sooner than the paper's ones do.

Hardware: two CPU cores, about two minutes. Expected: under 3% test error.
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
  # It leaves ln 10 at about step 120.
  config.guards.stall_steps = 200
  return config
