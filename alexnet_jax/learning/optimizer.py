"""The paper's SGD, its schedules, and decay on a plateau (section 5)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[jax.Array | int], jax.Array]


def paper_sgd(
  *,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  bias_multiplier: float = 1.0,
  decay_biases: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """SGD with the learning rate inside the velocity, as section 5 has it.

    v <- momentum v - weight_decay lr w - lr dL/dw
    w <- w + v

  `optax.sgd` multiplies by the learning rate after the velocity, so that a
  drop of the rate also shrinks the steps already in it: after a drop the two
  are different trainings.

  The learning rate is given at each update:
  `tx.update(grads, state, params, learning_rate=lr)`.

  Args:
    momentum: share of the velocity that is kept.
    weight_decay: as above; multiplied by the learning rate.
    bias_multiplier: biases learn at this many times the learning rate (2 in
      the authors' code and Caffe).
    decay_biases: whether biases decay too.
  """
  return optax.chain(
    optax.add_decayed_weights(
      weight_decay,
      mask=None if decay_biases else lambda p: _select(p, 'kernel'),
    ),
    optax.masked(optax.scale(bias_multiplier), lambda p: _select(p, 'bias')),
    _scale_by_given_learning_rate(),
    optax.trace(momentum),
  )


def _select(params, leaf_name: str):
  """A mask of the leaves of this name: `kernel` or `bias`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == leaf_name, params
  )


def _scale_by_given_learning_rate() -> optax.GradientTransformationExtraArgs:
  """Multiplies updates by `-learning_rate`, an argument of `update`."""

  def update(updates, state, params=None, *, learning_rate, **extra_args):
    del params, extra_args
    scaled = jax.tree.map(lambda u: -learning_rate * u, updates)
    return scaled, state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )


def learning_rate_schedule(config: Any, steps_per_epoch: int) -> Schedule:
  """The learning rate by step, before a plateau's drops.

  Args:
    config: `config.optimizer`: `learning_rate`, `warmup_epochs` (linear, from
      0), `schedule` ('plateau', 'step' or 'constant'), and for 'step'
      `drop_epochs` and `drop_factor`.
    steps_per_epoch: training steps in an epoch.

  Returns:
    A function of the step (from 0).
  """
  drops = config.drop_epochs if config.schedule == 'step' else ()
  piecewise = optax.piecewise_constant_schedule(
    config.learning_rate,
    # Optax drops after the boundary's step; an epoch's first step is dropped.
    {round(epoch * steps_per_epoch): config.drop_factor for epoch in drops},
  )
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
