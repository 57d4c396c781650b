"""The training state, and pure steps on it for `jax.pmap`.

The functions here are one device's share of a step; 'batch' names the axis
over all devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.learning import metrics, optimizer
from alexnet_jax.learning.finish import Finish, finished_on_host
from alexnet_jax.model import AlexNet

AXIS = 'batch'
Batch = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
  """All that a run needs to go on, and all that a checkpoint holds.

  Attributes:
    step: training steps done, int32.
    params: the network's parameters.
    opt_state: the velocity.
    plateau: state of the plateau rule; `plateau.scale` multiplies the rate.
    sums: metric sums of the steps since the last line of the log. They are
      here so that a run that was stopped logs what one never stopped logs.
    not_finite: the first step (from 1) whose loss, gradient or update was NaN
      or infinite, int32; 0 as long as there is none.
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
  """A state before the first step; compiled as one, for speed."""

  @jax.jit
  def create():
    images = jnp.zeros((1, image_size, image_size, 3))
    params = model.init(jax.random.key(seed), images)['params']
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=tx.init(params),
      # A scalar: the plateau's dtype is that of what it is initialized with.
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
  finish: Finish = finished_on_host,
) -> TrainState:
  """One step of the paper's SGD on a device's share of the batch.

  Args:
    state: the same on all devices.
    batch: `image` `[n, H, W, 3]` and `label` `[n]`, this device's, and what
      else `finish` takes.
    model: the network.
    tx: `optimizer.paper_sgd`.
    rates: `optimizer.rates_of`.
    dropout_key: of the run; step and device are folded in.
    finish: from the batch to the network's input (`finish.finisher`).

  Returns:
    The next state, again the same on all devices.
  """
  key = jax.random.fold_in(dropout_key, state.step)
  key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
  with jax.named_scope('input'):
    images = finish(batch)

  def loss_fn(params):
    logits: Any = model.apply(
      {'params': params}, images, train=True, rngs={'dropout': key}
    )
    with jax.named_scope('loss'):
      log_probs = jax.nn.log_softmax(logits)
      sums = metrics.metric_sums(
        log_probs, batch['label'], jnp.ones(len(log_probs))
      )
      return sums['loss'] / len(log_probs), sums

  grads, sums = jax.grad(loss_fn, has_aux=True)(state.params)
  if jax.lax.axis_size(AXIS) > 1:
    with jax.named_scope('all_reduce'):
      # Shares are equal, so the mean of their means is the batch's mean.
      grads = jax.lax.pmean(grads, AXIS)
      sums = jax.lax.psum(sums, AXIS)
  else:
    grads = jax.lax.platform_dependent(
      grads, cpu=_all_done, default=lambda grads: grads
    )
  with jax.named_scope('optimizer'):
    updates, opt_state = tx.update(
      grads,
      state.opt_state,
      state.params,
      rates=rates(state.params, state.step, state.plateau.scale),
    )
    params = optax.apply_updates(state.params, updates)
  with jax.named_scope('not_finite'):
    # Of the sum of what the update writes anyway: that costs no pass over the
    # gradients, and what is not finite in a gradient is not finite here.
    moved = jax.tree.map(jnp.add, params, opt_state.trace)
    first = (state.not_finite == 0) & ~all_finite((sums['loss'], moved))
  return state.replace(
    step=state.step + 1,
    not_finite=jnp.where(first, state.step + 1, state.not_finite),
    params=params,
    opt_state=opt_state,
    sums=jax.tree.map(jnp.add, state.sums, sums),
  )


def _all_done(grads):
  """The gradients, none before all: so parameters are updated where they lie.

  Else XLA on CPU copies them first, since other gradients may yet have to read
  them. (An all-reduce waits for all too; `optimization_barrier` is dropped
  there before it matters.)
  """
  with set_xla_metadata(inlineable='false'):
    return jax.jit(lambda grads: grads)(grads)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
  """Whether no number in a tree of arrays is NaN or infinite.

  Looked for in their sums, which are one pass over them on every platform. (A
  sum of finite numbers overflows only where a network is lost too.)
  """
  sums = [jnp.sum(x) for x in jax.tree.leaves(tree)]
  return jnp.isfinite(jnp.stack(sums)).all()


