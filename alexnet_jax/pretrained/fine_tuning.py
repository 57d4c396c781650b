"""Starts a training run from the parameters of another network."""

import numpy as np

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import say, warn
from alexnet_jax.config.loading import Config
from alexnet_jax.learning import steps


def init_from(config: Config, state: steps.TrainState) -> steps.TrainState:
  """Returns the state with the best parameters of another workdir.

  The last layer keeps its new parameters if the number of classes differs.

  Args:
    config: `config.init_from` names the workdir.
    state: a freshly initialized state.

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
  if source.model.num_classes != config.model.num_classes:
    params[head] = state.params[head]
    kept = (
      f'; {head} is new: {config.model.num_classes} classes, not '
      f'{source.model.num_classes}'
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
