"""A trained or converted network, ready for use.

model, params, preprocessing, step = pretrained.load('runs/imagenet')[:4]
logits = model.apply({'params': params}, images)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from alexnet_jax import checkpoint, workdirs
from alexnet_jax import config as config_lib
from alexnet_jax.data import preprocess
from alexnet_jax.errors import UserError
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.ablations import ablated


class Pretrained(NamedTuple):
  """What a workdir holds of one checkpoint.

  Attributes:
    model: the network.
    params: its parameters, float32 host arrays.
    preprocessing: what a picture goes through before it.
    step: the checkpoint's; 0 of converted weights.
    best_step: the step of the least validation error.
    dropout_scaling: 'train' or 'test'; see `architectures.Dropout`.
  """

  model: AlexNet
  params: Any
  preprocessing: preprocess.Preprocessing
  step: int
  best_step: int
  dropout_scaling: str


def build_model(config: Any, platform: str | None = None) -> AlexNet:
  """The network that `config.model`, or that of a config.json, names.

  Args:
    config: of the model.
    platform: for which it is to be fast; JAX's own where not given.
  """
  platform = platform or jax.default_backend()
  changes = {'scale_at': config.get('dropout_scaling', 'train')}
  if config.get('dropout_rate') is not None:
    changes['rate'] = config['dropout_rate']
  architecture = ablated(
    ARCHITECTURES[config['name']], config.get('ablations', ())
  )
  return AlexNet(
    architecture.with_dropout(**changes),
    num_classes=config['num_classes'],
    dtype=jnp.dtype(config.get('dtype', 'float32')),
    conv_batch=128 if platform == 'tpu' else None,
  )


def read_preprocessing(workdir: epath.Path) -> preprocess.Preprocessing:
  """What training learned about its pictures."""
  path = workdir / 'preprocessing.json'
  if not path.exists():
    raise UserError(
      f'no preprocessing.json in {workdir}: not a run of this program; give '
      'the --workdir of a trained run'
    )
  try:
    return preprocess.Preprocessing.from_json(path.read_text())
  except (ValueError, KeyError, TypeError, AttributeError, OSError,
          ArithmeticError, RecursionError) as error:  # fmt: skip
    raise UserError(f'{path} is damaged: {error!r}') from error


def load(workdir: epath.PathLike, step: str = 'best') -> Pretrained:
  """The network of a workdir, as it was trained or converted.

  Args:
    workdir: of a run, or one that `alexnet_jax.convert` made; local or gs://.
    step: 'best', 'latest' or the number of a saved step.

  Raises:
    UserError: there is no such network; the message says what there is.
    StorageError: it cannot be read.
  """
  folder = config_lib.absolute(str(workdir))
  workdirs.check_files(folder)
  if not (folder / 'checkpoints').exists():
    checkpoint.restore_params(folder, step, {})  # Says what is missing.
  saved = config_lib.read_config(folder)
  if saved is None or 'model' not in saved:
    raise UserError(f'{folder} has no config.json that names a network')
  preprocessing = read_preprocessing(folder)
  try:
    model = build_model(saved['model'])
    shapes = abstract_params(model, preprocessing.crop_size)
  except (KeyError, TypeError, ValueError, AttributeError,
          ArithmeticError) as error:  # fmt: skip
    raise UserError(
      f'{folder / "config.json"} names no network that preprocessing.json '
      f'fits: {error!r}'
    ) from error
  found, best_step, params = checkpoint.restore_params(folder, step, shapes)
  scaling = saved['model'].get('dropout_scaling', 'train')
  return Pretrained(model, params, preprocessing, found, best_step, scaling)


def abstract_params(model: AlexNet, image_size: int) -> Any:
  """Shapes and dtypes of a network's parameters at an input size."""
  images = np.zeros((1, image_size, image_size, 3))
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']
