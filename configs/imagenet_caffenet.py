"""BVLC's CaffeNet, which pools before LRN, trained like Caffe's AlexNet.

  python -m alexnet_jax.main --config=configs/imagenet_caffenet.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Hardware: one Cloud TPU host or one GPU.
Expected error on center crops: 42.6% top-1, 19.6% top-5 (BVLC's snapshot of
step 310,000). Not yet trained.
"""

import ml_collections

from configs import imagenet_caffe


def get_config() -> ml_collections.ConfigDict:
  config = imagenet_caffe.get_config()
  config.model.name = 'caffenet'
  return config
