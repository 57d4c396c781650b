"""Loads the network of a workdir."""

from typing import Any, NamedTuple

from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config.saved import read_config
from alexnet_jax.data.preprocessing import Preprocessing, read_preprocessing
from alexnet_jax.model import AlexNet
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.runs import checkpoint, workdirs


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
  preprocessing: Preprocessing
  step: int
  best_step: int
  dropout_scaling: str


def load(workdir: epath.PathLike, step: str = 'best') -> Pretrained:
  """The network of a workdir, as it was trained or converted.

  Args:
    workdir: of a run, or one that `alexnet_jax.convert` made; local or gs://.
    step: 'best', 'latest' or the number of a saved step.

  Raises:
    UserError: there is no such network; the message says what there is.
    StorageError: it cannot be read.
  """
  folder = absolute(str(workdir))
  workdirs.check_files(folder)
  if not (folder / 'checkpoints').exists():
    checkpoint.restore_params(folder, step, {})  # Says what is missing.
  saved = read_config(folder)
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
