"""The pure evaluation steps, of one network and of an ensemble.

Each step processes one device's share of a batch. `placement.py` runs it on all
devices; 'batch' is the name of the axis over them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from alexnet_jax.learning import metrics
from alexnet_jax.learning.finish import Finish, finished_on_host
from alexnet_jax.learning.placement import AXIS, mesh_of, on_devices
from alexnet_jax.learning.steps import Batch
from alexnet_jax.model import AlexNet


def eval_step(
  params: Any,
  batch: Batch,
  *,
  model: AlexNet,
  finish: Finish = finished_on_host,
  outputs: np.ndarray | None = None,
) -> metrics.Sums:
  """Scores a device's share of a batch.

  The softmax outputs of an image's crops are averaged (section 4.1).

  Args:
    params: the network's parameters, equal on all devices.
    batch: `image`, `[n, crops, H, W, 3]`, `label`, `[n]`, and `mask`, `[n]`.
    model: the network.
    finish: computes the network's input from the batch (`finish.finisher`).
    outputs: those that can be predicted, bool `[num_classes]`; None: all.

  Returns:
    `metrics.metric_sums` and `confusion`, summed over all devices.
  """
  log_probs = _log_probs(params, batch, model, finish, outputs)
  return _scored(log_probs, batch)


def ensemble_step(
  params: Sequence[Any],
  batches: Sequence[Batch],
  *,
  members: Sequence[tuple[AlexNet, Finish]],
  outputs: np.ndarray | None = None,
) -> metrics.Sums:
  """Scores the mean of several networks' softmax outputs (section 6).

  Args:
    params: each network's parameters, equal on all devices.
    batches: each network's batch, all of the same images in the same order.
    members: each network with its `finish` function, as in `eval_step`.
    outputs: as in `eval_step`.

  Returns:
    The same sums as `eval_step`.
  """
  log_probs = [
    _log_probs(one, batch, *member, outputs)
    for one, batch, member in zip(params, batches, members, strict=True)
  ]
  mean = jax.nn.logsumexp(jnp.stack(log_probs), axis=0)
  return _scored(mean - jnp.log(len(members)), batches[0])


def _log_probs(params, batch, model, finish, outputs):
  """Returns the log of the crops' mean softmax output, `[n, num_classes]`."""
  n, crops = batch['image'].shape[:2]
  with jax.named_scope('input'):
    images = finish(batch)
  images = images.reshape(n * crops, *images.shape[2:])
  logits: Any = model.apply({'params': params}, images)
  with jax.named_scope('loss'):
    if outputs is not None:
      logits = jnp.where(outputs, logits, -jnp.inf)
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


def p_eval_step(
  model: AlexNet,
  finish: Finish = finished_on_host,
  outputs: np.ndarray | None = None,
  *,
  devices: Sequence[Any] | None = None,
) -> Any:
  """Returns `eval_step` on all devices: `(params, batch) -> sums`.

  The parameters must come from `placement.replicate`.
  """
  step = functools.partial(
    eval_step, model=model, finish=finish, outputs=outputs
  )
  return on_devices(step, mesh_of(devices), PartitionSpec(), PartitionSpec())


def p_ensemble_step(
  members: Sequence[tuple[AlexNet, Finish]],
  outputs: np.ndarray | None = None,
) -> Any:
  """Returns `ensemble_step` on all devices: `(params, batches) -> sums`."""
  step = functools.partial(ensemble_step, members=members, outputs=outputs)
  return on_devices(step, mesh_of(), PartitionSpec(), PartitionSpec())
