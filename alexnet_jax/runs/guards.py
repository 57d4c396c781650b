"""When a run should stop, and what it says then (`config.guards`)."""

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
  """Refuses a training in which nothing can be learned.

  Args:
    config: the whole config.
    params: a tree of the parameters' names.
    steps_per_epoch: training steps in an epoch.
    total_steps: of the whole training.

  Raises:
    UserError: an epoch has too few steps, or every learning rate becomes 0.
  """
  least = config.guards.min_epoch_steps
  if steps_per_epoch < least:
    raise UserError(
      f'an epoch has {steps_per_epoch} steps, at least {least} expected '
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
      'frozen_layers): nothing is learned there; '
      '--config.guards.zero_learning_rate=off lets it be so'
    )


def check_finite(
  config: Config, state: steps.TrainState, saved: int | None
) -> None:
  """Stops a run in which something is NaN or infinite.

  Args:
    config: the whole config.
    state: of this moment.
    saved: the step of the latest checkpoint; None if there is none.

  Raises:
    TrainingStopped: it names the step.
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
    f'the checkpoint of step {saved} is kept'
    if saved
    else 'nothing had been saved before'
  )
  raise TrainingStopped(
    f'{what} NaN or infinite; {kept}. Lower optimizer.learning_rate, or look '
    'at the pictures of that step, and start again in another --workdir'
  )


def stalled(
  config: Config, step: int, loss: float, num_classes: tuple[int, ...]
) -> bool:
  """Whether a loss is that of guessing, so late that it should not be.

  Args:
    config: the whole config.
    step: steps done.
    loss: the mean training loss of late, nats.
    num_classes: of the data set, and outputs of the network.
  """
  guards = config.guards
  if guards.stall == 'off' or step < guards.stall_steps:
    return False
  return any(
    abs(loss - math.log(n)) <= guards.stall_margin for n in num_classes
  )


def health_lines(health: Health) -> list[str]:
  """A table of the layers, and what catches the eye in it."""
  head = 'dead ReLUs', 'activation', '|update|/|weight|'
  lines = [f'  {"layer":<8}{head[0]:>12}{head[1]:>14}{head[2]:>20}']
  for name, of in health.items():
    dead = '-' if math.isnan(of['dead']) else f'{of["dead"]:.1%}'
    lines.append(
      f'  {name:<8}{dead:>12}{of["activation"]:>14.3g}{of["update"]:>20.2g}'
    )
  return [*lines, '  ' + _verdict(health)]


# A unit that no picture of a batch reaches may be unlucky; most of a layer not.
_MANY_DEAD = 0.5
# A weight that moves by less than this in a step needs 10^5 of them.
_SMALL_UPDATE = 1e-5
_LARGE_UPDATE = 1e-1


def _verdict(health: Health) -> str:
  for name, of in health.items():
    if of['dead'] > _MANY_DEAD:
      return (
        f'{name} is the first layer most of whose units are dead: lower '
        'optimizer.learning_rate, or warm up (optimizer.warmup_epochs)'
      )
  updates = [of['update'] for of in health.values()]
  if max(updates) > _LARGE_UPDATE:
    return 'the weights move by over a tenth in a step: lower the learning rate'
  if max(updates) < _SMALL_UPDATE:
    return 'no layer moves to speak of: raise the learning rate'
  return (
    'no layer is dead, and all move: it may only need more steps '
    '(guards.stall_steps)'
  )
