"""Pooling: maxima, with a gradient that is fast on CPU too (section 3.4)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.model.layer_types import AvgPool
from alexnet_jax.model.lrn import at_least_float32


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


def average_pool(x: jax.Array, op: AvgPool) -> jax.Array:
  """Averages maps to `op.size` x `op.size`, in PyTorch's bins.

  Source: torch.nn.AdaptiveAvgPool2d.

  Args:
    x: `[N, H, W, channels]`.
    op: has the output's size.

  Returns:
    `[N, size, size, channels]`; `x` itself if it has that size.

  Example:
    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> average_pool(x, AvgPool(3))[0, :, :, 0]
    Array([[0. , 0.5, 1. ],
           [1. , 1.5, 2. ],
           [2. , 2.5, 3. ]], dtype=float32)
  """
  y = at_least_float32(x)
  for axis in (1, 2):
    size = x.shape[axis]
    if size == op.size:
      continue
    # Sums of slices, not a product with a matrix, which TPUs would round.
    y = jnp.stack(
      [
        jax.lax.slice_in_dim(y, start, end, axis=axis).mean(axis)
        for start, end in op.bins(size)
      ],
      axis,
    )
  return y.astype(x.dtype)


# Columns before rows: the first maximum in row-major order wins a tie, as in
# XLA's select-and-scatter and in PyTorch.
_COLUMNS, _ROWS = 2, 1


def _by_slices(x, window, stride):
  y = at_least_float32(x)
  for axis in (_COLUMNS, _ROWS):
    y = functools.reduce(jnp.maximum, _slices(y, window, stride, axis))
  # XLA would fuse a reshape that follows, and lose its vector instructions.
  return jax.lax.optimization_barrier(y.astype(x.dtype))


def _slices(x, window, stride, axis):
  """Returns, for each offset in a window along `axis`, all windows' values."""
  last = (x.shape[axis] - window) // stride * stride
  return [
    jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis)
    for i in range(window)
  ]


def _gradient_by_slices(x, g, window, stride):
  """Passes each window's gradient to its first maximum, in row-major order.

  A pixel whose row and column are p and q modulo `stride` is in some windows at
  offsets of the same remainders. So `stride * stride` arrays of the output's
  size are summed, one for each (p, q), and then interleaved.
  """
  # XLA would fuse what the barriers separate, and lose its vector instructions.
  # bfloat16 has none for this on CPU.
  first = jax.lax.optimization_barrier(
    _first_maximum(at_least_float32(x), window, stride)
  )
  last = (window - 1) // stride  # A pixel is in last + 1 windows per axis.
  padding = [(0, 0), (last, last), (last, last), (0, 0)]
  first = jnp.pad(first, padding, constant_values=-1)
  g = jnp.pad(at_least_float32(g), padding)
  first, g = jax.lax.optimization_barrier((first, g))
  height, width = (size - last for size in first.shape[1:3])

  def of_offset(i, j):
    here = (
      slice(None),
      slice(last - i // stride, last - i // stride + height),
      slice(last - j // stride, last - j // stride + width),
    )
    return jnp.where(first[here] == i * window + j, g[here], 0)

  def of_remainders(p, q):
    parts = [
      of_offset(i, j)
      for i in range(p, window, stride)
      for j in range(q, window, stride)
    ]
    total = sum(parts) if parts else jnp.zeros_like(g[:, :height, :width])
    return total.astype(x.dtype)

  sums = jax.lax.optimization_barrier(
    [[of_remainders(p, q) for q in range(stride)] for p in range(stride)]
  )
  dx = jnp.stack([jnp.stack(columns, 3) for columns in sums], 2)
  dx = dx.reshape(x.shape[0], height * stride, width * stride, x.shape[3])
  missing = [(0, a - b, 0) for a, b in zip(x.shape, dx.shape, strict=True)]
  return jax.lax.pad(
    jax.lax.optimization_barrier(dx), jnp.zeros((), x.dtype), missing
  )


def _first_maximum(x, window, stride):
  """Returns each window's first maximum, numbered by row, then by column.

  The number is negative if there is none, because of a NaN.
  """

  def first(slices, numbers):
    maxima = functools.reduce(jnp.maximum, slices)
    found = jnp.int16(-(window**2))
    for values, number in reversed(list(zip(slices, numbers, strict=True))):
      found = jnp.where(values == maxima, number, found)
    return found, maxima

  offsets = [jnp.int16(i) for i in range(window)]
  column, x = first(_slices(x, window, stride, _COLUMNS), offsets)
  columns = _slices(column, window, stride, _ROWS)
  numbers = [i * window + j for i, j in zip(offsets, columns, strict=True)]
  return first(_slices(x, window, stride, _ROWS), numbers)[0]
