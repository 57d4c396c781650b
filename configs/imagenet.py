"""The paper's network on ImageNet, trained as the paper says.

  python -m alexnet_jax.main --config=configs/imagenet.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Data: 227x227 crops of 256x256 images, flips, PCA lighting.
Training: batches of 128, SGD with momentum 0.9, a learning rate of 0.01 and
weight decay 0.0005, 90 epochs. The learning rate is divided by 10 when the
validation error stops improving, at most three times.

Hardware: one Cloud TPU host or one GPU.
Time: five to six days in the paper, on two GTX 580.
Expected error with ten crops: 40.7% top-1, 18.2% top-5 (the paper's Table 2,
one network). Not yet trained: a few steps on 200 images.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  # "At test time, we use all the neurons but multiply their outputs by 0.5."
  config.model.dropout_scaling = 'test'
  return config
