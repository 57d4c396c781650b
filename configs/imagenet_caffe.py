"""BVLC Caffe's AlexNet, trained as in its solver.prototxt.

  python -m alexnet_jax.main --config=configs/imagenet_caffe.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Data: images warped to 256x256, 227x227 crops, minus the part of the mean image
under the crop, flips.
Training: batches of 256, SGD with momentum 0.9 and a learning rate of 0.01,
which is divided by 10 every 100,000 of 450,000 steps (5,004 an epoch). Biases
have twice the learning rate and no weight decay.

Hardware: one Cloud TPU host or one GPU.
Expected error on center crops: 42.9% top-1, 19.8% top-5 (BVLC's snapshot of
step 360,000). Not yet trained.
"""

import ml_collections

from configs import default

# ImageNet has 1,281,167 training images; a batch has 256.
_STEPS_PER_EPOCH = 5004


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 256
  config.num_train_steps = 450_000
  config.model.name = 'caffe'
  config.data.resize = 'warp'
  config.data.mean_crop = 'same'
  config.data.lighting = 'none'
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = tuple(
    step / _STEPS_PER_EPOCH for step in (100_000, 200_000, 300_000, 400_000)
  )
  config.optimizer.rules = (
    {'params': '*/bias', 'multiplier': 2.0, 'weight_decay': 0.0},
  )
  return config
