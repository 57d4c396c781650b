"""Convolution with gradients that are fast on CPU too (section 3.5).

On CPU, XLA is slow at grouped convolutions and at weight gradients of large
kernels. On CPU only, this module uses oneDNN where it can (`onednn.py`), and
writes weight gradients as forward convolutions. Without oneDNN it splits the
groups, and computes bfloat16 in float32, in which XLA is faster. GPU and TPU
keep XLA's own convolutions. The platform is chosen when the computation is
lowered.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

from alexnet_jax.model import eigen, onednn
from alexnet_jax.model.dense import add_bias, bias_gradient
from alexnet_jax.model.layer_types import Blocks
from alexnet_jax.model.lrn import at_least_float32

eigen.prefer()
_NHWC = ('NHWC', 'HWIO', 'NHWC')
# Bytes that fit in a cache of the CPU.
_CACHE = 4 * 2**20


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  padding: tuple[int, int],
  groups: int,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Computes a two-dimensional convolution (as a cross-correlation).

  Args:
    x: `[N, H, W, in]`.
    kernel: `[kh, kw, in / groups, out]`, with the dtype of `x`.
    stride: step in both directions.
    padding: zeros before and after the pixels, in both directions.
    groups: number of parts that inputs and outputs are divided into; each part
      of the outputs sees the same part of the inputs.
    bias: `[out]` float32, or None.

  Returns:
    `[N, H', W', out]`, with the dtype of `x`.

  Example:
    >>> images = jax.ShapeDtypeStruct((2, 227, 227, 3), jnp.float32)
    >>> kernel = jax.ShapeDtypeStruct((11, 11, 3, 96), jnp.float32)
    >>> conv1 = functools.partial(conv2d, stride=4, padding=(0, 0), groups=1)
    >>> jax.eval_shape(conv1, images, kernel).shape
    (2, 55, 55, 96)
  """

  def on_cpu(x, kernel, bias):
    dtype = x.dtype
    x, kernel = _computed(x, kernel)
    if onednn.is_usable(x):
      bias = None if bias is None else bias.astype(jnp.float32)
      y = onednn.conv2d(x, kernel, stride, padding, groups, bias=bias)
      return y.astype(dtype)

    def conv(x, kernel):
      return _xla_conv(x, kernel, stride, padding, 1)

    return _add(_by_group(conv, groups, x, kernel), bias).astype(dtype)

  def by_xla(x, kernel, bias):
    return _add(_xla_conv(x, kernel, stride, padding, groups), bias)

  return jax.lax.platform_dependent(x, kernel, bias, cpu=on_cpu, default=by_xla)


def _computed(*arrays):
  """Returns arrays in the dtype in which the CPU computes them."""
  usable = onednn.is_usable(arrays[0])
  return arrays if usable else tuple(map(at_least_float32, arrays))


def _add(y, bias):
  return y if bias is None else add_bias(y, bias)


def _conv_fwd(x, kernel, stride, padding, groups, bias):
  y = conv2d(x, kernel, stride, padding, groups, bias)
  return y, (x, kernel, bias)


def _conv_bwd(stride, padding, groups, residuals, g):
  *residuals, bias = residuals

  def on_cpu(x, kernel, g):
    dtype = x.dtype
    x, kernel, g = _computed(x, kernel, g)
    dx = _input_gradient(g, kernel, x.shape, stride, padding, groups)

    def of_group(x, g):
      return _weight_gradient(x, g, kernel.shape[:2], stride, padding)

    # Not inlined: XLA would fuse a ReLU into the transposes, and only plain
    # transposes are fast. A new function, as `onednn.disabled` may have changed
    # since another was traced.
    with set_xla_metadata(inlineable='false'):
      dkernel = jax.jit(lambda x, g: _by_group(of_group, groups, x, g))(x, g)
    return dx.astype(dtype), dkernel.astype(dtype)

  def by_xla(x, kernel, g):
    _, vjp = jax.vjp(
      lambda x, kernel: _xla_conv(x, kernel, stride, padding, groups),
      x,
      kernel,
    )
    return vjp(g)

  dx, dkernel = jax.lax.platform_dependent(
    *residuals, g, cpu=on_cpu, default=by_xla
  )
  return dx, dkernel, None if bias is None else bias_gradient(g, bias)


