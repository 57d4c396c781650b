"""Starts a training run from the parameters of another network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.cli.terminal import say, warn
from alexnet_jax.config.loading import Config, flatten
from alexnet_jax.config.saved import read_config
from alexnet_jax.data.preprocessing import Preprocessing, read_preprocessing
from alexnet_jax.learning import steps
from alexnet_jax.pretrained import published

# What a network expects of its input, and the network itself.
_FROM_SOURCE = (
  'model.name',
  'model.dropout_scaling',
  'data.resize',
  'data.resize_size',
  'data.crop_size',
  'data.mean_crop',
  'data.mean',
  'data.std',
)


def unset_fields(config: Config) -> list[str]:
  """Returns the fields that are None and come from `init_from`."""
  values = flatten(config)
  return [name for name in _FROM_SOURCE if values[name] is None]


def filled(config: Config, workdir: epath.Path) -> Config:
  """Returns the config with its unset fields from the run, or `init_from`.

  Args:
    config: some fields of `_FROM_SOURCE` may be None.
    workdir: of the run; if it has a config.json, that counts.

  Raises:
    UserError: there is neither a run nor `init_from`, or they are invalid.
  """
  unset = unset_fields(config)
  if not unset:
    return config
  if saved := read_config(workdir):
    values = flatten(saved)
  elif config.init_from:
    values = _expected_by(config.init_from)
  else:
    raise UserError(
      f'{", ".join(unset)} of the config are not set: give '
      '--config.init_from=WORKDIR, of trained or converted weights'
    )
  config = config.copy_and_resolve_references()
  with config.ignore_type():
    for name in unset:
      if values.get(name) is None:
        raise UserError(f'{workdir}/config.json is corrupt: no {name}')
      value = values[name]
      config.update_from_flattened_dict(
        {name: tuple(value) if isinstance(value, list) else value}
      )
  return config


def _expected_by(source: str) -> dict[str, Any]:
  """Returns the fields of a network, and of its input."""
  saved, p = _described(source)
  return {
    'model.dropout_scaling': 'train',  # Of converted weights.
    **flatten(saved),
    'data.resize': p.resize,
    'data.resize_size': p.resize_size,
    'data.crop_size': p.crop_size,
    'data.mean_crop': p.mean_crop,
    'data.mean': 'init_from' if p.mean.ndim > 1 else p.mean.tolist(),
    'data.std': p.std.tolist(),
  }


def _described(source: str) -> tuple[dict[str, Any], Preprocessing]:
  """Returns the config and the preprocessing of published weights or others."""
  if published.fetch(source) or absolute(source).is_file():
    network = pretrained.load(source)
    p = network.preprocessing
    if p.mean.ndim > 1:
      raise UserError(
        f"init_from={source} subtracts Caffe's mean image, which must be in a "
        f'workdir: python -m alexnet_jax.convert {source} runs/weights, then '
        'init_from=runs/weights'
      )
    return {'model': {'name': network.model.architecture.name}}, p
  folder = absolute(source)
  saved = read_config(folder)
  if saved is None:
    raise UserError(
      f'no config.json in {source} (init_from): give the workdir of a run, or '
      'of converted weights'
    )
  return saved, read_preprocessing(folder)


def init_from(
  config: Config, state: steps.TrainState, class_names: Sequence[str] = ()
) -> steps.TrainState:
  """Returns the state with the best parameters of another network.

  The last layer keeps its new parameters if the number of classes differs, or
  with `init_head='new'`.

  Args:
    config: `config.init_from` names the source; see `pretrained.load`.
    state: a freshly initialized state.
    class_names: those of the dataset to train on.

  Raises:
    UserError: the workdir holds another network, or one that was trained with
      another dropout scaling or crop size.
  """
  source = pretrained.load(config.init_from)
  name = source.model.architecture.name
  if name != config.model.name:
    raise UserError(
      f'{config.init_from} (init_from) holds the network {name!r}, not '
      f'{config.model.name!r} (model.name)'
    )
  if source.dropout_scaling != config.model.dropout_scaling:
    raise UserError(
      f'{config.init_from} (init_from) was trained with '
      f'model.dropout_scaling={source.dropout_scaling}: set the same, or the '
      'weights give another network'
    )
  params = dict(source.params)
  head = source.model.architecture.layer_names[-1]
  kept = ''
  before = source.preprocessing.class_names
  if source.model.num_classes != config.model.num_classes:
    params[head] = state.params[head]
    kept = (
      f'; {head} is new: {config.model.num_classes} classes, not '
      f'{source.model.num_classes}'
    )
  elif config.init_head == 'new':
    params[head] = state.params[head]
    kept = f'; {head} is new'
  elif before and class_names and tuple(class_names) != before:
    i = next(i for i, n in enumerate(class_names) if before[i : i + 1] != (n,))
    other = before[i] if i < len(before) else 'none'
    warn(
      f'{head} keeps the parameters of other classes: class {i} was {other!r} '
      f'and is {class_names[i]!r}. For new ones: --config.init_head=new'
    )
  for layer, leaves in state.params.items():
    for kind, leaf in leaves.items():
      if params[layer][kind].shape != leaf.shape:
        raise UserError(
          f'{config.init_from} (init_from): {layer}/{kind} is '
          f'{params[layer][kind].shape}, {leaf.shape} expected (data.crop_size '
          f'is {source.preprocessing.crop_size} there)'
        )
  say(
    f'starting from the parameters of {config.init_from}, step {source.step}'
    + kept
  )
  std, trained_std = config.data.std, source.preprocessing.std
  if std != 'channel' and not np.allclose(std, trained_std, rtol=0.2):
    warn(
      f'{config.init_from} (init_from) was trained on pixels divided by '
      f'{trained_std.tolist()}, not by {list(std)} (data.std): expect a poor '
      'start'
    )
  return state.replace(params=params)
