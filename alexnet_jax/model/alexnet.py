"""AlexNet as a Flax module (Figure 2 and section 3 of the paper).

The module reads its layers from an `Architecture`; `architectures.py` has the
networks themselves, `lrn.py` section 3.3 and `pool.py` section 3.4.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.model import layer_types
from alexnet_jax.model.batch_norm import BatchNorm
from alexnet_jax.model.conv import conv2d, conv2d_of_blocks, local_conv2d
from alexnet_jax.model.dense import add_bias, product
from alexnet_jax.model.dense_parts import Part
from alexnet_jax.model.lrn import (
  local_response_normalization,
  spatial_response_normalization,
)
from alexnet_jax.model.pool import average_pool, max_pool

# The most parts that a batch is split into (`conv_batch`).
_MAX_PARTS = 16


class AlexNet(nn.Module):
  """AlexNet: five convolutions and three fully connected layers.

  Attributes:
    architecture: the network's layers: one of `ARCHITECTURES` or your own.
    num_classes: number of outputs of the last layer.
    dtype: precision of the computation, float32 or bfloat16. Parameters and
      logits are float32 in both cases. For exact comparisons, float64 (with
      `jax_enable_x64`) gives float64 logits.
    conv_batch: number of images that the convolutions process at a time, or
      None for the whole batch. It affects speed only: on TPU, 128 images fill
      the lanes, and activations between two layers stay on the chip. A network
      with batch normalization needs None.
    axis_name: in training on several devices, the axis over them, of `jax.pmap`
      or `jax.shard_map`. Batch normalization averages its statistics over it.
      All devices must have as many images.
    parts: names of fully connected layers that are divided over `axis_name`,
      each with its `dense_parts.Part`. The images and the logits of a device
      are its own.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> model = AlexNet(ARCHITECTURES['paper'], num_classes=10)
    >>> images = jnp.zeros((1, 227, 227, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> jax.eval_shape(model.apply, variables, images)
    ShapeDtypeStruct(shape=(1, 10), dtype=float32)
    >>> variables['params']['conv1']['kernel']
    ShapeDtypeStruct(shape=(11, 11, 3, 96), dtype=float32)

  To compute numbers, replace `jax.eval_shape(f, ...)` by `jax.jit(f)(...)`.
  """

  architecture: layer_types.Architecture
  num_classes: int = 1000
  dtype: jnp.dtype = jnp.float32
  conv_batch: int | None = None
  axis_name: str | None = None
  parts: tuple[tuple[str, Part], ...] = ()

  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the logits of a batch of images.

    Args:
      images: `[N, H, W, 3]` RGB pixels, normalized by the config's `data.mean`
        and `data.std`; the network normalizes nothing. The size may be any from
        `architecture.min_input_size` up. fc6's parameters fit one size only,
        but any size in torchvision's network, which averages its maps.
        `[N, H', W', 48]` are the same pixels rearranged for conv1 by
        `conv.to_blocks(images, architecture.input_blocks(H))`; the parameters
        are the same.
      train: whether dropout is on, which needs the random key 'dropout', and
        batch normalization uses the batch's statistics. `BatchNorm` has the
        running averages.

    Returns:
      `[N, num_classes]` float32 logits.

    Raises:
      ValueError: the images are too small or do not have four dimensions, or
        `conv_batch` would cut a batch that is normalized.
    """
    logits = self._layers(images, train)
    return logits.astype(jnp.promote_types(self.dtype, jnp.float32))

  def features(
    self, images: jax.Array, layers: Sequence[str] | None = None
  ) -> Any:
    """Returns activations of the network in evaluation mode.

    Args:
      images: as in `__call__`. Layers after the last one in `layers` are not
        computed, so images may be smaller, or of a size that fc6 does not fit.
      layers: names of `architecture.feature_names`. `conv1` and `fc6` are taken
        after their activation, wherever it follows; `conv1/linear` before it;
        `lrn1`, `pool1` and `dropout6` after that operation.

    Returns:
      A dict of one array per name: `[N, H, W, channels]`, or `[N, units]` for
      fully connected layers. If `layers` is None, the last layer's input
      without dropout: `[N, 4096]` for the networks in `ALEXNETS`, fc7 after its
      ReLU. All have the module's `dtype`.

    Raises:
      ValueError: there is no such layer, or the images are too small.

    Example:
      >>> from alexnet_jax.model import ARCHITECTURES
      >>> model = AlexNet(ARCHITECTURES['paper'])
      >>> images = jnp.zeros((1, 227, 227, 3))
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> def features(variables, images):
      ...   layers = ('conv3', 'fc6')
      ...   return model.apply(
      ...     variables, images, method='features', layers=layers
      ...   )
      >>> found = jax.eval_shape(features, variables, images)
      >>> {name: x.shape for name, x in found.items()}
      {'conv3': (1, 13, 13, 384), 'fc6': (1, 4096)}
    """
    if layers is None:
      name = self.architecture.default_feature
      x = self._layers(images, False, (name,))[name]
      return x.reshape(x.shape[0], -1)
    return self._layers(
      images, False, (layers,) if isinstance(layers, str) else tuple(layers)
    )

  @nn.compact
  def _layers(self, images, train, wanted=None):
    """Returns the output, or a dict of the activations named in `wanted`."""
    arch = self.architecture
    layers = arch.named_layers if wanted is None else arch.up_to(wanted)
    blocked = self._check(images, [layer for _, layer in layers])
    if self.conv_batch and arch.has_batch_norm:
      raise ValueError(
        f'conv_batch is {self.conv_batch}, but {arch.name!r} normalizes '
        'batches: None is needed'
      )
    x = images.astype(self.dtype)  # [N, 227, 227, 3]
    convs = [
      Conv(layer, self.dtype, blocked and i == 0, name=name)
      for i, (name, layer) in enumerate(layers)
      if isinstance(layer, layer_types.Conv)
    ]
    outputs: list[jax.Array] = []
    of_parts: list[dict[str, jax.Array]] = []
    for part in _parts(x, self.conv_batch):
      before = outputs[-1:]
      found: dict[str, jax.Array] = {}
      for conv in convs:
        # Figure 2: conv1 [N, 55, 55, 96], conv2 [N, 27, 27, 256],
        # conv3 and conv4 [N, 13, 13, 384], conv5 [N, 13, 13, 256].
        part = conv(part, before)
        part = self._then(conv.name, conv.layer, part, train, wanted, found)
        before = []
      outputs.append(part)
      of_parts.append(found)
    x = _joined(outputs)
    found = {name: _joined([f[name] for f in of_parts]) for name in of_parts[0]}
    for name, layer in layers[len(convs) :]:
      assert isinstance(layer, layer_types.Dense)
      x = x.reshape(x.shape[0], -1)  # fc6's input: [N, 6 * 6 * 256]
      part = dict(self.parts).get(name)
      x = Dense(layer, self.num_classes, self.dtype, part, name=name)(x)
      x = self._then(name, layer, x, train, wanted, found)
    return x if wanted is None else {name: found[name] for name in wanted}

  def _check(self, images, layers):
    """Returns whether these are blocks of pixels; checks the size."""
    arch = self.architecture
    if images.ndim != 4:
      raise ValueError(
        f'images have shape {images.shape}, but [N, H, W, 3] is needed'
      )
    height, width, channels = images.shape[1:]
    side, first = arch.block_size, arch.layers[0]
    blocked = side > 1 and channels == 3 * side**2
    if blocked and isinstance(first, layer_types.Conv):
      # The padding is not part of the images.
      height, width = (side * n - sum(first.padding) for n in (height, width))
    if layer_types.maps_size(layers, min(height, width)) < 1:
      least = layer_types.smallest_input(layers)
      raise ValueError(
        f'images of {height}x{width} pixels are too small for {arch.name!r},'
        f' which needs at least {least}x{least}'
      )
    return blocked

  def _then(self, name, layer, x, train, wanted, found):
    """Applies what follows a layer; adds what is wanted to `found`."""
    wanted = wanted or ()
    found |= {key: x for key in (f'{name}/linear', name) if key in wanted}
    for op in layer.then:
      scope = layer_types.scope_name(name, op)
      with jax.named_scope(scope):
        x = self._apply(op, x, train, scope)
      if scope in wanted:
        found[scope] = x
    return x

  def _apply(self, op, x, train, scope):
    match op:
      case layer_types.Activation():
        return (
          nn.relu(x) if self.architecture.activation == 'relu' else jnp.tanh(x)
        )
      case layer_types.LRN():
        return local_response_normalization(
          x,
          size=op.size,
          k=op.k,
          alpha=op.alpha,
          beta=op.beta,
          groups=op.groups,
        )
      case layer_types.SpatialLRN():
        return spatial_response_normalization(
          x, size=op.size, k=op.k, alpha=op.alpha, beta=op.beta
        )
      case layer_types.BatchNorm():
        return BatchNorm(op, self.axis_name, name=scope)(x, train)
      case layer_types.MaxPool():
        return max_pool(x, op.window, op.stride)
      case layer_types.AvgPool():
        return average_pool(x, op)
      case layer_types.Dropout():
        x = nn.Dropout(op.rate, deterministic=not train)(x)
        return x * (1 - op.rate) if op.scale_at == 'test' else x
    raise TypeError(f'unknown operation {op!r}')


class Conv(nn.Module):
  """A convolution with the initial weights of section 5."""

  layer: layer_types.Conv
  dtype: jnp.dtype
  blocked: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, before: Sequence[jax.Array] = ()
  ) -> jax.Array:
    """Maps `[N, H, W, in]`, or its blocks, to `[N, H', W', features]`.

    The arrays in `before` are computed first: parts of a batch that are
    processed one after the other can then share memory.
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
      # A barrier on `x` would copy this part of the batch.
      kernel, bias, *_ = jax.lax.optimization_barrier((kernel, bias, *before))
    if self.blocked:
      return conv2d_of_blocks(x, kernel, layer.stride, bias)
    if layer.shared:
      return conv2d(x, kernel, layer.stride, layer.padding, layer.groups, bias)
    x = local_conv2d(x, kernel, layer.kernel, layer.padding)
    return add_bias(x, bias)


class Dense(nn.Module):
  """A fully connected layer with the initial weights of section 5."""

  layer: layer_types.Dense
  num_classes: int
  dtype: jnp.dtype
  part: Part | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[N, in]` to `[N, features]`, or to this device's part of them."""
    part = self.part or Part()
    x = part.input(x)
    features = part.columns(self.layer.features or self.num_classes)
    kernel_init, bias_init = _initializers(self.layer, x.shape[-1])
    shape = (part.rows(x.shape[-1]), features)
    kernel = self.param('kernel', kernel_init, shape)
    bias = self.param('bias', bias_init, (features,))
    return add_bias(part.output(product(x, part.kernel(kernel, x))), bias)


def _parts(x, size):
  """Splits a batch into parts of `size`, if `size` divides it.

  A batch of more than `_MAX_PARTS` parts is not split: each part is compiled
  separately.
  """
  if not size or len(x) % size or len(x) > _MAX_PARTS * size:
    return [x]
  return [x[i : i + size] for i in range(0, len(x), size)]


def _joined(parts):
  return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _initializers(layer, fan_in):
  """Returns the initializers of a layer's kernel and bias."""
  if layer.weight_std is not None:
    return (
      nn.initializers.normal(layer.weight_std),
      nn.initializers.constant(layer.bias),
    )
  # PyTorch's default, kaiming_uniform with a = sqrt(5).
  bound = 1 / math.sqrt(fan_in)

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return uniform, uniform
