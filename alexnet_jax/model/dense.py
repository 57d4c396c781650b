"""Products and biases of layers, fast on CPU in bfloat16 too.

On CPU, XLA's bfloat16 product is slower than its float32 one. On CPU only, this
module uses oneDNN's (`onednn.py`), or else computes in float32. GPU and TPU
keep XLA's own. The platform is chosen when the computation is lowered.
"""

from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.model import onednn
from alexnet_jax.model.lrn import at_least_float32

# Elements of a kernel that are rounded at a time: 8 MB in bfloat16.
_PART = 4 * 2**20


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
  return _on_platform(x, kernel, x.dtype)


def _product_fwd(x, kernel):
  return product(x, kernel), (x, kernel)


def _product_bwd(residuals, g):
  x, kernel = residuals
  dx = _on_platform(g, kernel, x.dtype, transpose_b=True)
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
    b = b.astype(a.dtype)
    y = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    return y.astype(dtype)

  def on_cpu(a, b):
    if not onednn.is_usable(a):
      a, b = map(at_least_float32, (a, b.astype(a.dtype)))
    if not onednn.is_usable(a):
      return by_xla(a, b)
    if transpose_a:
      y = onednn.matmul(a, b, jnp.float32, transpose_a=True)
    else:
      y = _by_parts(a, b, transpose_b)
    return y.astype(dtype)

  return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=by_xla)


def _by_parts(x, kernel, transpose):
  """Multiplies by a kernel, and rounds only some of its rows at a time.

  The rounded rows stay in a cache. A copy of the kernel would be new memory,
  which the system has to clear at each call.
  """

  def multiply(x, rows, dtype):
    rows = rows.astype(x.dtype)
    return onednn.matmul(x, rows, dtype, transpose_b=transpose)

  rows, columns = kernel.shape
  fewest = -(-kernel.size // _PART)
  # Not more than twice as many: small parts are slow.
  numbers = range(fewest, 2 * fewest + 1)
  parts = next((n for n in numbers if rows % n == 0), 1)
  if parts == 1 or kernel.dtype == x.dtype:
    return multiply(x, kernel, x.dtype)
  kernel = kernel.reshape(parts, -1, columns)
  if transpose:
    y = jax.lax.map(lambda rows: multiply(x, rows, x.dtype), kernel)
    return y.swapaxes(0, 1).reshape(len(x), rows)

  def add(total, part):
    x, rows = part
    return total + multiply(x, rows, jnp.float32), None

  zeros = jnp.zeros((len(x), columns), jnp.float32)
  by_part = x.reshape(len(x), parts, -1).swapaxes(0, 1)
  return jax.lax.scan(add, zeros, (by_part, kernel))[0].astype(x.dtype)


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
  return g, bias_gradient(g, bias)


def bias_gradient(g: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns the gradient of a bias, of its shape and dtype.

  Args:
    g: the gradient of the layer's output, `[N, ..., features]`.
    bias: the last axes of `g`.
  """
  axes = tuple(range(g.ndim - bias.ndim))
  # XLA's sum in bfloat16 is slow on CPU.
  return jax.lax.platform_dependent(
    g,
    cpu=lambda g: g.sum(axes, bias.dtype),
    default=lambda g: jax.lax.reduce_sum(g, axes).astype(bias.dtype),
  )


add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)
