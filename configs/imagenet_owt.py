"""cuda-convnet2's one-column network ("One weird trick", 2014).

  python -m alexnet_jax.main --config=configs/imagenet_owt.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

The learning rate of weights is 0.01 x 250^(-i/3) in quarter i = 0 .. 3 of the
training. That of biases is 0.02, and 0.002 in the second half of the training;
if you change num_epochs, change that rule, too.

Hardware: one Cloud TPU host or one GPU.
Expected error on center crops: 42.55% top-1, 19.81% top-5; with ten crops:
40.42% top-1, 18.15% top-5. Not yet trained.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = 'owt'
  config.model.dropout_scaling = 'test'
  config.data.crop_size = 224
  config.data.lighting_rescale = True
  config.optimizer.schedule = 'discrete_exponential'
  config.optimizer.exponential_factor = 250.0
  config.optimizer.exponential_steps = 4
  config.optimizer.rules = (
    {'params': '*/bias', 'learning_rate': 0.02, 'weight_decay': 0.0},
    {'params': '*/bias', 'from_epoch': 45, 'learning_rate': 0.002},
  )
  return config
