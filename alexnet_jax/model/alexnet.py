"""AlexNet as a Flax module: a straight reading of an `Architecture`."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.model import architectures
from alexnet_jax.model.conv import conv2d, conv2d_of_blocks, local_conv2d
from alexnet_jax.model.lrn import (
  local_response_normalization,
  spatial_response_normalization,
)
from alexnet_jax.model.pool import max_pool

# Of a batch (`conv_batch`).
_MAX_PARTS = 16


class AlexNet(nn.Module):
  """Five convolutions, three dense layers, or what `architecture` says.

  Attributes:
    architecture: the network as data, one of `ARCHITECTURES` or one's own.
    num_classes: outputs of the last layer.
    dtype: of the computation, float32 or bfloat16; parameters and logits are
      float32 in either case. (float64, under `jax_enable_x64`, gives float64
      logits: for comparisons.)
    conv_batch: pictures that the convolutions take at a time, one part of the
      batch after the other; None: all at once. The numbers are the same. On TPU
      128 fill its lanes, and what lies between two layers stays on the chip.
  """

  architecture: architectures.Architecture
  num_classes: int = 1000
  dtype: jnp.dtype = jnp.float32
  conv_batch: int | None = None

  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Logits of a batch of images.

    Args:
      images: `[N, H, W, 3]` RGB pixels as the config's `data.mean` and
        `data.std` leave them; the network normalizes nothing. Any size of at
        least `architecture.min_input_size` goes, but the dense layers'
        parameters are those of one size. Or the same pixels rearranged for
        conv1, `[N, H', W', 48]`: `conv.to_blocks(images, blocks)` with the
        `architecture.input_blocks(H)`. The parameters are the same.
      train: whether dropout is on (it takes the 'dropout' random key).

    Returns:
      `[N, num_classes]` float32 logits.

    Raises:
      ValueError: the images are too small for the network.
    """
    logits = self._layers(images, train, logits=True)
    return logits.astype(jnp.promote_types(self.dtype, jnp.float32))

  def features(self, images: jax.Array) -> jax.Array:
    """What the last layer sees: fc7 after its ReLU, without dropout.

    Args:
      images: as for `__call__`.

    Returns:
      `[N, 4096]` in the six networks of `ALEXNETS`, of `dtype`.
    """
    x = self._layers(images, train=False, logits=False)
    return x.reshape(x.shape[0], -1)

  @nn.compact
  def _layers(self, images, train, logits):
    arch = self.architecture
    blocked = self._check(images)
    x = images.astype(self.dtype)  # [N, 227, 227, 3]
    layers = list(zip(arch.layer_names, arch.layers, strict=True))
    if not logits:
      name, layer = layers[-2]
      # Features are what is there before a last dropout, which may scale.
      kept = [op for op in layer.then if type(op) is not architectures.Dropout]
      layers[-2:] = [(name, dataclasses.replace(layer, then=tuple(kept)))]
    convs = [
      Conv(layer, self.dtype, blocked and layer is arch.layers[0], name=name)
      for name, layer in layers
      if isinstance(layer, architectures.Conv)
    ]
    outputs: list[jax.Array] = []
    for part in _parts(x, self.conv_batch):
      before = outputs[-1:]
      for conv in convs:
        # conv1 [N, 55, 55, 96], conv2 [N, 27, 27, 256],
        # conv3..5 [N, 13, 13, 384 or 256]; see Figure 2.
        part = conv(part, before)
        part = self._then(conv.name, conv.layer, part, train)
        before = []
      outputs.append(part)
    x = jnp.concatenate(outputs) if len(outputs) > 1 else outputs[0]
    for name, layer in layers[len(convs) :]:
      assert isinstance(layer, architectures.Dense)
      x = x.reshape(x.shape[0], -1)  # fc6 [N, 6 * 6 * 256]
      x = Dense(layer, self.num_classes, self.dtype, name=name)(x)
      x = self._then(name, layer, x, train)
    return x

  def _check(self, images):
    """Whether these are blocks of pixels; refuses what is too small."""
    arch = self.architecture
    if images.ndim != 4:
      raise ValueError(f'images of shape {images.shape}: [N, H, W, 3] needed')
    height, width, channels = images.shape[1:]
    side, first = arch.block_size, arch.layers[0]
    blocked = side > 1 and channels == 3 * side**2
    if blocked and isinstance(first, architectures.Conv):
      # What pads them is no part of the pictures.
      height, width = (side * n - sum(first.padding) for n in (height, width))
    if arch.spatial_size(min(height, width)) < 1:
      raise ValueError(
        f'images of {height}x{width} pixels are too small'
        f' for {arch.name!r}: at least'
        f' {arch.min_input_size}x{arch.min_input_size}'
      )
    return blocked

  def _then(self, name, layer, x, train):
    for op in layer.then:
      with jax.named_scope(architectures.scope_name(name, op)):
        x = self._apply(op, x, train)
    return x

  def _apply(self, op, x, train):
    match op:
      case architectures.Activation():
        return (
          nn.relu(x) if self.architecture.activation == 'relu' else jnp.tanh(x)
        )
      case architectures.LRN():
        return local_response_normalization(
          x,
          size=op.size,
          k=op.k,
          alpha=op.alpha,
          beta=op.beta,
          groups=op.groups,
        )
      case architectures.SpatialLRN():
        return spatial_response_normalization(
          x, size=op.size, k=op.k, alpha=op.alpha, beta=op.beta
        )
      case architectures.MaxPool():
        return max_pool(x, op.window, op.stride)
      case architectures.Dropout():
        x = nn.Dropout(op.rate, deterministic=not train)(x)
        return x * (1 - op.rate) if op.scale_at == 'test' else x
    raise TypeError(f'unknown operation {op!r}')


