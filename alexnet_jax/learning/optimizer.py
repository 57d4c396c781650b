"""The paper's SGD, LARS, learning rate schedules, plateau rule (section 5)."""

import fnmatch
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[jax.Array | int], jax.Array]


class Rates(NamedTuple):
  """Learning rates and weight decays of one step: trees like the parameters.

  Attributes:
    learning_rate: learning rate of each parameter; 0 freezes it.
    weight_decay: weight decay of each parameter, which the learning rate
      multiplies.
  """

  learning_rate: Any
  weight_decay: Any


def squares(tree: Any) -> Any:
  """Returns each leaf's sum of squares, in float32 at least."""

  def of_one(x):
    return jnp.sum(jnp.square(x.astype(jnp.promote_types(x.dtype, 'float32'))))

  return jax.tree.map(of_one, tree)


def paper_sgd(
  momentum: float = 0.9,
  rate_in_velocity: bool = True,
  lars_coefficient: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """Returns SGD with momentum, in the paper's form (section 5) or PyTorch's.

  In the paper, cuda-convnet and Caffe, the velocity contains the learning rate:

    v <- momentum v - weight_decay lr w - lr dL/dw
    w <- w + v

  In PyTorch and `optax.sgd` it does not, so a drop of the learning rate also
  shrinks the earlier steps in the velocity. From the first drop on, the two
  forms give different results:

    v <- momentum v + weight_decay w + dL/dw
    w <- w - lr v

  With LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888), the learning
  rate of each parameter, kernel or bias, is multiplied by

    lars_coefficient |w| / (|dL/dw| + weight_decay |w|),

  or by 1 if one of the two norms is 0. Its algorithm has the paper's form of
  SGD. (The authors' files have variants: borisgin/nvcaffe leaves out the decay,
  and its "clip" takes the smaller of the two learning rates.)

  In both forms, a parameter with a learning rate of 0 does not change, whatever
  its velocity. (cuda-convnet's `Weights::update` does the same.)

  Args:
    momentum: fraction of the velocity that is kept at each step.
    rate_in_velocity: True for the paper's form, False for PyTorch's.
    lars_coefficient: eta of LARS; 0 is without LARS.

  Returns:
    A transformation whose `update` also takes `rates`, the `Rates` of the step,
    and `squares`: a function that returns each leaf's sum of squares, for a
    tree of parameters of which each device has a part.

  Example:
    >>> tx = paper_sgd(momentum=0.9)
    >>> params = {'w': jnp.array(1.0)}
    >>> rates = Rates(learning_rate={'w': 0.1}, weight_decay={'w': 0.0})
    >>> grads = {'w': jnp.array(2.0)}
    >>> step, _ = tx.update(grads, tx.init(params), params, rates=rates)
    >>> round(float(step['w']), 6)
    -0.2
  """
  velocity = optax.trace(momentum)

  def update(
    grads, state, params=None, *, rates, squares=squares, **extra_args
  ):
    del extra_args
    learning_rate = rates.learning_rate
    if lars_coefficient:
      trust = jax.tree.map(
        functools.partial(_trust, lars_coefficient),
        squares(params),
        squares(grads),
        rates.weight_decay,
      )
      learning_rate = jax.tree.map(jnp.multiply, learning_rate, trust)
    decayed = jax.tree.map(
      lambda g, w, decay: g + decay * w, grads, params, rates.weight_decay
    )

    def scale(tree):
      return jax.tree.map(lambda x, lr: -lr * x, tree, learning_rate)

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


def _trust(coefficient, weight_squares, gradient_squares, decay):
  """Returns what LARS multiplies a parameter's learning rate by."""
  weight, gradient = jnp.sqrt(weight_squares), jnp.sqrt(gradient_squares)
  both = (weight > 0) & (gradient > 0)
  scale = gradient + decay * weight
  return jnp.where(both, coefficient * weight / jnp.where(both, scale, 1), 1)


def rates_of(
  config: Any, steps_per_epoch: int, total_steps: int
) -> Callable[[Any, jax.Array | int, jax.Array | float], Rates]:
  """Returns the function that gives each parameter's `Rates` at a step.

  The schedule sets all learning rates; `config.rules` change some of them. The
  running averages of batch normalization have a learning rate and a weight
  decay of 0, whatever the rules.

  Args:
    config: `config.optimizer`; configs/default.py explains the rules.
    steps_per_epoch: number of training steps in an epoch.
    total_steps: number of steps in the training.

  Returns:
    A function of the parameters (it uses their names only), the step (from 0)
    and the plateau's scale.
  """
  schedule = learning_rate_schedule(config, steps_per_epoch, total_steps)
  rules = [dict(rule) for rule in config.rules]
  rules += [
    {'params': f'{layer}/*', 'learning_rate': 0.0}
    for layer in config.frozen_layers
  ]

  def of_one(name, step, scheduled):
    if name.endswith(_AVERAGES):
      return 0.0, 0.0
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


# Parameters that the step writes: `batch_norm.BatchNorm`.
_AVERAGES = ('/mean', '/variance')


def param_name(path: tuple[Any, ...]) -> str:
  """Returns a parameter's name in rules, such as `conv1/kernel`."""
  return '/'.join(key.key for key in path)


def _from(first: int, step, value, before):
  """Returns `value` from the step `first` on, and `before` until then."""
  return value if not first else jnp.where(step >= first, value, before)


def learning_rate_schedule(
  config: Any, steps_per_epoch: int, total_steps: int
) -> Schedule:
  """Returns the learning rate's schedule, without plateau drops and rules.

  'discrete_exponential' is cuda-convnet's `dexp[base, tgtFactor, numSteps]`. It
  divides the training into n equal parts, i = 0 .. n - 1, whose learning rates
  are

    learning_rate * exponential_factor ^ (-i / (n - 1)).

  'polynomial' is Caffe's `poly`:

    learning_rate * (1 - step / total_steps) ^ polynomial_power.

  The n steps of the warm-up multiply the schedule by 1/n, 2/n, ..., 1. With a
  `warmup_learning_rate` they replace it, as in borisgin/nvcaffe: the learning
  rate of step i is

    warmup_learning_rate + (learning_rate - warmup_learning_rate) * i / n.

  (Its stored version has the square of i / n; LARS's paper has a linear one.)

  Args:
    config: `config.optimizer`: `learning_rate`, `warmup_epochs`,
      `warmup_learning_rate` and `schedule`; for 'step' also `drop_epochs` and
      `drop_factor`; for 'discrete_exponential' `exponential_factor` and
      `exponential_steps` (n); for 'polynomial' `polynomial_power`.
    steps_per_epoch: number of training steps in an epoch.
    total_steps: number of steps in the training.

  Returns:
    A function of the step (from 0) or of an array of steps.

  Example:
    >>> from ml_collections import ConfigDict
    >>> config = ConfigDict({
    ...   'learning_rate': 0.01, 'warmup_epochs': 0, 'schedule': 'step',
    ...   'drop_epochs': (30, 60), 'drop_factor': 0.1,
    ... })
    >>> learning_rate_schedule(config, steps_per_epoch=10, total_steps=900)(450)
    Array(0.001, dtype=float32)
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
      # The first step of part i, rounded up.
      -(-i * total_steps // parts): config.exponential_factor
      ** (-1 / (parts - 1))
      for i in range(1, parts)
    }
  piecewise = optax.piecewise_constant_schedule(config.learning_rate, drops)
  warmup_steps = round(config.warmup_epochs * steps_per_epoch)

  def schedule(step: jax.Array | int) -> jax.Array:
    rate = jnp.asarray(piecewise(step), jnp.float32)
    if config.schedule == 'polynomial':
      left = jnp.maximum(total_steps - step, 0) / total_steps
      rate = rate * left**config.polynomial_power
    if not warmup_steps:
      return rate
    if start := config.warmup_learning_rate:
      ramp = start + (config.learning_rate - start) * step / warmup_steps
      return jnp.where(step < warmup_steps, ramp, rate)
    return rate * jnp.minimum((step + 1) / warmup_steps, 1.0)

  return schedule


def plateau_decay(config: Any) -> optax.GradientTransformationExtraArgs:
  """Returns section 5's rule: drop the learning rate at a plateau.

  A plateau is a validation error that stops improving. The rule is updated
  once an evaluation, by `observe`; as a part of the optimizer's chain it would
  be updated at every step.

  Args:
    config: `config.optimizer`: `drop_factor`, `plateau_patience` (evaluations
      without improvement), `plateau_max_drops`, `plateau_min_improvement`.
  """
  # Multiplied in float32, like the learning rate's scale: another rounding
  # would allow one more drop, by the last bit.
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
  """Returns the plateau's state after an evaluation.

  Its `scale` multiplies the learning rate.
  """
  value = jnp.asarray(validation_error, jnp.float32)
  _, state = plateau.update(jnp.zeros(()), state, value=value)
  return state
