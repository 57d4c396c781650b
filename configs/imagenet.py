"""The paper's network on ImageNet, trained by the paper's text.

  python -m alexnet_jax.main --config=configs/imagenet.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Batch 128, SGD .9 at .01 with decay .0005, the rate divided by 10 when the
validation error stops improving, at most three times; 227 crops of 256x256,
flips, PCA lighting; about 90 epochs.

Hardware: one Cloud TPU host or one GPU. The paper's took five to six days on
two GTX 580. Expected: 40.7% top-1 and 18.2% top-5 error with ten crops (the
paper's Table 2, one network). Not run by us: we had no ImageNet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  # "At test time, we use all the neurons but multiply their outputs by 0.5."
  config.model.dropout_scaling = 'test'
  return config
