"""The matrix product of fully connected layers, fast on CPU in bfloat16 too.

XLA's bfloat16 product on CPU is slower than its float32 one. On CPU only, this
module uses oneDNN's (`onednn.py`), or else computes in float32. GPU and TPU
keep XLA's own. The platform is chosen when the computation is lowered.
"""

import jax
import jax.numpy as jnp

from alexnet_jax.model import onednn


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes a matrix product with the precision of `x`.

  Args:
    x: `[N, in]`.
    kernel: `[in, out]`, rounded to the dtype of `x`. Its gradient is not.

  Returns:
    `[N, out]`, with the dtype of `x`.

  Example:
    >>> x = jnp.ones((2, 3), jnp.bfloat16)
    >>> product(x, jnp.ones((3, 1))).tolist()
    [[3.0], [3.0]]
  """
  if x.dtype != jnp.bfloat16:
    return x @ kernel.astype(x.dtype)
  return _product(x, kernel)


@jax.custom_vjp
def _product(x, kernel):
  return _on_platform(x, kernel.astype(x.dtype), x.dtype)


def _product_fwd(x, kernel):
  return _product(x, kernel), (x, kernel)


def _product_bwd(residuals, g):
  x, kernel = residuals
  dx = _on_platform(g, kernel.astype(x.dtype), x.dtype, transpose_b=True)
  return dx, _on_platform(x, g, kernel.dtype, transpose_a=True)


_product.defvjp(_product_fwd, _product_bwd)


def _on_platform(a, b, dtype, transpose_a=False, transpose_b=False):
  def by_xla(a, b):
    return jnp.matmul(
      a.T if transpose_a else a,
      b.T if transpose_b else b,
      preferred_element_type=dtype,
    )

  def on_cpu(a, b):
    if onednn.is_usable(a):
      return onednn.matmul(
        a, b, dtype, transpose_a=transpose_a, transpose_b=transpose_b
      )
    return by_xla(a.astype(jnp.float32), b.astype(jnp.float32)).astype(dtype)

  return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=by_xla)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds a bias, whose gradient is summed with its own precision.

  Args:
    x: `[..., features]`.
    bias: `[features]` or the shape of `x` but for its first axis.

  Returns:
    The shape and dtype of `x`.
  """
  if x.dtype == bias.dtype:
    return x + bias
  return _add_bias(x, bias)


@jax.custom_vjp
def _add_bias(x, bias):
  return (x + bias).astype(x.dtype)


def _add_bias_fwd(x, bias):
  return _add_bias(x, bias), bias


def _add_bias_bwd(bias, g):
  return g, g.sum(range(g.ndim - bias.ndim), bias.dtype)


_add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)
