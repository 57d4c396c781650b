"""Max pooling with a gradient that is fast on CPU too (section 3.4)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """Computes max pooling without padding.

  The gradient of equal maxima is given to the first one in row-major order.

  On CPU, XLA's gradient (select-and-scatter) is slow. The maximum is therefore
  taken over strided slices, along columns and then rows; the gradient of a
  window that contains a NaN is then 0. GPU and TPU use XLA's.

  Args:
    x: `[N, H, W, channels]`.
    window: height and width of the window.
    stride: step in both directions.

  Returns:
    `[N, (H - window) // stride + 1, (W - window) // stride + 1, channels]`.

  Example:
    >>> max_pool(jnp.arange(25).reshape(1, 5, 5, 1), 3, 2)[0, :, :, 0]
    Array([[12, 14],
           [22, 24]], dtype=int32)
  """
  return jax.lax.platform_dependent(
    x,
    cpu=lambda x: _by_slices(x, window, stride),
    default=lambda x: _by_reduce_window(x, window, stride),
  )


def _max_pool_fwd(x, window, stride):
  return max_pool(x, window, stride), x


def _max_pool_bwd(window, stride, x, g):
  def by_reduce_window(x, g):
    return jax.vjp(lambda x: _by_reduce_window(x, window, stride), x)[1](g)[0]

  dx = jax.lax.platform_dependent(
    x,
    g,
    cpu=lambda x, g: _gradient_by_slices(x, g, window, stride),
    default=by_reduce_window,
  )
  return (dx,)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _by_reduce_window(x, window, stride):
  return nn.max_pool(x, window_shape=(window, window), strides=(stride, stride))


# Columns before rows: the first maximum in row-major order wins a tie, as in
# XLA's select-and-scatter and in PyTorch.
_COLUMNS, _ROWS = 2, 1


def _by_slices(x, window, stride):
  for axis in (_COLUMNS, _ROWS):
    x = functools.reduce(jnp.maximum, _slices(x, window, stride, axis))
  return x


def _gradient_by_slices(x, g, window, stride):
  columns = functools.reduce(jnp.maximum, _slices(x, window, stride, _COLUMNS))
  g = _to_first_maxima(columns, g, window, stride, _ROWS)
  return _to_first_maxima(x, g, window, stride, _COLUMNS)


def _slices(x, window, stride, axis):
  """Returns, for each offset in a window along `axis`, all windows' values."""
  last = (x.shape[axis] - window) // stride * stride
  return [
    jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis)
    for i in range(window)
  ]


def _to_first_maxima(x, g, window, stride, axis):
  """Passes the gradient `g` along `axis` to each window's first maximum.

  Offsets that are `stride` apart fall on the same positions of `x`, so their
  gradients are summed first. The sums of the `stride` remainders are then
  interleaved. This avoids adding arrays that are dilated with zeros.
  """
  slices = _slices(x, window, stride, axis)
  maxima = functools.reduce(jnp.maximum, slices)
  number = g.shape[axis] + (window - 1) // stride
  shape = list(g.shape)
  shape[axis] = number
  sums: list[Any] = [None] * stride
  free = jnp.ones_like(g, bool)
  for i, values in enumerate(slices):
    here = free & (values == maxima)
    free = free & ~here
    before = i // stride
    padding = [(0, 0)] * g.ndim
    padding[axis] = before, number - g.shape[axis] - before
    passed = jnp.pad(jnp.where(here, g, 0), padding)
    total = sums[i % stride]
    sums[i % stride] = passed if total is None else total + passed
  zeros = jnp.zeros(shape, g.dtype)  # For gaps between the windows.
  dx = jnp.stack([zeros if x is None else x for x in sums], axis + 1)
  shape[axis] = number * stride
  padding = [(0, 0)] * g.ndim
  padding[axis] = 0, max(x.shape[axis] - number * stride, 0)
  dx = jnp.pad(dx.reshape(shape), padding)
  return jax.lax.slice_in_dim(dx, 0, x.shape[axis], axis=axis)
