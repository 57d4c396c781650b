"""Local response normalization (section 3.3 of the paper)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def local_response_normalization(
  x: jax.Array,
  *,
  size: int = 5,
  k: float = 2.0,
  alpha: float = 1e-4,
  beta: float = 0.75,
  groups: int = 1,
) -> jax.Array:
  """Divides each activity by those of its neighbouring channels.

  The paper's formula, with `n = size`:

    b[i] = a[i] / (k + alpha * sum_j a[j]^2) ^ beta,
    j from i - size // 2 to i + (size - 1) // 2, cut at the group's edges.

  alpha is NOT divided by `size`. Caffe, cuda-convnet and PyTorch divide it:
  `torch.nn.LocalResponseNorm(5, alpha=A)` is this at `alpha=A / 5`;
  `tf.nn.local_response_normalization(x, 2, bias, alpha, beta)` is this at the
  same alpha.

  The sums and the power are taken in float32 (float64 for float64 input),
  whatever the dtype of `x`. On TPU bfloat16 summands are rounded to it once
  more, and the sums for the gradient are kept in it.
  Reverse-mode differentiation only: the gradient is written by hand, since it
  needs one more windowed sum and nothing else.

  Args:
    x: activities, `[..., channels]`; the windows run over the last axis.
    size: channels in a window (the paper's n).
    k: the constant added to the sum.
    alpha: factor of the sum of squares.
    beta: the exponent.
    groups: channels are normalized in this many separate, equal groups
      (the two columns of the authors' code).

  Returns:
    An array of the shape and dtype of `x`.

  Raises:
    TypeError: `x` is not of a floating-point dtype.
    ValueError: `size` is not positive, or `groups` does not divide the
      channels.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f'LRN needs floating-point activities, got {x.dtype}')
  if size < 1:
    raise ValueError(f'LRN window of size {size}: it must be at least 1')
  if x.ndim < 1 or groups < 1 or x.shape[-1] % groups:
    raise ValueError(f'{groups} groups do not divide shape {x.shape}')
  return _lrn(x, size, float(k), float(alpha), float(beta), groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _lrn(x, size, k, alpha, beta, groups):
  return _forward(x, size, k, alpha, beta, groups)[0]


def _forward(x, size, k, alpha, beta, groups):
  a = _at_least_float32(x)
  total = _window_sum(a * a, x.dtype, (size // 2, (size - 1) // 2), groups)
  power, _ = _inverse_powers(k + alpha * total, beta)
  return (a * power).astype(x.dtype), (x, total.astype(x.dtype))


def _backward(size, k, alpha, beta, groups, residuals, g):
  """dL/da[i] = g[i] d[i]^-beta - 2 alpha beta a[i] sum_j g[j] b[j] / d[j].

  The sum runs over those j whose window holds i: the window turned round.
  """
  x, total = residuals
  a, gradient = _at_least_float32(x), _at_least_float32(g)
  before, after = size // 2, (size - 1) // 2
  # Elsewhere than on TPU to sum again costs no more than to keep the sums.
  total = jax.lax.platform_dependent(
    a,
    total,
    tpu=lambda a, total: total.astype(a.dtype),
    default=lambda a, _: _window_sum(a * a, x.dtype, (before, after), groups),
  )
  power, inverse = _inverse_powers(k + alpha * total, beta)
  scale = gradient * power
  through_sum = _window_sum(
    a * scale * inverse, x.dtype, (after, before), groups
  )
  return ((scale - 2 * alpha * beta * a * through_sum).astype(x.dtype),)


_lrn.defvjp(_forward, _backward)


def _at_least_float32(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _window_sum(x, dtype, window, groups):
  """Sums over the last axis from i - before to i + after, in each group."""
  channels = x.shape[-1] // groups
  # A window wider than the group is cut at both its edges.
  before, after = (min(w, channels - 1) for w in window)
  return jax.lax.platform_dependent(
    x,
    tpu=lambda x: _sum_by_product(x, dtype, before, after, groups),
    default=lambda x: _sum_by_shifts(x, before, after, groups),
  )


def _sum_by_shifts(x, before, after, groups):
  channels = x.shape[-1] // groups
  grouped = x.reshape(*x.shape[:-1], groups, channels) if groups > 1 else x
  padding = [(0, 0)] * (grouped.ndim - 1) + [(before, after)]
  padded = jnp.pad(grouped, padding)
  shifts = (
    jax.lax.slice_in_dim(padded, i, i + channels, axis=-1)
    for i in range(before + after + 1)
  )
  return functools.reduce(jnp.add, shifts).reshape(x.shape)


def _sum_by_product(x, dtype, before, after, groups):
  """As a product with a band of ones, for TPU's matrix units.

  Shifts along channels are what a TPU is slow at. Where activities are
  bfloat16 the summands are rounded to it, and summed in float32.
  """
  channels = x.shape[-1]
  i = np.arange(channels)
  band = (i[:, None] >= i - before) & (i[:, None] <= i + after)
  size = channels // groups
  band &= i[:, None] // size == i // size
  return jax.lax.dot_general(
    x.astype(dtype),
    jnp.asarray(band, dtype),
    (((x.ndim - 1,), (0,)), ((), ())),
    # A TPU's product of float32 is one of bfloat16 unless told otherwise.
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=x.dtype,
  )


def _inverse_powers(d, beta):
  """d ^ -beta and 1 / d; at the paper's beta of two square roots alone."""
  if beta == 0.75:
    root = jax.lax.rsqrt(d)
    return root * jnp.sqrt(root), root * root
  return d**-beta, 1 / d


def spatial_response_normalization(
  x: jax.Array,
  *,
  size: int = 5,
  k: float = 1.0,
  alpha: float = 0.001 / 25,
  beta: float = 0.75,
) -> jax.Array:
  """Divides each activity by those around it in its own feature map.

  cuda-convnet's `type=rnorm` (layers-145.cfg, after conv2): the formula of
  `local_response_normalization`, with the sum over `size` x `size` positions.

  Args:
    x: activities, `[N, H, W, channels]`.
    size: height and width of the patch, cut at the edges of the map.
    k: the constant added to the sum.
    alpha: factor of the sum of squares, not divided by the patch's area.
    beta: the exponent.

  Returns:
    An array of the shape and dtype of `x`.
  """
  a = _at_least_float32(x)
  around = (size // 2, (size - 1) // 2)
  total = jax.lax.reduce_window(
    a * a,
    # Not an array: with a traced one JAX knows no gradient.
    np.zeros((), a.dtype),
    jax.lax.add,
    window_dimensions=(1, size, size, 1),
    window_strides=(1, 1, 1, 1),
    padding=((0, 0), around, around, (0, 0)),
  )
  power, _ = _inverse_powers(k + alpha * total, beta)
  return (a * power).astype(x.dtype)
