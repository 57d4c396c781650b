"""Sums over examples, from which errors and losses are made.

Sums, not means: they add up exactly over batches, devices and hosts, whatever
their sizes, and a blank that fills a batch weighs nothing.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Sums = dict[str, jax.Array]


def zero_sums() -> Sums:
  """Sums over no examples, float32 scalars."""
  return {
    name: jnp.zeros((), jnp.float32)
    for name in ('count', 'loss', 'top1_errors', 'top5_errors')
  }


def metric_sums(
  log_probs: jax.Array, labels: jax.Array, mask: jax.Array
) -> Sums:
  """Masked sums of loss and errors over a batch.

  Args:
    log_probs: log of the predicted probabilities, float32 `[N, num_classes]`.
    labels: `[N]` integers.
    mask: float32 `[N]`, 1 for an example, 0 for a blank.

  Returns:
    `count`, `loss` (cross-entropy in nats), `top1_errors`, `top5_errors`:
    scalars. Of equal scores the lower class comes first; with five classes or
    fewer nothing is a top-5 error.
  """
  losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
  _, best = jax.lax.top_k(log_probs, min(5, log_probs.shape[1]))  # [N, 5]
  hit = best == labels[:, None]
  # A blank's own loss may be anything, infinity too: 0 * inf is not 0.
  return {
    'count': mask.sum(),
    'loss': jnp.where(mask > 0, losses, 0).sum(),
    'top1_errors': (mask * ~hit[:, 0]).sum(),
    'top5_errors': (mask * ~hit.any(axis=1)).sum(),
  }


def confusion(
  log_probs: jax.Array, labels: jax.Array, mask: jax.Array
) -> jax.Array:
  """How many examples of each class were taken for each.

  Args:
    log_probs: as for `metric_sums`.
    labels: `[N]` integers.
    mask: float32 `[N]`, 1 for an example, 0 for a blank.

  Returns:
    float32 `[num_classes, num_classes]`: rows by label, columns by the
    likeliest class.
  """
  num_classes = log_probs.shape[1]
  is_label = jax.nn.one_hot(labels, num_classes) * mask[:, None]
  # As in `metric_sums`: of equal scores the lower class comes first.
  _, best = jax.lax.top_k(log_probs, 1)
  # Ones and zeros: exact in whatever precision they are multiplied.
  return is_label.T @ jax.nn.one_hot(best[:, 0], num_classes)


def means(sums: Mapping[str, Any]) -> dict[str, float]:
  """Mean loss in nats, and errors as fractions of the examples."""
  count = float(sums['count'])
  return {
    'loss': float(sums['loss']) / count,
    'top1_error': float(sums['top1_errors']) / count,
    'top5_error': float(sums['top5_errors']) / count,
  }
