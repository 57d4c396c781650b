"""Max pooling whose gradient is fast on CPU too."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """Max pooling without padding; a tie's gradient goes to the first maximum.

  On CPU it is a maximum of strided slices, columns then rows: XLA's own
  gradient (select-and-scatter) is slow there. Of a window with a NaN in it the
  gradient is 0 then. GPU and TPU keep XLA's.

  Args:
    x: `[N, H, W, channels]`.
    window: height and width of the window.
    stride: step in both directions.

  Returns:
    `[N, (H - window) // stride + 1, (W - window) // stride + 1, channels]`.
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


# Columns within each row first: so the first maximum in row-major order wins a
# tie, as in XLA's select-and-scatter and PyTorch.
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
  """For each place in a window along `axis`: what all windows have there."""
  last = (x.shape[axis] - window) // stride * stride
  return [
    jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis)
    for i in range(window)
  ]


def _to_first_maxima(x, g, window, stride, axis):
  """The gradient `g` of the maxima along `axis`, given to the first of each.

  Places in a window that are `stride` apart are the same places of `x`. They
  are summed, and the sums of each remainder put in turns: so nothing is spread
  out with zeros in between, to be summed with others.
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
    given = jnp.pad(jnp.where(here, g, 0), padding)
    same = sums[i % stride]
    sums[i % stride] = given if same is None else same + given
  nothing = jnp.zeros(shape, g.dtype)  # Where the windows leave gaps.
  dx = jnp.stack([nothing if x is None else x for x in sums], axis + 1)
  shape[axis] = number * stride
  padding = [(0, 0)] * g.ndim
  padding[axis] = 0, max(x.shape[axis] - number * stride, 0)
  dx = jnp.pad(dx.reshape(shape), padding)
  return jax.lax.slice_in_dim(dx, 0, x.shape[axis], axis=axis)
