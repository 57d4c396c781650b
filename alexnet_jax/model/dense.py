"""Products and biases of layers, fast on CPU in bfloat16 too.

On CPU, XLA's bfloat16 product is slower than its float32 one. On CPU only, this
module uses oneDNN's (`onednn.py`), or else computes in float32. GPU and TPU
keep XLA's own. The platform is chosen when the computation is lowered.
"""

from typing import Any

import jax

from alexnet_jax.model import onednn
from alexnet_jax.model.lrn import at_least_float32


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes a matrix product with the precision of `x`.

  Args:
    x: `[N, in]`.
    kernel: `[in, out]`, which is rounded to the dtype of `x`. On CPU its
      gradient is not.

  Returns:
    `[N, out]`, with the dtype of `x`.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.ones((2, 3), jnp.bfloat16)
    >>> product(x, jnp.ones((3, 1))).tolist()
    [[3.0], [3.0]]
  """
  return _on_platform(x, kernel.astype(x.dtype), x.dtype)


def _product_fwd(x, kernel):
  return product(x, kernel), (x, kernel)


def _product_bwd(residuals, g):
  x, kernel = residuals
  dx = _on_platform(g, kernel.astype(x.dtype), x.dtype, transpose_b=True)
  return dx, _on_platform(x, g, kernel.dtype, transpose_a=True)


product.defvjp(_product_fwd, _product_bwd)


def _on_platform(
  a: jax.Array,
  b: jax.Array,
  dtype: Any,
  transpose_a: bool = False,
  transpose_b: bool = False,
) -> jax.Array:
  def by_xla(a, b):
    y = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    return y.astype(dtype)

  def on_cpu(a, b):
    if onednn.is_usable(a):
      return onednn.matmul(
        a, b, dtype, transpose_a=transpose_a, transpose_b=transpose_b
      )
    return by_xla(at_least_float32(a), at_least_float32(b))

  return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=by_xla)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds a bias, on CPU in its own precision.

  Args:
    x: `[N, ..., features]`.
    bias: the last axes of `x`, for example `[features]`.

  Returns:
    The shape and dtype of `x`.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.zeros((2, 3), jnp.bfloat16)
    >>> jax.grad(lambda bias: add_bias(x, bias).sum())(jnp.ones(3))
    Array([2., 2., 2.], dtype=float32)
  """
  return jax.lax.platform_dependent(
    x,
    bias,
    cpu=lambda x, bias: (x + bias).astype(x.dtype),
    default=lambda x, bias: x + bias.astype(x.dtype),
  )


def _add_bias_fwd(x, bias):
  return add_bias(x, bias), bias


def _add_bias_bwd(bias, g):
  axes = tuple(range(g.ndim - bias.ndim))
  # XLA's sum in bfloat16 is slow on CPU.
  return g, jax.lax.platform_dependent(
    g,
    cpu=lambda g: g.sum(axes, bias.dtype),
    default=lambda g: jax.lax.reduce_sum(g, axes).astype(bias.dtype),
  )


add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)