def eval_step(
  params: Any,
  batch: Batch,
  *,
  model: AlexNet,
  finish: Finish = finished_on_host,
) -> metrics.Sums:
  """Scores a device's share of a batch.

  The softmax outputs of an image's crops are averaged (section 4.1).

  Args:
    params: the network's parameters, the same on all devices.
    batch: `image` `[n, crops, H, W, 3]`, `label` `[n]`, `mask` `[n]`.
    model: the network.
    finish: from the batch to the network's input (`finish.finisher`).

  Returns:
    `metrics.metric_sums`, and `confusion`, over all devices.
  """
  log_probs = _log_probs(params, batch, model, finish)
  return _scored(log_probs, batch)


def ensemble_step(
  params: Sequence[Any],
  batches: Sequence[Batch],
  *,
  members: Sequence[tuple[AlexNet, Finish]],
) -> metrics.Sums:
  """Scores the mean of several networks' softmax outputs (section 6).

  Args:
    params: of each member, the same on all devices.
    batches: as each member sees them: the same pictures in the same order.
    members: each one's network, and from its batch to the network's input.

  Returns:
    As `eval_step`.
  """
  log_probs = [
    _log_probs(one, batch, *member)
    for one, batch, member in zip(params, batches, members, strict=True)
  ]
  mean = jax.nn.logsumexp(jnp.stack(log_probs), axis=0)
  return _scored(mean - jnp.log(len(members)), batches[0])


def _log_probs(params, batch, model, finish):
  """Log of the softmax outputs, averaged over crops: `[n, num_classes]`."""
  n, crops = batch['image'].shape[:2]
  with jax.named_scope('input'):
    images = finish(batch)
  images = images.reshape(n * crops, *images.shape[2:])
  logits: Any = model.apply({'params': params}, images)
  with jax.named_scope('loss'):
    log_probs = jax.nn.log_softmax(logits)
    log_probs = log_probs.reshape(n, crops, -1)
    return jax.nn.logsumexp(log_probs, axis=1) - jnp.log(crops)


def _scored(log_probs, batch):
  with jax.named_scope('loss'):
    sums = metrics.metric_sums(log_probs, batch['label'], batch['mask'])
    sums['confusion'] = metrics.confusion(
      log_probs, batch['label'], batch['mask']
    )
  with jax.named_scope('all_reduce'):
    return jax.lax.psum(sums, AXIS)


# What the functions above call their parts besides the network's, in profiles.
SCOPE_NAMES = ('input', 'loss', 'all_reduce', 'optimizer', 'not_finite')


def p_train_step(
  *,
  donate: bool = True,
  devices: Sequence[Any] | None = None,
  **arguments: Any,
):
  """`train_step` on all devices: `(state, batch) -> state`.

  `batch` is `[local devices, n, ...]`; the state is not stacked. Nor is it
  kept, but with `donate=False`: it is donated, so it must have been put in
  place by `replicate`. `devices` are others than JAX's, to compile for.
  """
  return jax.pmap(
    functools.partial(train_step, **arguments),
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=None,
    donate_argnums=0 if donate else (),
    devices=devices,
  )


def p_eval_step(
  model: AlexNet,
  finish: Finish = finished_on_host,
  *,
  devices: Sequence[Any] | None = None,
):
  """`eval_step` on all devices: `(params, batch) -> sums`."""
  return jax.pmap(
    functools.partial(eval_step, model=model, finish=finish),
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=None,
    devices=devices,
  )


def p_ensemble_step(members: Sequence[tuple[AlexNet, Finish]]):
  """`ensemble_step` on all devices: `(params, batches) -> sums`."""
  return jax.pmap(
    functools.partial(ensemble_step, members=members),
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=None,
  )


def replicated_sharding() -> NamedSharding:
  """A copy on each of this process's devices."""
  return NamedSharding(
    Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec()
  )


def replicate(tree: Any) -> Any:
  """Copies a tree of arrays to each of this process's devices.

  A step donates its state: what was not put in place before is deleted.
  """
  return jax.device_put(tree, replicated_sharding())
