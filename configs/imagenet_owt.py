"""cuda-convnet2's one-column network on one GPU ("One weird trick", 2014).

  python -m alexnet_jax.main --config=configs/imagenet_owt.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Weights learn at .01 x 250^(-i/3) in the i-th quarter of the training, biases at
.02 and in its second half at .002 (change that rule with num_epochs).

Hardware: one Cloud TPU host or one GPU. Expected: 42.55% top-1 and 19.81% top-5
error on centre crops, 40.42% and 18.15% on ten. Not run by us: we had no
ImageNet.
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
