"""One column of 64-192-384-256-256 without LRN: torchvision's network.

  python -m alexnet_jax.main --config=configs/imagenet_onecolumn.py

Pictures warped to 256x256, random 227 crops, flips, PCA lighting, SGD .9 at
.01 divided by 10 on a plateau; tested on ten crops. At 227 pixels its conv1,
padded by 2, gives 56x56 maps; the pooled ones are 27x27 as at 224.

Hardware: one Cloud TPU host or one GPU. Expected: near torchvision's published
43.5% top-1 and 20.9% top-5 error (centre crop at 224, its own recipe; ten crops
do better). Not run by us: we had no ImageNet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = 'torchvision'
  config.data.resize = 'warp'
  config.eval.crops = 10
  return config
