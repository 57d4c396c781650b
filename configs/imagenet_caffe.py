"""BVLC Caffe's AlexNet, by its solver.prototxt.

  python -m alexnet_jax.main --config=configs/imagenet_caffe.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Pictures warped to 256x256, minus the mean image under the crop, 227 crops,
flips; batch 256, SGD .9 at .01 divided by 10 each 100,000 of 450,000 steps
(5,004 an epoch), biases at twice the rate and without decay.

Hardware: one Cloud TPU host or one GPU. Expected: 42.9% top-1 and 19.8% top-5
error on centre crops (BVLC's snapshot of step 360,000). Not run by us: we had
no ImageNet.
"""

import ml_collections

from configs import default

# Of ImageNet's 1,281,167 training pictures in batches of 256.
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
