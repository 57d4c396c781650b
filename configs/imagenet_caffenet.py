"""BVLC's CaffeNet: pools before it normalizes; trained as Caffe's AlexNet.

  python -m alexnet_jax.main --config=configs/imagenet_caffenet.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Hardware: one Cloud TPU host or one GPU. Expected: 42.6% top-1 and 19.6% top-5
error on centre crops (BVLC's snapshot of step 310,000). Not run by us: we had
no ImageNet.
"""

import ml_collections

from configs import imagenet_caffe


def get_config() -> ml_collections.ConfigDict:
  config = imagenet_caffe.get_config()
  config.model.name = 'caffenet'
  return config
