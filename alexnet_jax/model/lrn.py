"""Local response normalization, LRN (section 3.3 of the paper)."""

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
  """Divides each activation by a norm of its neighbouring channels.

  The paper's formula, where `size` is its n:

    b[i] = a[i] / (k + alpha * sum_j a[j]^2) ^ beta,
    j from i - size // 2 to i + (size - 1) // 2, cut at the group's edges.

  alpha is NOT divided by `size`. Caffe, cuda-convnet and PyTorch divide theirs:
  `torch.nn.LocalResponseNorm(5, alpha=A)` corresponds to `alpha=A / 5` here.
  `tf.nn.local_response_normalization(x, 2, bias, alpha, beta)` has the same
  alpha.

  Sums and powers are computed in float32 (float64 if `x` is float64). On TPU,
  a bfloat16 `x` rounds the squares to bfloat16 before they are summed, and
  keeps the sums for the gradient in bfloat16.

  Only reverse-mode differentiation is supported: the gradient is written by
  hand, because it needs just one more windowed sum.

  Args:
    x: activations, `[..., channels]`; windows run over the last axis.
    size: number of channels in a window (the paper's n).
    k: constant added to the sum.
    alpha: factor of the sum of squares.
    beta: exponent.
    groups: number of equal groups of channels that are normalized separately
      (the two columns of the authors' code).

  Returns:
    An array with the shape and dtype of `x`.

  Raises:
    TypeError: `x` has no floating-point dtype.
    ValueError: `size` is not positive, or `groups` does not divide the
      channels.

  Example, where the sums of squares are 1, 1, 4, 4 and 4:
    >>> x = jnp.array([1.0, 0.0, 0.0, 2.0, 0.0])
    >>> local_response_normalization(x, size=3, k=0, alpha=1, beta=1)
    Array([1. , 0. , 0. , 0.5, 0. ], dtype=float32)
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f'LRN needs floating-point activations, not {x.dtype}')
  if size < 1:
    raise ValueError(f'LRN window of size {size}: must be at least 1')
  if x.ndim < 1 or groups < 1 or x.shape[-1] % groups:
    raise ValueError(
      f'{groups} groups do not divide the last axis of shape {x.shape}'
    )
  return _lrn(x, size, float(k), float(alpha), float(beta), groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _lrn(x, size, k, alpha, beta, groups):
  return _forward(x, size, k, alpha, beta, groups)[0]


def _forward(x, size, k, alpha, beta, groups):
  a = at_least_float32(x)
  total = _window_sum(a * a, x.dtype, (size // 2, (size - 1) // 2), groups)
  power, _ = _inverse_powers(k + alpha * total, beta)
  return (a * power).astype(x.dtype), (x, total.astype(x.dtype))


def _backward(size, k, alpha, beta, groups, residuals, g):
  """Computes the gradient of the formula, where d is its denominator's base.

    dL/da[i] = g[i] d[i]^-beta - 2 alpha beta a[i] sum_j g[j] b[j] / d[j]

  The sum runs over those j whose window contains i: the reversed window.
  """
  x, total = residuals
  a, gradient = at_least_float32(x), at_least_float32(g)
  before, after = size // 2, (size - 1) // 2
  # Except on TPU, summing again costs no more than keeping the sums.
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


def at_least_float32(x: jax.Array) -> jax.Array:
  """Returns floats of 16 bits as float32, and any other array as it is."""
  is_short = x.dtype in (jnp.bfloat16, jnp.float16)
  return x.astype(jnp.float32) if is_short else x


def _window_sum(x, dtype, window, groups):
  """Sums over the last axis from i - before to i + after in each group."""
  channels = x.shape[-1] // groups
  # A window that is wider than the group is cut at the group's edges.
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
  """Sums by a matrix product with a band of ones, for a TPU's matrix units.

  TPUs are slow at shifts along channels. With bfloat16 activations the
  summands are rounded to bfloat16 and summed in float32.
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
    # By default a TPU rounds the factors of a float32 product to bfloat16.
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=x.dtype,
  )


def _inverse_powers(d, beta):
  """Returns d ^ -beta and 1 / d.

  The paper's beta needs two square roots only.
  """
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
  """Divides each activation by a norm of its surroundings in its channel.

  This is cuda-convnet's `type=rnorm` (layers-145.cfg, after conv2): the formula
  of `local_response_normalization` with a sum over `size` x `size` positions.

  Args:
    x: activations, `[N, H, W, channels]`.
    size: height and width of the patch, which is cut at the map's edges.
    k: constant added to the sum.
    alpha: factor of the sum of squares, not divided by the patch's area.
    beta: exponent.

  Returns:
    An array with the shape and dtype of `x`.

  Example, where every patch contains all four positions:
    >>> x = jnp.ones((1, 2, 2, 1))
    >>> spatial_response_normalization(x, size=3, k=0, alpha=1, beta=1).ravel()
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
  """
  a = at_least_float32(x)
  around = (size // 2, (size - 1) // 2)
  total = jax.lax.reduce_window(
    a * a,
    # JAX has no gradient for a traced initial value.
    np.zeros((), a.dtype),
    jax.lax.add,
    window_dimensions=(1, size, size, 1),
    window_strides=(1, 1, 1, 1),
    padding=((0, 0), around, around, (0, 0)),
  )
  power, _ = _inverse_powers(k + alpha * total, beta)
  return (a * power).astype(x.dtype)
