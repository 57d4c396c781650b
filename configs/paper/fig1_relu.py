"""Figure 1, solid line: a four-layer network with ReLUs on CIFAR-10.

  python -m alexnet_jax.data.prepare cifar10
  python -m alexnet_jax.main --config=configs/paper/fig1_relu.py
  python -m alexnet_jax.learning_rates --config=configs/paper/fig1_relu.py \
    --rates=0.0005,0.001,0.002,0.004,0.008 --workdir=runs/fig1_relu

"The learning rates for each network were chosen independently to make training
as fast as possible. No regularization of any kind was employed." The second
command finds the learning rate. The network was not published;
alexnet_jax/model/cifar10.py describes its substitute. The training error is
measured on each batch before its step.

The paper: it reaches 25% training error six times as fast as `fig1_tanh.py`'s.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.num_epochs = 15
  # A sixth of an epoch.
  config.log_every_steps = 65
  config.model.name = 'cifar10_relu'
  config.model.num_classes = 10
  config.data.name = 'cifar10'
  config.data.val_split = 'test'
  config.data.resize_size = 32
  config.data.crop_size = 32
  config.data.flip = False
  config.data.lighting = 'none'
  config.optimizer.learning_rate = 0.001
  config.optimizer.weight_decay = 0.0
  config.optimizer.schedule = 'constant'
  config.eval.batch_size = 500
  config.eval.every_epochs = 5
  config.checkpoint.every_steps = 0
  return config
