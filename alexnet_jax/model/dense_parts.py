"""Fully connected layers of which each device has a part (docs/pods.md).

A layer's `Part` says which part that is, and how devices compute together. N is
the number of images of all devices, n of one.
"""

import dataclasses
import functools
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Part:
  """All of a layer: one device's, or the same on each."""

  def rows(self, inputs: int) -> int:
    """Returns the rows of the kernel on this device, of an input's width."""
    return inputs

  def columns(self, features: int) -> int:
    """Returns the columns of the kernel on this device."""
    return features

  def input(self, x: jax.Array) -> jax.Array:
    """Returns the input of this device's part."""
    return x

  def kernel(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the kernel that this device multiplies `x` by."""
    del x
    return kernel

  def output(self, y: jax.Array) -> jax.Array:
    """Returns this device's output."""
    return y


@dataclasses.dataclass(frozen=True)
class Rows(Part):
  """Some rows of the kernel, gathered to compute this device's images.

  Attributes:
    axis_name: the axis over the devices.
    dtype: the network's, to which devices round a kernel before they send it.
    sum_dtype: precision in which gradients are sent and added; None: theirs.
  """

  axis_name: str
  dtype: Any
  sum_dtype: Any = None

  def rows(self, inputs):
    """Of equal parts."""
    return inputs // jax.lax.axis_size(self.axis_name)

  def kernel(self, kernel, x):
    """Gathers all rows."""
    # Not before it is needed: TPUs would gather it while they convolve, and
    # have no room for both on the chip.
    kernel, _ = jax.lax.optimization_barrier((kernel, jax.lax.stop_gradient(x)))
    return _gathered(kernel, self.axis_name, self.dtype, self.sum_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(kernel, axis_name, dtype, sum_dtype):
  del sum_dtype
  rows = jax.lax.all_gather(kernel.astype(dtype), axis_name, tiled=True)
  return rows.astype(kernel.dtype)


def _gathered_fwd(*arguments):
  return _gathered(*arguments), None


def _gathered_bwd(axis_name, dtype, sum_dtype, residuals, g):
  del dtype, residuals
  sent = g.astype(sum_dtype or g.dtype)
  return (jax.lax.psum_scatter(sent, axis_name, tiled=True).astype(g.dtype),)


_gathered.defvjp(_gathered_fwd, _gathered_bwd)


@dataclasses.dataclass(frozen=True)
class Units(Part):
  """Some of the units, computed for the images of all devices.

  Attributes:
    axis_name: the axis over the devices.
    follows: whether the layer before is divided, too.
  """

  axis_name: str
  follows: bool

  def columns(self, features):
    """Of equal parts."""
    return features // jax.lax.axis_size(self.axis_name)

  def input(self, x):
    """Gathers the images, or what the devices computed of each."""
    # [N, in / devices] -> [N, in], or [n, in] -> [N, in].
    axis = 1 if self.follows else 0
    return jax.lax.all_gather(x, self.axis_name, axis=axis, tiled=True)


@dataclasses.dataclass(frozen=True)
class Inputs(Part):
  """Some of the inputs, whose sums over all devices are the layer's output.

  Each device has the output of its own images, whatever the number of units.

  Attributes:
    axis_name: the axis over the devices.
    follows: whether the layer before is divided, too.
  """

  axis_name: str
  follows: bool

  def input(self, x):
    """Exchanges images for inputs, if the layer before is not divided."""
    if self.follows:
      return x  # [N, in / devices]
    # [n, in] -> [N, in / devices]
    return jax.lax.all_to_all(x, self.axis_name, 1, 0, tiled=True)

  def output(self, y):
    """Adds up the devices' parts of the sums."""
    # [N, features] -> [n, features]
    return jax.lax.psum_scatter(y, self.axis_name, tiled=True)