class Conv(nn.Module):
  """A convolution with the paper's initialization."""

  layer: architectures.Conv
  dtype: jnp.dtype
  blocked: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, before: Sequence[jax.Array] = ()
  ) -> jax.Array:
    """`[N, H, W, in]`, or its blocks, to `[N, H', W', features]`.

    What is `before` is computed before, so that memory is shared in turns.
    """
    layer = self.layer
    inputs = x.shape[-1] // layer.groups
    if self.blocked:
      inputs //= layer.stride**2
    fan_in = layer.kernel**2 * inputs
    shape: tuple[int, ...] = (layer.kernel, layer.kernel, inputs)
    place: tuple[int, ...] = ()
    if not layer.shared:
      place = (layer.output_size(x.shape[1]), layer.output_size(x.shape[2]))
      shape = (*place, fan_in)
    kernel_init, bias_init = _initializers(layer, fan_in)
    kernel = self.param('kernel', kernel_init, (*shape, layer.features))
    kernel = kernel.astype(self.dtype)
    bias = self.param('bias', bias_init, (*place, layer.features))
    if before:
      # Not of `x`: the part of a batch would have to be copied for it.
      kernel, bias, *_ = jax.lax.optimization_barrier((kernel, bias, *before))
    if self.blocked:
      x = conv2d_of_blocks(x, kernel, layer.stride)
    elif not layer.shared:
      x = local_conv2d(x, kernel, layer.kernel, layer.padding)
    else:
      x = conv2d(x, kernel, layer.stride, layer.padding, layer.groups)
    return x + bias.astype(self.dtype)


class Dense(nn.Module):
  """A fully connected layer with the paper's initialization."""

  layer: architectures.Dense
  num_classes: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, in]` to `[N, features]`."""
    features = self.layer.features or self.num_classes
    kernel_init, bias_init = _initializers(self.layer, x.shape[-1])
    kernel = self.param('kernel', kernel_init, (x.shape[-1], features))
    bias = self.param('bias', bias_init, (features,))
    return x @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def _parts(x, size):
  """A batch in parts of `size`, or whole if they do not fill it.

  Whole too where they would be many: each is compiled on its own.
  """
  if not size or len(x) % size or len(x) > _MAX_PARTS * size:
    return [x]
  return [x[i : i + size] for i in range(0, len(x), size)]


def _initializers(layer, fan_in):
  """Initializers of a layer's kernel and bias."""
  if layer.weight_std is not None:
    return (
      nn.initializers.normal(layer.weight_std),
      nn.initializers.constant(layer.bias),
    )
  bound = architectures.torch_uniform_bound(fan_in)

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return uniform, uniform
