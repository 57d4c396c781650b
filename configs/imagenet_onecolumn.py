"""torchvision's network (one column, no LRN), trained like the paper's.

  python -m alexnet_jax.main --config=configs/imagenet_onecolumn.py

Data: images warped to 256x256, random 227x227 crops, flips, PCA lighting.
Training: batches of 128, SGD with momentum 0.9 and a learning rate of 0.01,
which is divided by 10 on a plateau. Evaluation: ten crops.

The convolutions have 64, 192, 384, 256 and 256 kernels. At 227 pixels, conv1,
with a padding of 2, gives 56x56 maps; pooled they are 27x27, as at 224 pixels.

Hardware: one Cloud TPU host or one GPU.
Expected error: near torchvision's 43.5% top-1 and 20.9% top-5, which are on
center crops of 224 pixels and with its own recipe; ten crops lower the error.
Not yet trained.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = 'torchvision'
  config.data.resize = 'warp'
  config.eval.crops = 10
  return config
