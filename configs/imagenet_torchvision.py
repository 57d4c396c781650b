"""torchvision's AlexNet, by its references/classification.

  python -m alexnet_jax.main --config=configs/imagenet_torchvision.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Random-resized 224 crops and flips; batch 256 (8 x 32), SGD .9 at .01 divided by
10 each 30 of 90 epochs, decay 1e-4 on weights and biases, the rate outside the
velocity, as PyTorch has it. Here an epoch's last 143 pictures, which fill no
batch, are left out.

Hardware: one Cloud TPU host or one GPU. Expected: 43.48% top-1 and 20.93% top-5
error on centre crops. Not run by us: we had no ImageNet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 256
  config.model.name = 'torchvision'
  config.data.crop_size = 224
  config.data.train_crop = 'random_resized'
  config.data.lighting = 'none'
  # torchvision's, times 255.
  config.data.mean = (123.675, 116.28, 103.53)
  config.data.std = (58.395, 57.12, 57.375)
  config.optimizer.weight_decay = 1e-4
  config.optimizer.rate_in_velocity = False
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = (30, 60)
  return config
