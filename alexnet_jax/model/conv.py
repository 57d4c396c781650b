"""Convolution whose gradients are fast on CPU too.

XLA lowers the weight gradient of a large-kernel convolution and every grouped
convolution badly on CPU. There, and only there, the groups are split and the
weight gradient is written as matrix products. The form is chosen by platform
when the computation is lowered; GPU and TPU keep XLA's own.
"""

import functools

import jax
import jax.numpy as jnp

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
  """dL/dkernel, one matrix product for each row of the kernel.

  dkernel[i, j] = sum over (n, y, x) of
  padded[n, stride y + i, stride x + j]^T g[n, y, x]: the kw shifts along the
  width are laid side by side once, the kh shifts along the height are slices.
  """
  kh, kw = kernel_size
  n, out_h, out_w, out = g.shape
  channels = x.shape[-1]
  padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
  # [N, H, W', kw * in]
  patches = jnp.concatenate(
    [
      jax.lax.slice_in_dim(
        padded, j, j + (out_w - 1) * stride + 1, stride, axis=2
      )
      for j in range(kw)
    ],
    axis=-1,
  )
  rows = []
  for i in range(kh):
    row = jax.lax.slice_in_dim(
      patches, i, i + (out_h - 1) * stride + 1, stride, axis=1
    )  # [N, H', W', kw * in]
    rows.append(
      jax.lax.dot_general(
        row.reshape(n * out_h * out_w, kw * channels),
        g.reshape(n * out_h * out_w, out),
        (((0,), (0,)), ((), ())),
      )
    )
  return jnp.stack(rows).reshape(kh, kw, channels, out)
