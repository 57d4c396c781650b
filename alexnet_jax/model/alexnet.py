"""AlexNet as a Flax module: a straight reading of an `Architecture`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.model import architectures
from alexnet_jax.model.conv import conv2d
from alexnet_jax.model.lrn import (
  local_response_normalization,
  spatial_response_normalization,
)
from alexnet_jax.model.pool import max_pool


class AlexNet(nn.Module):
  """Five convolutions, three dense layers, or what `architecture` says.

  Attributes:
    architecture: the network as data, one of `ARCHITECTURES` or one's own.
    num_classes: outputs of the last layer.
    dtype: of the computation, float32 or bfloat16; parameters and logits are
      float32 in either case. (float64, under `jax_enable_x64`, gives float64
      logits: for comparisons.)
  """

  architecture: architectures.Architecture
  num_classes: int = 1000
  dtype: jnp.dtype = jnp.float32

  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Logits of a batch of images.

    Args:
      images: `[N, H, W, 3]` RGB pixels as the config's `data.mean` and
        `data.std` leave them; the network normalizes nothing. Any size of at
        least `architecture.min_input_size` goes, but the dense layers'
        parameters are those of one size.
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
      `[N, 4096]` in the six networks of `ARCHITECTURES`, of `dtype`.
    """
    return self._layers(images, train=False, logits=False)

  @nn.compact
  def _layers(self, images, train, logits):
    arch = self.architecture
    if images.ndim != 4:
      raise ValueError(f'images of shape {images.shape}: [N, H, W, 3] needed')
    if arch.spatial_size(min(images.shape[1:3])) < 1:
      raise ValueError(
        f'images of {images.shape[1]}x{images.shape[2]} pixels are too small'
        f' for {arch.name!r}: at least'
        f' {arch.min_input_size}x{arch.min_input_size}'
      )
    x = images.astype(self.dtype)  # [N, 227, 227, 3]
    layers = list(zip(arch.layer_names, arch.layers, strict=True))
    if not logits:
      name, layer = layers[-2]
      # Features are what is there before a last dropout, which may scale.
      kept = [op for op in layer.then if type(op) is not architectures.Dropout]
      layers[-2:] = [(name, dataclasses.replace(layer, then=tuple(kept)))]
    for name, layer in layers:
      if isinstance(layer, architectures.Conv):
        # conv1 [N, 55, 55, 96], conv2 [N, 27, 27, 256],
        # conv3..5 [N, 13, 13, 384 or 256]; see Figure 2.
        x = Conv(layer, self.dtype, name=name)(x)
      else:
        x = x.reshape(x.shape[0], -1)  # fc6 [N, 6 * 6 * 256]
        x = Dense(layer, self.num_classes, self.dtype, name=name)(x)
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

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[N, H, W, in]` to `[N, H', W', features]`."""
    layer = self.layer
    fan_in = layer.kernel**2 * (x.shape[-1] // layer.groups)
    kernel_init, bias_init = _initializers(layer, fan_in)
    kernel = self.param(
      'kernel',
      kernel_init,
      (
        layer.kernel,
        layer.kernel,
        x.shape[-1] // layer.groups,
        layer.features,
      ),
    )
    bias = self.param('bias', bias_init, (layer.features,))
    x = conv2d(
      x,
      kernel.astype(self.dtype),
      layer.stride,
      layer.padding,
      layer.groups,
    )
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
