"""Fine-tunes trained weights on images and classes of your own.

  python -m alexnet_jax.data.resized --source=photos --name=photos \\
    --data_dir=DIR
  python -m alexnet_jax.main --config=configs/finetune.py \\
    --config.data.name=photos_256 --config.data.data_dir=DIR \\
    --config.init_from=torchvision --workdir=runs/photos

The network, the size of the images and their normalization are those that the
weights were trained with; the number of classes is that of the dataset. Set a
field, such as --config.data.crop_size=200, to change it. The last layer is
new, and its learning rate is ten times that of the others.

Hardware: two CPU cores, on which the paper's network trained at 36 images/s in
bfloat16 (beside other work).
"""

import ml_collections
from ml_collections import config_dict

from alexnet_jax.cli import machine
from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 32
  config.num_epochs = 10
  config.log_every_steps = 10
  config.model.dtype = machine.fast_dtype()
  with config.ignore_type():
    # From the preprocessing of init_from.
    config.model.name = config_dict.placeholder(str)
    config.model.dropout_scaling = config_dict.placeholder(str)
    config.data.resize = config_dict.placeholder(str)
    config.data.resize_size = config_dict.placeholder(int)
    config.data.crop_size = config_dict.placeholder(int)
    config.data.mean_crop = config_dict.placeholder(str)
    config.data.mean = config_dict.placeholder(object)
    config.data.std = config_dict.placeholder(object)
  config.data.lighting = 'none'
  config.init_head = 'new'
  config.optimizer.learning_rate = 0.001
  config.optimizer.rules = ({'params': 'fc8/*', 'multiplier': 10.0},)
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = (7,)
  return config
