"""Convolution whose gradients are fast on CPU too.

XLA lowers the weight gradient of a large-kernel convolution and every grouped
convolution badly on CPU. There, and only there, the groups are split and the
weight gradient is written as a forward convolution, which XLA makes matrix
products of. The form is chosen by platform when the computation is lowered; GPU
and TPU keep XLA's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.model.architectures import Blocks

_NHWC = ('NHWC', 'HWIO', 'NHWC')


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  padding: tuple[int, int],
  groups: int,
) -> jax.Array:
  """Two-dimensional convolution (cross-correlation, as everywhere).

  Args:
    x: `[N, H, W, in]`.
    kernel: `[kh, kw, in / groups, out]`, of the dtype of `x`.
    stride: step in both directions.
    padding: zeros before and after, in both directions.
    groups: the i-th part of the outputs sees the i-th part of the inputs.

  Returns:
    `[N, H', W', out]`, of the dtype of `x`.
  """
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, kernel: _split_conv(x, kernel, stride, padding, groups),
    default=lambda x, kernel: _xla_conv(x, kernel, stride, padding, groups),
  )


def _conv_fwd(x, kernel, stride, padding, groups):
  return conv2d(x, kernel, stride, padding, groups), (x, kernel)


def _conv_bwd(stride, padding, groups, residuals, g):
  def on_cpu(x, kernel, g):
    _, vjp_x = jax.vjp(
      lambda x: _split_conv(x, kernel, stride, padding, groups), x
    )
    dkernel = _split_weight_gradient(
      x, g, kernel.shape, stride, padding, groups
    )
    return vjp_x(g)[0], dkernel

  def by_xla(x, kernel, g):
    _, vjp = jax.vjp(
      lambda x, kernel: _xla_conv(x, kernel, stride, padding, groups),
      x,
      kernel,
    )
    return vjp(g)

  return jax.lax.platform_dependent(*residuals, g, cpu=on_cpu, default=by_xla)


conv2d.defvjp(_conv_fwd, _conv_bwd)


def conv2d_of_blocks(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """`conv2d` of one group, over pixels that were rearranged before.

  Args:
    x: `[N, H', W', stride * stride * in]`, padded; see `architectures.Blocks`.
    kernel: `[kh, kw, in, out]`, of the dtype of `x`.
    stride: step over the pixels, and side of a block.

  Returns:
    What `conv2d` gives of the pixels: `[N, H'', W'', out]`.
  """
  return conv2d(x, _kernel_to_blocks(kernel, stride), 1, (0, 0), 1)


def to_blocks(x: Any, rows: Blocks, columns: Blocks | None = None) -> Any:
  """`[..., H, W, C]`, of JAX or NumPy, to `[..., H', W', size * size * C]`.

  Args:
    x: pixels.
    rows: how the height is cut.
    columns: how the width is cut; as the height where not given.
  """
  xp = jnp if isinstance(x, jax.Array) else np
  *outer, h, w, channels = x.shape
  both = (rows, columns or rows)
  size = rows.size
  kept = [n + min(b.after, 0) for n, b in zip((h, w), both, strict=True)]
  x = x[..., : kept[0], : kept[1], :]
  sides = [(b.before, max(b.after, 0)) for b in both]
  x = xp.pad(x, [(0, 0)] * len(outer) + [*sides, (0, 0)])
  h, w = x.shape[-3] // size, x.shape[-2] // size
  x = x.reshape(*outer, h, size, w, size, channels)
  return xp.swapaxes(x, -4, -3).reshape(*outer, h, w, size**2 * channels)


def _kernel_to_blocks(kernel, size):
  """`[kh, kw, in, out]` to `[kh', kw', size * size * in, out]`."""
  kh, kw, channels, out = kernel.shape
  rows, columns = -(-kh // size), -(-kw // size)
  padding = (0, rows * size - kh), (0, columns * size - kw), (0, 0), (0, 0)
  kernel = jnp.pad(kernel, padding)
  kernel = kernel.reshape(rows, size, columns, size, channels, out)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  return kernel.reshape(rows, columns, size**2 * channels, out)


def _xla_conv(x, kernel, stride, padding, groups):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    (padding, padding),
    dimension_numbers=_NHWC,
    feature_group_count=groups,
  )


def _split_conv(x, kernel, stride, padding, groups):
  """One convolution a group."""
  outputs = [
    _xla_conv(x_part, kernel_part, stride, padding, 1)
    for x_part, kernel_part in zip(
      jnp.split(x, groups, axis=-1),
      jnp.split(kernel, groups, axis=-1),
      strict=True,
    )
  ]
  return jnp.concatenate(outputs, axis=-1) if groups > 1 else outputs[0]


def _split_weight_gradient(x, g, kernel_shape, stride, padding, groups):
  gradients = [
    _weight_gradient(x_part, g_part, kernel_shape[:2], stride, padding)
    for x_part, g_part in zip(
      jnp.split(x, groups, axis=-1), jnp.split(g, groups, axis=-1), strict=True
    )
  ]
  return jnp.concatenate(gradients, axis=-1) if groups > 1 else gradients[0]


def _weight_gradient(x, g, kernel_size, stride, padding):
  """dL/dkernel, as a convolution of the input with the output's gradient.

  dkernel[i, j] = sum over (n, y, x) of
  padded[n, stride y + i, stride x + j]^T g[n, y, x]: channels take the place of
  the batch, and the batch that of the channels. Stated in the layout of a
  forward convolution it runs at nearly the speed of a matrix product; left to
  XLA's rule of differentiation, at a thirtieth of it.
  """
  kh, kw = kernel_size
  (_, h, w, channels), out = x.shape, g.shape[-1]
  if stride > 1:
    # Over blocks of pixels the stride is 1, and few channels become many.
    blocks = [
      _blocks(n, out_n, k, stride, padding)
      for n, out_n, k in ((h, g.shape[1], kh), (w, g.shape[2], kw))
    ]
    rows, columns = -(-kh // stride), -(-kw // stride)
    dkernel = _weight_gradient(
      to_blocks(x, *blocks), g, (rows, columns), 1, (0, 0)
    )
    dkernel = dkernel.reshape(rows, columns, stride, stride, channels, out)
    dkernel = dkernel.transpose(0, 2, 1, 3, 4, 5)
    dkernel = dkernel.reshape(rows * stride, columns * stride, channels, out)
    return dkernel[:kh, :kw]
  # [C, H, W, N] with kernels [H', W', N, out]
  dkernel = _xla_conv(
    x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), 1, padding, 1
  )
  # More rows than kh come of pixels that no window reached.
  return dkernel[:, :kh, :kw].transpose(1, 2, 0, 3)


def _blocks(size, output_size, kernel, stride, padding):
  number = output_size - 1 + -(-kernel // stride)
  return Blocks(stride, padding[0], number * stride - padding[0] - size)
