"""The authors' net 145, with the learning rates they set by hand.

  python -m alexnet_jax.main --config=configs/imagenet_krizhevsky2012.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Their notebook records the training (epochs from 0):

  epoch 0   weights 0.01, biases 0.02; pixels divided by 1.1
  epoch 25  weights 0.001
  epoch 51  weights 0.0001
  epoch 67  PCA lighting and the division by 1.1 off; conv1's weights 0.00001
  epoch 72  conv1 frozen
  epoch 79  weights 0.00001
  epoch 91  end

Two things differ. Each image draws its own crop and flip; the authors drew one
for every 32 images. The last 15 images of an epoch, which fill no batch of 128,
are skipped.

Hardware: one Cloud TPU host or one GPU.
Expected error with ten crops (--mode=eval --config.eval.crops=10): 40.66%
top-1, 18.21% top-5. Not yet trained.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.num_epochs = 91
  config.model.name = 'krizhevsky2012'
  config.model.dropout_scaling = 'test'
  config.data.crop_size = 224
  config.data.lighting_epochs = 67
  config.data.lighting_rescale = True
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = (25, 51, 79)
  config.optimizer.rules = (
    {'params': '*/bias', 'learning_rate': 0.02, 'weight_decay': 0.0},
    {'params': 'conv1/kernel', 'from_epoch': 67, 'learning_rate': 1e-5},
    {'params': 'conv1/*', 'from_epoch': 72, 'learning_rate': 0.0},
  )
  return config
