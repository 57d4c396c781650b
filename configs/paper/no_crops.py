"""Without random crops and flips (section 4.1).

  python -m alexnet_jax.main --config=configs/paper/no_crops.py:DATA

DATA is one of those of base.py. Each training image is shown
by its central crop. The paper: without random crops and flips, the network
"suffers from substantial overfitting".
"""

import ml_collections

from configs.paper import base


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  config = base.get_config(data)
  config.data.train_crop = 'center'
  config.data.flip = False
  return config
