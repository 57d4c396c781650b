"""Sums over examples, from which mean losses and errors are computed.

Sums add up exactly over batches, devices and hosts of any sizes, and blanks
that pad a batch do not count.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Sums = dict[str, jax.Array]


def zero_sums() -> Sums:
  """Returns the sums over no examples, float32 scalars."""
  return {
    name: jnp.zeros((), jnp.float32)
    for name in ('count', 'loss', 'top1_errors', 'top5_errors')
  }


def metric_sums(
  log_probs: jax.Array, labels: jax.Array, mask: jax.Array
) -> Sums:
  """Returns the sums of losses and errors over a batch's examples.

  Args:
    log_probs: logarithms of the predicted probabilities, float32
      `[N, num_classes]`.
    labels: `[N]` integers; or for lists of labels, ones and zeros
      `[N, num_classes]`. Each label of a list is right, and the loss is that of
      their joint probability.
    mask: float32 `[N]`, 1 for an example, 0 for a blank.

  Returns:
    The scalars `count`, `loss` (cross-entropy in nats), `top1_errors` and
    `top5_errors`. Ties are ranked by class, lowest first. With five classes or
    fewer there are no top-5 errors.

  Example, of two images, the first of which is misclassified:
    >>> log_probs = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> sums = metric_sums(log_probs, jnp.array([0, 0]), jnp.ones(2))
    >>> means(sums)['top1_error']
    0.5
  """
  _, best = jax.lax.top_k(log_probs, min(5, log_probs.shape[1]))  # [N, 5]
  if labels.ndim == 1:
    losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    hit = best == labels[:, None]
  else:
    of_list = jnp.where(labels > 0, log_probs, -jnp.inf)
    losses = -jax.nn.logsumexp(of_list, axis=1)
    hit = jnp.take_along_axis(labels, best, axis=1) > 0
  # Not `mask * losses`: a blank's loss may be infinite, and 0 * inf is NaN.
  return {
    'count': mask.sum(),
    'loss': jnp.where(mask > 0, losses, 0).sum(),
    'top1_errors': (mask * ~hit[:, 0]).sum(),
    'top5_errors': (mask * ~hit.any(axis=1)).sum(),
  }


def confusion(
  log_probs: jax.Array, labels: jax.Array, mask: jax.Array
) -> jax.Array:
  """Returns the confusion matrix of a batch's examples.

  Args:
    log_probs: as in `metric_sums`.
    labels: as in `metric_sums`. Of a list, the predicted class counts if it is
      in the list, and otherwise the list's first.
    mask: float32 `[N]`, 1 for an example, 0 for a blank.

  Returns:
    Numbers of examples, float32 `[num_classes, num_classes]`: one row for each
    label, one column for each predicted class.
  """
  num_classes = log_probs.shape[1]
  # As in `metric_sums`, the lowest class wins a tie.
  _, best = jax.lax.top_k(log_probs, 1)
  if labels.ndim == 2:
    hit = jnp.take_along_axis(labels, best, axis=1)[:, 0] > 0
    labels = jnp.where(hit, best[:, 0], labels.argmax(axis=1))
  is_label = jax.nn.one_hot(labels, num_classes) * mask[:, None]
  # Ones and zeros are exact in any precision of the product.
  return is_label.T @ jax.nn.one_hot(best[:, 0], num_classes)


def means(sums: Mapping[str, Any]) -> dict[str, float]:
  """Returns the mean loss in nats and the errors as fractions."""
  count = float(sums['count'])
  return {
    'loss': float(sums['loss']) / count,
    'top1_error': float(sums['top1_errors']) / count,
    'top5_error': float(sums['top5_errors']) / count,
  }
