"""What a network is described with: its operations, layers and architecture.

`architectures.py` describes the networks, `alexnet.py` computes them.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Activation:
  """The network's nonlinearity, `Architecture.activation` (section 3.1)."""


@dataclasses.dataclass(frozen=True)
class LRN:
  """Local response normalization across channels (section 3.3).

  `alpha` is the paper's: it is not divided by `size`. (Caffe and PyTorch divide
  theirs.)
  """

  size: int = 5
  k: float = 2.0
  alpha: float = 1e-4
  beta: float = 0.75
  groups: int = 1


@dataclasses.dataclass(frozen=True)
class SpatialLRN:
  """Response normalization over a `size` x `size` patch of each channel.

  This is cuda-convnet's `type=rnorm`, which the paper does not mention.
  """

  size: int = 5
  k: float = 1.0
  alpha: float = 0.001 / 25
  beta: float = 0.75


@dataclasses.dataclass(frozen=True)
class BatchNorm:
  """Batch normalization of each channel, without scale and shift.

  In training, x -> (x - mean) / sqrt(variance + epsilon), of the batch and all
  positions. In evaluation, mean and variance are running averages, which each
  training step changes: average <- momentum average + (1 - momentum) batch's.
  The batch's variance in the average is the unbiased one, as in cuDNN and
  PyTorch (whose `momentum` is 1 - ours). Source: Ioffe and Szegedy (2015);
  Caffe's `moving_average_fraction` and `eps`.
  """

  epsilon: float = 1e-4
  momentum: float = 0.9


@dataclasses.dataclass(frozen=True)
class MaxPool:
  """Max pooling, overlapping if `window > stride` (section 3.4)."""

  window: int = 3
  stride: int = 2

  def output_size(self, size: int) -> int:
    """Returns the output's height and width, in pixels."""
    return (size - self.window) // self.stride + 1