conv2d.defvjp(_conv_fwd, _conv_bwd)


def conv2d_of_blocks(
  x: jax.Array, kernel: jax.Array, stride: int, bias: jax.Array | None = None
) -> jax.Array:
  """Computes `conv2d` with one group, from blocks of pixels.

  Args:
    x: `[N, H', W', stride * stride * in]`, with padding: see `to_blocks`.
    kernel: `[kh, kw, in, out]`, with the dtype of `x`.
    stride: step over the pixels, equal to the side of a block.
    bias: `[out]` float32, or None.

  Returns:
    `[N, H'', W'', out]`, as `conv2d` returns it for the pixels.
  """
  return conv2d(x, _kernel_to_blocks(kernel, stride), 1, (0, 0), 1, bias)


def to_blocks(x: Any, rows: Blocks, columns: Blocks | None = None) -> Any:
  """Rearranges pixels into blocks (space to depth).

  Args:
    x: pixels, `[..., H, W, C]`, of JAX or NumPy.
    rows: how the height is cut.
    columns: how the width is cut; by default like the height.

  Returns:
    `[..., H', W', size * size * C]`, an array of the same library.

  Example:
    >>> to_blocks(np.arange(16).reshape(4, 4, 1), Blocks(2, 0, 0))[0, 0]
    array([0, 1, 4, 5])
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
  """Rearranges `[kh, kw, in, out]` as `[kh', kw', size * size * in, out]`."""
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


def _input_gradient(g, kernel, shape, stride, padding, groups):
  """Computes dL/dx of the shape `[N, H, W, in]`.

  With a stride of 1 it is the output's gradient, padded by `kernel - 1` minus
  the forward padding, convolved with the kernel rotated by 180 degrees.
  """
  kh, kw, inputs, outputs = kernel.shape
  before, after = (kh - 1 - n for n in padding)
  if (
    onednn.is_usable(g) and stride == 1 and kh == kw and min(before, after) >= 0
  ):
    rotated = kernel[::-1, ::-1].reshape(kh, kw, inputs, groups, -1)
    rotated = rotated.transpose(0, 1, 4, 3, 2)
    rotated = rotated.reshape(kh, kw, outputs // groups, groups * inputs)
    return onednn.conv2d(g, rotated, 1, (before, after), groups)

  def of_group(g, kernel):
    transpose = jax.linear_transpose(
      lambda x: _xla_conv(x, kernel, stride, padding, 1),
      jax.ShapeDtypeStruct((*shape[:3], inputs), g.dtype),
    )
    return transpose(g)[0]

  return _by_group(of_group, groups, g, kernel)


def _by_group(operation, groups, *arrays):
  """Applies `operation` to each group of the arrays' last axes."""
  parts = zip(*(jnp.split(x, groups, axis=-1) for x in arrays), strict=True)
  outputs = [operation(*part) for part in parts]
  return jnp.concatenate(outputs, axis=-1) if groups > 1 else outputs[0]


def _weight_gradient(x, g, kernel_size, stride, padding):
  """Computes dL/dkernel by convolving the input with the output's gradient.

    dkernel[i, j] = sum over (n, y, x) of
      padded[n, stride y + i, stride x + j]^T g[n, y, x]

  In the layout of a forward convolution this runs at nearly the speed of a
  matrix product; the gradient that JAX derives is far slower
  (benchmarks/conv.py).
  """
  if stride > 1:
    return _over_blocks(x, g, kernel_size, stride, padding)
  # In float32 with many channels, Eigen is faster than oneDNN.
  by_onednn = x.dtype == jnp.bfloat16 or x.shape[-1] <= 64
  if by_onednn and onednn.is_usable(x):
    return _by_columns(x, g, kernel_size, padding)
  return _by_channels(x, g, kernel_size, padding)


