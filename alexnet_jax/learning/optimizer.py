"""The paper's SGD, its schedules, and decay on a plateau (section 5)."""

import fnmatch
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[jax.Array | int], jax.Array]


class Rates(NamedTuple):
  """What each parameter learns by at one step: trees like the parameters.

  Attributes:
    learning_rate: 0 holds a parameter where it is.
    weight_decay: multiplied by the learning rate and the weight.
  """

  learning_rate: Any
  weight_decay: Any


def paper_sgd(
  momentum: float = 0.9, rate_in_velocity: bool = True
) -> optax.GradientTransformationExtraArgs:
  """SGD with momentum, in the paper's form (section 5) or PyTorch's.

  The paper, cuda-convnet and Caffe have the learning rate inside the velocity:

    v <- momentum v - weight_decay lr w - lr dL/dw
    w <- w + v

  PyTorch (and `optax.sgd`) has it outside, so that a drop of the rate also
  shrinks the steps already in the velocity. After a drop the two are different
  trainings:

    v <- momentum v + weight_decay w + dL/dw
    w <- w - lr v

  In either a parameter whose learning rate is 0 does not move, whatever its
  velocity (cuda-convnet's `Weights::update` too leaves it alone).

  The rates are given at each update: `tx.update(grads, state, params,
  rates=rates)`.

  Args:
    momentum: share of the velocity that is kept.
    rate_in_velocity: the paper's form, or PyTorch's.
  """
  velocity = optax.trace(momentum)

  def update(grads, state, params=None, *, rates, **extra_args):
    del extra_args
    decayed = jax.tree.map(
      lambda g, w, decay: g + decay * w, grads, params, rates.weight_decay
    )

    def scale(tree):
      return jax.tree.map(lambda x, lr: -lr * x, tree, rates.learning_rate)

    if rate_in_velocity:
      moves, state = velocity.update(scale(decayed), state)
    else:
      v, state = velocity.update(decayed, state)
      moves = scale(v)
    held = jax.tree.map(
      lambda move, lr: jnp.where(lr > 0, move, 0), moves, rates.learning_rate
    )
    return held, state

  return optax.GradientTransformationExtraArgs(velocity.init, update)


def rates_of(
  config: Any, steps_per_epoch: int, total_steps: int
) -> Callable[[Any, jax.Array | int, jax.Array | float], Rates]:
  """The rates of each parameter by step: the schedule, and `rules` over it.

  Args:
    config: `config.optimizer`; configs/default.py says what a rule is.
    steps_per_epoch: training steps in an epoch.
    total_steps: of the whole training.

  Returns:
    A function of the parameters (their names matter, not their values), the
    step (from 0) and the plateau's scale.
  """
  schedule = learning_rate_schedule(config, steps_per_epoch, total_steps)
  rules = [dict(rule) for rule in config.rules]
  rules += [
    {'params': f'{layer}/*', 'learning_rate': 0.0}
    for layer in config.frozen_layers
  ]

  def of_one(name, step, scheduled):
    rate, decay = scheduled, config.weight_decay
    for rule in rules:
      if not fnmatch.fnmatchcase(name, rule['params']):
        continue
      first = round(rule.get('from_epoch', 0) * steps_per_epoch)
      if 'learning_rate' in rule:
        rate = _from(first, step, rule['learning_rate'], rate)
      if 'multiplier' in rule:
        rate = _from(first, step, rule['multiplier'] * scheduled, rate)
      if 'weight_decay' in rule:
        decay = _from(first, step, rule['weight_decay'], decay)
    return rate, decay

  def rates(params, step, scale=1.0):
    scheduled = schedule(step) * scale
    pairs = jax.tree_util.tree_map_with_path(
      lambda path, _: of_one(param_name(path), step, scheduled), params
    )
    outer = jax.tree.structure(params)
    return Rates(*jax.tree.transpose(outer, jax.tree.structure((0, 0)), pairs))

  return rates


def param_name(path: tuple[Any, ...]) -> str:
  """What rules call a parameter: `conv1/kernel`."""
  return '/'.join(key.key for key in path)


def _from(first: int, step, value, before):
  """`value` from the step `first` on."""
  return value if not first else jnp.where(step >= first, value, before)


def learning_rate_schedule(
  config: Any, steps_per_epoch: int, total_steps: int
) -> Schedule:
  """The learning rate by step, before a plateau's drops and any rules.

  'discrete_exponential' is cuda-convnet's `dexp[base, tgtFactor, numSteps]`:
  in n equal parts of the training, the rate is

    learning_rate * exponential_factor ^ (-i / (n - 1)),  i = 0 .. n - 1.

  Args:
    config: `config.optimizer`: `learning_rate`, `warmup_epochs` (linear, from
      0), `schedule`, for 'step' `drop_epochs` and `drop_factor`, for
      'discrete_exponential' `exponential_factor` and `exponential_steps` (n).
    steps_per_epoch: training steps in an epoch.
    total_steps: of the whole training.

  Returns:
    A function of the step (from 0), or of an array of steps.
  """
  drops = {}
  if config.schedule == 'step':
    drops = {
      round(epoch * steps_per_epoch): config.drop_factor
      for epoch in config.drop_epochs
    }
  elif config.schedule == 'discrete_exponential':
    parts = config.exponential_steps
    drops = {
      # The first step of the i-th part: rounded up.
      -(-i * total_steps // parts): config.exponential_factor
      ** (-1 / (parts - 1))
      for i in range(1, parts)
    }
  piecewise = optax.piecewise_constant_schedule(config.learning_rate, drops)
  warmup_steps = round(config.warmup_epochs * steps_per_epoch)

  def schedule(step: jax.Array | int) -> jax.Array:
    rate = jnp.asarray(piecewise(step), jnp.float32)
    if not warmup_steps:
      return rate
    return rate * jnp.minimum((step + 1) / warmup_steps, 1.0)

  return schedule


def plateau_decay(config: Any) -> optax.GradientTransformationExtraArgs:
  """Section 5's rule: divide the rate when validation error stops improving.

  Its state stands beside the optimizer's, not in its chain: it must see one
  value an evaluation, and a link of the chain would count every step.

  Args:
    config: `config.optimizer`: `drop_factor`, `plateau_patience` (evaluations
      without improvement), `plateau_max_drops`, `plateau_min_improvement`.
  """
  # Rounded as the drops themselves are, in float32: else one more of the last
  # bit alone would follow the last.
  min_scale = np.float32(1)
  for _ in range(config.plateau_max_drops):
    min_scale *= np.float32(config.drop_factor)
  return optax.contrib.reduce_on_plateau(
    factor=config.drop_factor,
    patience=config.plateau_patience,
    rtol=0.0,
    atol=config.plateau_min_improvement,
    min_scale=float(min_scale),
  )


def observe(
  plateau: optax.GradientTransformationExtraArgs,
  state: optax.contrib.ReduceLROnPlateauState,
  validation_error: float,
) -> optax.contrib.ReduceLROnPlateauState:
  """The plateau's state after one evaluation; `state.scale` is the factor."""
  value = jnp.asarray(validation_error, jnp.float32)
  _, state = plateau.update(jnp.zeros(()), state, value=value)
  return state
