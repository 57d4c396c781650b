"""torchvision's AlexNet, trained as in its references/classification.

  python -m alexnet_jax.main --config=configs/imagenet_torchvision.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Data: random-resized 224x224 crops and flips.
Training: batches of 256 (8 x 32), SGD in PyTorch's form with momentum 0.9, a
learning rate of 0.01, divided by 10 every 30 of 90 epochs, and weight decay
0.0001 on weights and biases. The last 143 images of an epoch, which fill no
batch, are skipped.

Hardware: one Cloud TPU host or one GPU.
Expected error on center crops: 43.48% top-1, 20.93% top-5. Not yet trained.
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
  # torchvision's values, times 255.
  config.data.mean = (123.675, 116.28, 103.53)
  config.data.std = (58.395, 57.12, 57.375)
  config.optimizer.weight_decay = 1e-4
  config.optimizer.rate_in_velocity = False
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = (30, 60)
  return config
