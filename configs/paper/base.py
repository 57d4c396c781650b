"""The base of the ablations: each of them changes one thing.

  python -m alexnet_jax.main --config=configs/paper/base.py:DATA

DATA is one of

  imagenet    configs/imagenet.py, the paper's own setting
  imagenette  configs/imagenette.py for five epochs, the last at a tenth of the
              learning rate: two CPU cores, about 25 minutes
  imagenette227
              the same with the plateau rule, 60 epochs in batches of 32:
              two CPU cores, about five hours
  imagenette127
              imagenette227 for 40 epochs, on crops of 127 from images of 144
              pixels: two CPU cores, about 70 minutes
  cifar10     Caffe's AlexNet on CIFAR-10 enlarged to 72x72, crops of 67: one
              CPU core, about an hour
  digits      configs/digits.py with PCA lighting: two CPU cores, two minutes

After the last step the training split is evaluated, too, without dropout. An
error far below the validation error shows overfitting.
"""

import ml_collections

from configs import cifar10, digits, imagenet, imagenette

_BASES = {
  'imagenet': imagenet,
  'imagenette': imagenette,
  'imagenette227': imagenette,
  'imagenette127': imagenette,
  'cifar10': cifar10,
  'digits': digits,
}


def get_config(data: str = 'imagenet') -> ml_collections.ConfigDict:
  if data not in _BASES:
    raise ValueError(f'dataset {data!r} is not one of {", ".join(_BASES)}')
  config = _BASES[data].get_config()
  # The same on every machine, as runs are compared.
  config.model.dtype = 'float32'
  config.eval.train_split = True
  config.data.lighting = 'sqrt_eigenvalue'
  if data == 'imagenette':
    config.num_epochs = 5
    config.optimizer.drop_epochs = (4,)
  if data in ('imagenette227', 'imagenette127'):
    config.batch_size = 32
    config.num_epochs = 60
    config.optimizer.learning_rate = 0.002
    config.optimizer.schedule = 'plateau'
    config.optimizer.drop_epochs = ()
    config.optimizer.plateau_patience = 3
  if data == 'imagenette127':
    # Small enough for three seeds of each ablation.
    config.num_epochs = 40
    config.data.resize_size = 144
    config.data.crop_size = 127
  if data == 'cifar10':
    config.batch_size = 32
    config.num_epochs = 12
    config.model.name = 'caffe'
    config.data.crop_size = 67
    config.data.std = (1.0, 1.0, 1.0)
    config.optimizer.learning_rate = 0.002
    config.optimizer.schedule = 'step'
    config.optimizer.drop_epochs = (10,)
  return config