@dataclasses.dataclass(frozen=True)
class AvgPool:
  """Average pooling to `size` x `size`, whatever the size of its input.

  This is PyTorch's adaptive average pooling. It changes nothing where the input
  has that size, as at 224 pixels in torchvision's network.
  """

  size: int = 6

  def output_size(self, size: int) -> int:
    """Returns the output's height and width; 0 if there is no input."""
    return self.size if size > 0 else 0

  def bins(self, size: int) -> tuple[tuple[int, int], ...]:
    """Returns the first row, and the one after the last, of each average.

    Neighbors share rows where `size` is no multiple of `self.size`.

    Args:
      size: height or width of the input, in pixels.

    Example:
      >>> AvgPool(3).bins(7)
      ((0, 3), (2, 5), (4, 7))
    """
    return tuple(
      (i * size // self.size, -(-(i + 1) * size // self.size))
      for i in range(self.size)
    )


@dataclasses.dataclass(frozen=True)
class Dropout:
  """Dropout with probability `rate` (section 4.2).

  `scale_at` is one of:

    train: kept units are divided by `1 - rate` in training, as in all later
      libraries.
    test: all units are multiplied by `1 - rate` at test time, as in the paper,
      its code and cuda-convnet.

  Both describe the same networks, but train differently: with a rate of 0.5,
  'test' with an initial standard deviation of 0.01 equals 'train' with 0.005,
  the next layer's learning rate divided by 4 and its weight decay multiplied
  by 4.
  """

  rate: float = 0.5
  scale_at: str = 'train'


Op = Activation | LRN | SpatialLRN | BatchNorm | MaxPool | AvgPool | Dropout


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How images are cut into blocks for a strided first convolution.

  A convolution with a stride of 4 over `[H, W, 3]` equals one with a stride of
  1 over blocks of 4 x 4 pixels, `[H', W', 48]` (space to depth). The 48 values
  are ordered by row, then column, then channel.

  Attributes:
    size: height and width of a block in pixels, equal to the stride.
    before: zeros above and to the left: the convolution's padding.
    after: zeros below and to the right that complete the last blocks; negative
      if no window reaches the last pixels.
  """

  size: int
  before: int
  after: int


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution and the operations that follow it.

  Attributes:
    features: number of output channels.
    kernel: height and width of the kernel.
    stride: step in both directions.
    padding: zeros before and after the pixels, in both directions.
    groups: the paper's columns; each kernel sees `1 / groups` of the input
      channels.
    shared: whether all positions share their kernels. If not, each position has
      its own (cuda-convnet's `type=local`); stride and groups must be 1.
    weight_std: standard deviation of the normal initial weights. None is
      PyTorch's default for weights and bias: uniform in +-1/sqrt(fan_in).
    bias: the initial bias, if `weight_std` is a number.
    then: the operations that follow, in order.
  """

  features: int
  kernel: int = 3
  stride: int = 1
  padding: tuple[int, int] = (0, 0)
  groups: int = 1
  shared: bool = True
  weight_std: float | None = 0.01
  bias: float = 0.0
  then: tuple[Op, ...] = ()

  def output_size(self, size: int) -> int:
    """Returns the output's height and width, in pixels."""
    return (size + sum(self.padding) - self.kernel) // self.stride + 1

  def pooled_size(self, size: int) -> int:
    """Returns the height and width after the layer's pooling, in pixels."""
    size = self.output_size(size)
    for op in self.then:
      if isinstance(op, MaxPool | AvgPool):
        size = op.output_size(size)
    return size

  def blocks(self, size: int) -> Blocks:
    """Returns how an input of height and width `size` is cut into blocks."""
    number = self.output_size(size) - 1 + -(-self.kernel // self.stride)
    before = self.padding[0]
    return Blocks(self.stride, before, number * self.stride - before - size)


@dataclasses.dataclass(frozen=True)
class Dense:
  """A fully connected layer; `features=None` means one output per class."""

  features: int | None = None
  weight_std: float | None = 0.01
  bias: float = 0.0
  then: tuple[Op, ...] = ()


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A network as data: convolutions, then fully connected layers.

  Attributes:
    name: the key in `alexnet_jax.model.ARCHITECTURES`.
    input_size: height and width of its authors' images, in pixels.
    layers: the layers in order; layer i (from 1) is called `conv{i}` or
      `fc{i}`.
    activation: 'relu' or 'tanh'.

  Raises:
    ValueError: the layers or the activation are not supported.
  """

  name: str
  input_size: int
  layers: tuple[Conv | Dense, ...]
  activation: str = 'relu'

  def __post_init__(self):
    if self.activation not in ('relu', 'tanh'):
      raise ValueError(
        f'activation {self.activation!r} of {self.name!r} is not relu or tanh'
      )
    for layer in self.layers:
      match layer:
        case Conv(shared=False, stride=stride, groups=groups):
          if (stride, groups) != (1, 1):
            raise ValueError(
              f'{self.name!r}: {layer} must have a stride of 1 and one group'
            )
      if sum(isinstance(op, BatchNorm) for op in layer.then) > 1:
        raise ValueError(
          f'{self.name!r}: {layer} must have one BatchNorm at most'
        )
    kinds = [type(layer) for layer in self.layers]
    if kinds != sorted(kinds, key=[Conv, Dense].index) or not kinds:
      raise ValueError(
        f'{self.name!r} must have convolutions first, then dense layers'
      )
    if kinds[-1] is not Dense:
      raise ValueError(f'the last layer of {self.name!r} must be Dense')

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of the layers' parameters: conv1..conv5, fc6..fc8."""
    return tuple(
      f'{"conv" if isinstance(layer, Conv) else "fc"}{i}'
      for i, layer in enumerate(self.layers, 1)
    )

  @property
  def named_layers(self) -> tuple[tuple[str, Conv | Dense], ...]:
    """Each layer with its name, in order."""
    return tuple(zip(self.layer_names, self.layers, strict=True))

  @property
  def has_batch_norm(self) -> bool:
    """Whether an image's logits depend on the others of a training batch."""
    return any(
      isinstance(op, BatchNorm) for layer in self.layers for op in layer.then
    )

  @property
  def scope_names(self) -> tuple[str, ...]:
    """Names of its parts in profiles, in order: conv1, lrn1, pool1, ..."""
    names = []
    for name, layer in self.named_layers:
      names += [name, *(scope_name(name, op) for op in layer.then)]
    return tuple(dict.fromkeys(names))

  @property
  def feature_names(self) -> tuple[str, ...]:
    """Names of its activations, in order: conv1/linear, conv1, lrn1, ..."""
    return tuple(self._places())

  @property
  def default_feature(self) -> str:
    """The input of the last layer before its dropout: fc7 in `ALEXNETS`."""
    name, layer = self.named_layers[-2]
    kept = [op for op in layer.then if not isinstance(op, Dropout)]
    return scope_name(name, kept[-1]) if kept else name

  def up_to(self, names: Iterable[str]) -> tuple[tuple[str, Conv | Dense], ...]:
    """Returns its named layers without what follows the last of `names`.

    Args:
      names: of `feature_names`.

    Raises:
      ValueError: there is no such name, or none is given.

    Example:
      >>> from alexnet_jax.model import ARCHITECTURES
      >>> up_to = ARCHITECTURES['paper'].up_to(['conv1', 'conv2'])
      >>> [(name, layer.then) for name, layer in up_to[1:]]
      [('conv2', (Activation(),))]
    """
    places, names = self._places(), tuple(names)
    for name in names:
      if name not in places:
        raise ValueError(
          f'no layer {name!r} in {self.name!r}, which has '
          f'{", ".join(self.scope_names)}; add /linear to a conv or fc for its '
          'output before its activation'
        )
    if not names:
      raise ValueError(f'name at least one layer of {self.name!r}')
    layer, ops = max(places[name] for name in names)
    *before, (name, last) = self.named_layers[: layer + 1]
    return (*before, (name, dataclasses.replace(last, then=last.then[:ops])))

  def _places(self) -> dict[str, tuple[int, int]]:
    """Maps each activation to its layer and the operations before it."""
    places = {}
    for i, (name, layer) in enumerate(self.named_layers):
      places[f'{name}/linear'] = places[name] = i, 0
      for j, op in enumerate(layer.then, 1):
        places[scope_name(name, op)] = i, j
    return places

  def layer_inputs(
    self, size: int
  ) -> Iterator[tuple[str, Conv | Dense, int, int]]:
    """Yields each layer's name, the layer, and its input's size and channels.

    Sizes are heights and widths in pixels, 1 after a dense layer.

    Args:
      size: height and width of the images, in pixels.
    """
    channels = 3
    for name, layer in self.named_layers:
      yield name, layer, size, channels
      size = layer.pooled_size(size) if isinstance(layer, Conv) else 1
      channels = layer.features or 0

  def spatial_size(self, size: int) -> int:
    """Returns the height and width of the first dense layer's input.

    Returns 0 if images of `size` x `size` pixels are too small.
    """
    return maps_size(self.layers, size)

  @property
  def block_size(self) -> int:
    """Side of the blocks that the first layer accepts; 1 if none."""
    first = self.layers[0]
    if not isinstance(first, Conv) or first.groups > 1:
      return 1
    return first.stride

  def input_blocks(self, size: int) -> Blocks | None:
    """Returns how `size` x `size` images are cut, or None if they are not."""
    first = self.layers[0]
    if self.block_size == 1 or not isinstance(first, Conv):
      return None
    return first.blocks(size)

  @property
  def min_input_size(self) -> int:
    """Height and width of the smallest images that it accepts, in pixels."""
    return smallest_input(self.layers)

  def with_ops(self, change: Callable[[Op], Op | None]) -> 'Architecture':
    """Returns the network with changed operations; None removes one."""
    layers = tuple(
      dataclasses.replace(
        layer, then=tuple(op for op in map(change, layer.then) if op)
      )
      for layer in self.layers
    )
    return dataclasses.replace(self, layers=layers)

  def with_dropout(self, **changes: Any) -> 'Architecture':
    """Returns the network with changed `Dropout`s, such as `rate=0.0`."""
    return self.with_ops(
      lambda op: (
        dataclasses.replace(op, **changes) if isinstance(op, Dropout) else op
      )
    )


def maps_size(layers: Iterable[Conv | Dense], size: int) -> int:
  """Returns the height and width after the last convolution, in pixels.

  Returns 0 if images of `size` x `size` pixels are too small.
  """
  for layer in layers:
    if isinstance(layer, Dense) or size < 1:
      break
    size = layer.pooled_size(size)
  return max(size, 0)


def smallest_input(layers: Sequence[Conv | Dense]) -> int:
  """Returns the side of the smallest images that layers accept, in pixels."""
  return next(s for s in range(1, 1 << 16) if maps_size(layers, s) > 0)


def scope_name(layer_name: str, op: Op) -> str:
  """Returns an operation's name in profiles: lrn1, norm1, pool1, ..."""
  kinds = {
    LRN: 'lrn',
    SpatialLRN: 'lrn',
    BatchNorm: 'norm',
    MaxPool: 'pool',
    AvgPool: 'avgpool',
    Dropout: 'dropout',
  }
  # An activation is counted with its layer.
  kind = kinds.get(type(op))
  number = layer_name.removeprefix('conv').removeprefix('fc')
  return f'{kind}{number}' if kind else layer_name