def _by_columns(x, g, kernel_size, padding):
  """Computes a weight gradient from one image, dilated by the channels.

  The image's rows are y; its columns are (x, c), the pixels of a row with their
  channels; its channels are the batch. The kernel is the output's gradient,
  `[H', W', N, out]`, whose columns are `in` columns of the image apart. So the
  result is `[kh, kw * in, out]`, and its rows are long enough for oneDNN.
  """
  kh, kw = kernel_size
  (n, h, w, channels), (_, height, width, out) = x.shape, g.shape
  before = padding[0]
  sides = [
    (before, out_size + k - 1 - size - before, 0)
    for out_size, k, size in ((height, kh, h), (width, kw, w))
  ]
  zero = jnp.zeros((), x.dtype)
  x = jax.lax.pad(x, zero, [(0, 0, 0), *sides, (0, 0, 0)])
  x = jax.lax.optimization_barrier(x)
  # As many rows of `g` at a time as fit into a cache.
  rows = max(1, _CACHE // (width * n * out * g.dtype.itemsize))
  parts = []
  for y in range(0, height, rows):
    some = g[:, y : y + rows]
    image = x[:, y : y + some.shape[1] + kh - 1].transpose(1, 2, 3, 0)
    parts.append(
      onednn.conv2d(
        image.reshape(1, len(image), -1, n),
        some.transpose(1, 2, 0, 3),
        1,
        (0, 0),
        dilation=(1, channels),
        dtype=jnp.float32,
      )
    )
  dkernel = functools.reduce(jnp.add, parts)
  return dkernel.reshape(kh, kw, channels, out).astype(x.dtype)


def _by_channels(x, g, kernel_size, padding):
  """Computes a weight gradient from an image for each channel.

  Channels take the place of the batch, and the batch that of the channels.
  """
  kh, kw = kernel_size
  # [C, H, W, N] with kernels [H', W', N, out]
  dkernel = _xla_conv(
    x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), 1, padding, 1
  )
  # Rows beyond kh come from pixels that no window reaches.
  return dkernel[:, :kh, :kw].transpose(1, 2, 0, 3)


def _over_blocks(x, g, kernel_size, stride, padding):
  """Computes a weight gradient over blocks of pixels.

  Over blocks, the stride is 1 and there are more channels.
  """
  kh, kw = kernel_size
  channels, out = x.shape[-1], g.shape[-1]
  blocks = [
    _blocks(n, out_n, k, stride, padding)
    for n, out_n, k in zip(x.shape[1:3], g.shape[1:3], kernel_size, strict=True)
  ]
  rows, columns = -(-kh // stride), -(-kw // stride)
  x = to_blocks(x, *blocks)
  dkernel = _weight_gradient(x, g, (rows, columns), 1, (0, 0))
  dkernel = dkernel.reshape(rows, columns, stride, stride, channels, out)
  dkernel = dkernel.transpose(0, 2, 1, 3, 4, 5)
  dkernel = dkernel.reshape(rows * stride, columns * stride, channels, out)
  return dkernel[:kh, :kw]


def _blocks(size, output_size, kernel, stride, padding):
  number = output_size - 1 + -(-kernel // stride)
  return Blocks(stride, padding[0], number * stride - padding[0] - size)


def local_conv2d(
  x: jax.Array, kernel: jax.Array, size: int, padding: tuple[int, int]
) -> jax.Array:
  """Computes a locally connected layer: each position has its own kernel.

  This is cuda-convnet's `type=local`, with a stride of 1.

  Args:
    x: `[N, H, W, in]`.
    kernel: `[H', W', size * size * in, out]`; the values of a window are
      ordered by row, then column, then channel.
    size: height and width of the window.
    padding: zeros before and after the pixels, in both directions.

  Returns:
    `[N, H', W', out]`, with the dtype of `x`.
  """
  height, width = kernel.shape[:2]
  x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
  windows = [
    x[:, i : i + height, j : j + width]
    for i in range(size)
    for j in range(size)
  ]
  # [N, H', W', size * size * in]
  return jnp.einsum(
    'nhwi,hwio->nhwo', jnp.concatenate(windows, axis=-1), kernel
  )
