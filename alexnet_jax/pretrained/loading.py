"""Loads the network of a workdir."""

from typing import Any, NamedTuple

from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config.saved import read_config
from alexnet_jax.data.preprocessing import Preprocessing, read_preprocessing
from alexnet_jax.model import AlexNet
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.runs import workdirs
from alexnet_jax.runs.params import restore_params


class Pretrained(NamedTuple):
  """A network with its parameters, from one checkpoint of a workdir.

  Attributes:
    model: the network.
    params: its parameters, float32 arrays on the host.
    preprocessing: how an image becomes the network's input.
    step: the checkpoint's step; 0 for converted weights.
    best_step: the step with the lowest validation error.
    dropout_scaling: 'train' or 'test'; see `layer_types.Dropout`.
  """

  model: AlexNet
  params: Any
  preprocessing: Preprocessing
  step: int
  best_step: int
  dropout_scaling: str


def load(workdir: epath.PathLike, step: str = 'best') -> Pretrained:
  """Loads the network of a workdir, as it was trained or converted.

  Args:
    workdir: the folder of a training run, or one that `alexnet_jax.convert`
      wrote; local or gs://.
    step: 'best' (lowest validation error), 'latest', or the number of a saved
      step.

  Raises:
    UserError: there is no such network; the message names what was found.
    StorageError: the workdir cannot be read.

  Example:
    network = load('runs/torchvision')
    p = network.preprocessing
    # pixels: RGB, 0 to 255, [N, p.crop_size, p.crop_size, 3].
    images = (pixels - p.mean_of_crops()) / p.std
    logits = network.model.apply({'params': network.params}, images)
  """
  folder = absolute(str(workdir))
  workdirs.check_files(folder)
  if not (folder / 'checkpoints').exists():
    restore_params(folder, step, {})  # Raises, and names the cure.
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
      f'{folder / "config.json"} does not describe a network that fits '
      f'preprocessing.json: {error!r}'
    ) from error
  found, best_step, params = restore_params(folder, step, shapes)
  scaling = saved['model'].get('dropout_scaling', 'train')
  return Pretrained(model, params, preprocessing, found, best_step, scaling)
