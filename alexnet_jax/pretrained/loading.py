"""Loads a network: a published one, a file of weights, or a workdir's."""

import os
from typing import Any, NamedTuple

from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute, local_file
from alexnet_jax.cli.terminal import note
from alexnet_jax.config.saved import read_config
from alexnet_jax.data.preprocessing import Preprocessing, read_preprocessing
from alexnet_jax.model import AlexNet
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.pretrained import conversion, published
from alexnet_jax.runs import workdirs
from alexnet_jax.runs.params import restore_params


class Pretrained(NamedTuple):
  """A network with its parameters.

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


def load(source: epath.PathLike, step: str = 'best') -> Pretrained:
  """Loads a network, as it was trained or published.

  Args:
    source: one of these:
      - 'torchvision', 'caffe' or 'caffenet': published weights, which are
        downloaded once into the user's cache;
      - a file of weights, local, on gs:// or the URL of one; see
        `conversion.read`;
      - the folder of a training run, or one that `alexnet_jax.convert` wrote;
        local or on gs://. Write ./caffe for a folder of such a name.
    step: of a training run: 'best' (lowest validation error), 'latest', or the
      number of a saved step.

  Raises:
    UserError: there is no such network; the message names what was found.
    StorageError: the workdir cannot be read, or the cache not be written.

  Example:
    network = load('torchvision')
    p = network.preprocessing
    # pixels: RGB, 0 to 255, [N, p.crop_size, p.crop_size, 3].
    images = (pixels - p.mean_of_crops()) / p.std
    logits = network.model.apply({'params': network.params}, images)
  """
  if fetched := published.fetch(source):
    with published.naming(fetched):
      return _of_file(fetched.path, conversion.Options(mean=fetched.mean), step)
  folder = absolute(os.fspath(source))
  if folder.is_file():
    with local_file(folder) as path:
      return _of_file(path, conversion.DEFAULT, step)
  if not folder.exists() and '/' not in os.fspath(source):
    raise UserError(
      f'no checkpoint in {folder}, which does not exist. Published networks '
      f'are called {", ".join(published.PUBLISHED)}'
    )
  return _of_workdir(folder, step)


def _of_file(path: str, options: conversion.Options, step: str) -> Pretrained:
  if step not in ('best', 'latest', '0'):
    raise UserError(f'{path} is a file of weights, without a step {step!r}')
  converted = conversion.read(path, options)
  for line in converted.notes:
    note(line)
  return Pretrained(
    build_model(converted.config['model']),
    converted.params,
    converted.preprocessing,
    step=0,
    best_step=0,
    dropout_scaling='train',
  )


def _of_workdir(folder: epath.Path, step: str) -> Pretrained:
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
