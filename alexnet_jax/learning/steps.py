"""The training state and the pure training step.

The step processes one device's share of a batch. `placement.py` runs it on all
devices; 'batch' is the name of the axis over them.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.xla_metadata import set_xla_metadata

from alexnet_jax.learning import metrics, optimizer
from alexnet_jax.learning.finish import Finish, finished_on_host
from alexnet_jax.learning.placement import AXIS, Placement, on_devices
from alexnet_jax.model import AlexNet

Batch = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
  """Everything that a run needs to resume; the content of a checkpoint.

  Attributes:
    step: number of training steps done, int32.
    params: the network's parameters.
    opt_state: the velocity.
    plateau: state of the plateau rule; `plateau.scale` multiplies the learning
      rate.
    sums: metric sums of the steps since the last logged line. With them, a
      resumed run logs the same numbers as an uninterrupted one.
    not_finite: the first step (from 1) whose loss, gradient or update was NaN
      or infinite, int32; 0 if there is none.
  """

  step: jax.Array
  params: Any
  opt_state: optax.OptState
  plateau: optax.contrib.ReduceLROnPlateauState
  sums: metrics.Sums
  not_finite: jax.Array


def create_train_state(
  model: AlexNet,
  tx: optax.GradientTransformationExtraArgs,
  plateau: optax.GradientTransformationExtraArgs,
  image_size: int,
  seed: int,
) -> TrainState:
  """Returns the state before the first step.

  It is compiled as one program, for speed.
  """

  @jax.jit
  def create():
    images = jnp.zeros((1, image_size, image_size, 3))
    params = model.init(jax.random.key(seed), images)['params']
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=tx.init(params),
      # The plateau's state takes its dtype from this scalar.
      plateau=plateau.init(jnp.zeros((), jnp.float32)),
      sums=metrics.zero_sums(),
      not_finite=jnp.zeros((), jnp.int32),
    )

  return create()


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  model: AlexNet,
  tx: optax.GradientTransformationExtraArgs,
  rates: Callable[..., optimizer.Rates],
  dropout_key: jax.Array,
  placement: Placement,
  finish: Finish = finished_on_host,
  class_weights: np.ndarray | None = None,
  grad_accumulation: int = 1,
  reduce_dtype: Any = None,
) -> TrainState:
  """Does one step of the paper's SGD (section 5) on a share of the batch.

  Args:
    state: what this device has of the state.
    batch: this device's `image`, `[n, H, W, 3]`, and `label`, `[n]`, and the
      other arrays that `finish` needs.
    model: the network.
    tx: `optimizer.paper_sgd`.
    rates: `optimizer.rates_of`.
    dropout_key: the run's random key; step and device are folded in.
    placement: where the parameters are, and how gradients get there.
    finish: computes the network's input from the batch (`finish.finisher`).
    class_weights: of the loss, `[num_classes]`; None: all 1. The metric sums
      have no weights.
    grad_accumulation: number of equal parts that the share is processed in, one
      after the other, to take less memory.
    reduce_dtype: precision in which devices send and add gradients; None: the
      parameters'.

  Returns:
    What this device has of the next state.
  """
  several = jax.lax.axis_size(AXIS) > 1
  if several:
    model = placement.of_device(model, reduce_dtype)
  key = jax.random.fold_in(dropout_key, state.step)
  key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))

  def loss_fn(params, part, key):
    with jax.named_scope('input'):
      images = finish(part)
    logits, new = model.apply(
      {'params': params},
      images,
      train=True,
      rngs={'dropout': key},
      mutable=['averages'],
    )
    with jax.named_scope('loss'):
      log_probs = jax.nn.log_softmax(logits)
      sums = metrics.metric_sums(
        log_probs, part['label'], jnp.ones(len(log_probs))
      )
      loss = sums['loss'] / len(log_probs)
      if class_weights is not None:
        labels = part['label'][:, None]
        of_label = jnp.take_along_axis(log_probs, labels, axis=1)[:, 0]
        loss = -(jnp.asarray(class_weights)[part['label']] * of_label).mean()
      return loss, (sums, new.get('averages', {}))

  def gradients(part, key):
    return jax.grad(loss_fn, has_aux=True)(state.params, part, key)

  grads, (sums, averages) = _over_parts(
    gradients, batch, key, grad_accumulation
  )
  if several:
    with jax.named_scope('all_reduce'):
      # All shares have the same size, so the mean of their means is the
      # batch's mean.
      grads = placement.reduced(grads, reduce_dtype)
      sums = jax.lax.psum(sums, AXIS)
  else:
    grads = jax.lax.platform_dependent(
      grads, cpu=_wait_for_all, default=lambda grads: grads
    )
  with jax.named_scope('optimizer'):
    updates, opt_state = tx.update(
      grads,
      state.opt_state,
      state.params,
      rates=rates(state.params, state.step, state.plateau.scale),
      squares=placement.squares,
    )
    params = optax.apply_updates(state.params, updates)
    # The running averages of batch normalization have no gradient.
    params = {**params, **averages}
  with jax.named_scope('not_finite'):
    # The update writes these arrays anyway, so this needs no pass over the
    # gradients. A gradient or a parameter that is not finite makes the velocity
    # not finite. TPUs sum both arrays within the update's own pass.
    written = jax.lax.platform_dependent(
      params,
      opt_state.trace,
      cpu=lambda params, velocity: velocity,
      default=lambda *both: jax.tree.map(jnp.add, *both),
    )
    finite = placement.on_all(all_finite((sums['loss'], written)))
    first = (state.not_finite == 0) & ~finite
  return state.replace(
    step=state.step + 1,
    not_finite=jnp.where(first, state.step + 1, state.not_finite),
    params=params,
    opt_state=opt_state,
    sums=jax.tree.map(jnp.add, state.sums, sums),
  )


def _over_parts(gradients, batch, key, number):
  """Returns the mean gradient and averages of a batch's parts, and their sums.

  Args:
    gradients: returns `(gradient, (sums, averages))` of a part and its key.
    batch: `[n, ...]`.
    key: of the batch; the part is folded in.
    number: of parts.
  """
  if number == 1:
    return gradients(batch, key)
  parts = jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), batch)

  def add(total, part):
    i, images = part
    found = gradients(images, jax.random.fold_in(key, i))
    return jax.tree.map(jnp.add, total, found), None

  numbers = jnp.arange(number)
  first = jax.tree.map(lambda x: x[0], (numbers, parts))
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(lambda part: gradients(part[1], key), first),
  )
  (grads, (sums, averages)), _ = jax.lax.scan(add, zeros, (numbers, parts))
  grads, averages = jax.tree.map(lambda x: x / number, (grads, averages))
  return grads, (sums, averages)


def _wait_for_all(grads):
  """Returns the gradients after all have been computed.

  Then XLA on CPU can update the parameters in place. Otherwise it copies them
  first, because gradients that are not yet computed may read them. With several
  devices the all-reduce has the same effect. `optimization_barrier` does not,
  because XLA on CPU removes it too early.
  """
  with set_xla_metadata(inlineable='false'):
    return jax.jit(lambda grads: grads)(grads)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
  """Returns whether no number in a tree of arrays is NaN or infinite.

  It checks the arrays' sums, which take one pass on every platform. (Finite
  numbers whose sum overflows belong to a network that has diverged, too.)
  """
  sums = [jnp.sum(x) for x in jax.tree.leaves(tree)]
  return jnp.isfinite(jnp.stack(sums)).all()


# Names of the parts of a step in profiles, in addition to the network's layers.
SCOPE_NAMES = ('input', 'loss', 'all_reduce', 'optimizer', 'not_finite')


def arguments_of(config: Any) -> dict[str, Any]:
  """Returns the arguments of `train_step` that a config has."""
  reduced = config.optimizer.reduce_dtype
  return {
    'grad_accumulation': config.grad_accumulation,
    'reduce_dtype': None if reduced == 'float32' else jnp.dtype(reduced),
  }


def p_train_step(
  placement: Placement, *, donate: bool = True, **arguments: Any
) -> Any:
  """Returns `train_step` on all devices: `(state, batch) -> state`.

  Args:
    placement: where the state is.
    donate: whether the new state takes the old one's memory. The old state must
      then come from `placement.put`, and cannot be used again.
    **arguments: the other arguments of `train_step` after the batch.

  Returns:
    A function of the state and the batch, `[devices, n, ...]`.
  """
  return on_devices(
    functools.partial(train_step, placement=placement, **arguments),
    placement.mesh,
    placement.specs,
    placement.specs,
    pmapped=placement.parallelism == 'data',
    donate=donate,
  )
