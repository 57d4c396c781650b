"""Stops a training run that cannot succeed (`config.guards`)."""

import math
from typing import Any

import jax
import numpy as np

from alexnet_jax.cli.errors import TrainingStopped, UserError
from alexnet_jax.config.loading import Config
from alexnet_jax.learning import optimizer, steps
from alexnet_jax.learning.health import Health


def check_before(
  config: Config, params: Any, steps_per_epoch: int, total_steps: int
) -> None:
  """Refuses a training that learns nothing, before its first step.

  Args:
    config: the config of the run.
    params: a tree with the names of the parameters.
    steps_per_epoch: training steps in an epoch.
    total_steps: the number of steps of the training.

  Raises:
    UserError: an epoch has too few steps, or at some step every learning rate
      is 0.
  """
  minimum = config.guards.min_epoch_steps
  if steps_per_epoch < minimum:
    raise UserError(
      f'an epoch has {steps_per_epoch} steps, at least {minimum} expected '
      '(guards.min_epoch_steps): lower batch_size, or give more images '
      '(data.train_split)'
    )
  if config.guards.zero_learning_rate == 'off':
    return
  rates = optimizer.rates_of(config.optimizer, steps_per_epoch, total_steps)
  every_step: Any = np.arange(total_steps)
  greatest = np.zeros(total_steps)
  for rate in jax.tree.leaves(rates(params, every_step, 1.0).learning_rate):
    greatest = np.maximum(greatest, rate)
  if not greatest.all():
    raise UserError(
      'the learning rate of every parameter is 0 from step '
      f'{np.argmin(greatest)} on (optimizer.learning_rate, rules, '
      'frozen_layers). Raise one, or allow it by '
      '--config.guards.zero_learning_rate=off'
    )


def check_finite(
  config: Config, state: steps.TrainState, saved: int | None
) -> None:
  """Stops a run whose loss, gradients or parameters are NaN or infinite.

  Args:
    config: the config of the run.
    state: the current one.
    saved: the step of the latest checkpoint; None if there is none.

  Raises:
    TrainingStopped: a number is not finite; the message has the first such
      step.
  """
  if config.guards.not_finite == 'off':
    return
  step = int(state.not_finite)
  what = f'the loss or the gradient of step {step} is'
  if not step:
    if steps.all_finite(state.params):
      return
    what = f'at step {int(state.step)} some parameters are'
  kept = (
    f'the checkpoint of step {saved} is kept' if saved else 'nothing was saved'
  )
  raise TrainingStopped(
    f'{what} NaN or infinite; {kept}. Lower optimizer.learning_rate, or check '
    'the images of that step, and train again in another --workdir'
  )


def stalled(
  config: Config, step: int, loss: float, num_classes: tuple[int, ...]
) -> bool:
  """Whether the loss is still that of guessing, after `guards.stall_steps`.

  Args:
    config: the config of the run.
    step: steps done.
    loss: mean training loss since the last log line, in nats.
    num_classes: classes of the dataset, outputs of the network. Guessing among
      n classes has a loss of ln(n).
  """
  guards = config.guards
  if guards.stall == 'off' or step < guards.stall_steps:
    return False
  return any(
    abs(loss - math.log(n)) <= guards.stall_margin for n in num_classes
  )


def health_lines(health: Health) -> list[str]:
  """Returns a table of the layers and, as the last line, advice.

  Args:
    health: `health.layer_health`.

  Example:
    >>> conv1 = {'dead': 0.9, 'activation': 0.01, 'update': 1e-3}
    >>> health_lines({'conv1': conv1})[-1].split(':')[0]
    '  conv1 is the first layer with over half of its units dead'
  """
  head = 'dead ReLUs', 'activation', '|update|/|weight|'
  lines = [f'  {"layer":<8}{head[0]:>12}{head[1]:>14}{head[2]:>20}']
  for name, of in health.items():
    dead = '-' if math.isnan(of['dead']) else f'{of["dead"]:.1%}'
    lines.append(
      f'  {name:<8}{dead:>12}{of["activation"]:>14.3g}{of["update"]:>20.2g}'
    )
  return [*lines, '  ' + _advice(health)]


# Some units may be dead for one batch by chance; most of a layer is not.
_MANY_DEAD = 0.5
# A weight that changes by less than this per step needs 10^5 steps.
_SMALL_UPDATE = 1e-5
_LARGE_UPDATE = 1e-1


def _advice(health: Health) -> str:
  for name, of in health.items():
    if of['dead'] > _MANY_DEAD:
      return (
        f'{name} is the first layer with over half of its units dead: lower '
        'optimizer.learning_rate, or warm up (optimizer.warmup_epochs)'
      )
  updates = [of['update'] for of in health.values()]
  if max(updates) > _LARGE_UPDATE:
    return 'weights change by over a tenth per step: lower the learning rate'
  if max(updates) < _SMALL_UPDATE:
    return 'the weights hardly change: raise the learning rate'
  return (
    'no layer is dead, and all weights change: training may need more steps '
    '(guards.stall_steps)'
  )
