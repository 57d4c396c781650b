"""Every network that people call AlexNet, as data.

Each value of `ALEXNETS` reads like Figure 2 of the paper, one line a
layer, `then` naming what follows the layer's linear part in order. All that
tells the six apart stands here and nowhere else:

  paper           Krizhevsky, Sutskever and Hinton (2012), as its text has it.
  krizhevsky2012  The same network as its authors' code ran it: net 145 of
                  computerhistory/AlexNet-Source-Code, layers/layers-145.cfg.
  owt             "One weird trick" (Krizhevsky, 2014), in one column:
                  cuda-convnet2, layers/layers-imagenet-1gpu.cfg.
  caffe           BVLC Caffe, models/bvlc_alexnet.
  caffenet        BVLC Caffe, models/bvlc_reference_caffenet.
  torchvision     torchvision/models/alexnet.py.

A network of one's own is another `Architecture`, or `dataclasses.replace` of
one of these.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Activation:
  """The network's nonlinearity, `Architecture.activation`."""


@dataclasses.dataclass(frozen=True)
class LRN:
  """Local response normalization across channels (paper, section 3.3).

  `alpha` is the paper's: it is not divided by `size`, as Caffe and PyTorch do.
  """

  size: int = 5
  k: float = 2.0
  alpha: float = 1e-4
  beta: float = 0.75
  groups: int = 1


@dataclasses.dataclass(frozen=True)
class SpatialLRN:
  """Normalization over a `size` x `size` patch of a channel's own map.

  cuda-convnet's `type=rnorm`, which the paper does not mention.
  """

  size: int = 5
  k: float = 1.0
  alpha: float = 0.001 / 25
  beta: float = 0.75


@dataclasses.dataclass(frozen=True)
class MaxPool:
  """Max pooling; it overlaps where `window > stride` (section 3.4)."""

  window: int = 3
  stride: int = 2


@dataclasses.dataclass(frozen=True)
class Dropout:
  """Dropout with probability `rate` (section 4.2).

  What is kept is divided by `1 - rate` in training (`scale_at='train'`: every
  later library's), or all is multiplied by it at test time ('test': the paper,
  its code, cuda-convnet). The two are the same family of networks, but not the
  same training: 'test' at an initial deviation of .01 is 'train' at .005, with
  the next layer's rate divided by 4 and its decay multiplied by 4.
  """

  rate: float = 0.5
  scale_at: str = 'train'


Op = Activation | LRN | SpatialLRN | MaxPool | Dropout


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How pictures are cut into blocks for a strided first convolution.

  A convolution of stride 4 over `[H, W, 3]` is one of stride 1 over blocks of
  4 x 4 pixels, `[H', W', 48]`: space to depth. Rows, then columns, then
  channels of a block follow each other in its depth.

  Attributes:
    size: height and width of a block, in pixels: the stride.
    before: zeros above and to the left, the convolution's own.
    after: zeros below and to the right, that the blocks be whole; negative
      where no window reaches the last pixels.
  """

  size: int
  before: int
  after: int


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution, and what is done to its output.

  Attributes:
    features: output channels.
    kernel: height and width of the kernel.
    stride: step in both directions.
    padding: zeros before and after, in both directions.
    groups: the paper's columns; kernels see `1 / groups` of the input.
    shared: whether all positions share one kernel; else each has its own
      (cuda-convnet's `type=local`): then of stride 1 and one group.
    weight_std: deviation of the normal initial weights; None is PyTorch's
      default, uniform in +-1/sqrt(fan_in), for weights and bias.
    bias: the initial bias, where `weight_std` is a number.
    then: operations that follow, in order.
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
    """Height and width of the output of an input of `size`, in pixels."""
    return (size + sum(self.padding) - self.kernel) // self.stride + 1

  def blocks(self, size: int) -> Blocks:
    """How an input of height and width `size` is cut into blocks."""
    number = self.output_size(size) - 1 + -(-self.kernel // self.stride)
    before = self.padding[0]
    return Blocks(self.stride, before, number * self.stride - before - size)


@dataclasses.dataclass(frozen=True)
class Dense:
  """A fully connected layer; `features=None` is one output a class."""

  features: int | None = None
  weight_std: float | None = 0.01
  bias: float = 0.0
  then: tuple[Op, ...] = ()


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A network as data: convolutions, then fully connected layers.

  Attributes:
    name: the key in `alexnet_jax.model.ARCHITECTURES`.
    input_size: the height and width that its authors fed it, in pixels.
    layers: in order; the i-th (from 1) is called `conv{i}` or `fc{i}`.
    activation: 'relu' or 'tanh'.
  """

  name: str
  input_size: int
  layers: tuple[Conv | Dense, ...]
  activation: str = 'relu'

  def __post_init__(self):
    if self.activation not in ('relu', 'tanh'):
      raise ValueError(
        f'activation {self.activation!r} of {self.name!r}: relu or tanh'
      )
    for layer in self.layers:
      match layer:
        case Conv(shared=False, stride=stride, groups=groups):
          if (stride, groups) != (1, 1):
            raise ValueError(
              f'{self.name!r}: {layer} needs a stride of 1 and one group'
            )
    kinds = [type(layer) for layer in self.layers]
    if kinds != sorted(kinds, key=[Conv, Dense].index) or not kinds:
      raise ValueError(f'{self.name!r}: convolutions first, then dense layers')
    if kinds[-1] is not Dense:
      raise ValueError(f'{self.name!r}: the last layer must be Dense')

  @property
  def layer_names(self) -> tuple[str, ...]:
    """What the layers' parameters are called: conv1..conv5, fc6..fc8."""
    return tuple(
      f'{"conv" if isinstance(layer, Conv) else "fc"}{i}'
      for i, layer in enumerate(self.layers, 1)
    )

  @property
  def scope_names(self) -> tuple[str, ...]:
    """What profiles call its parts, in order: conv1, lrn1, pool1, conv2, ..."""
    names = []
    for name, layer in zip(self.layer_names, self.layers, strict=True):
      names += [name, *(scope_name(name, op) for op in layer.then)]
    return tuple(dict.fromkeys(names))

  def spatial_size(self, size: int) -> int:
    """Height and width in pixels of what the first dense layer sees.

    Zero or less where an input of `size` x `size` leaves nothing.
    """
    for layer in self.layers:
      if isinstance(layer, Conv):
        size = layer.output_size(size)
        for op in layer.then:
          if isinstance(op, MaxPool):
            size = (size - op.window) // op.stride + 1
      if size < 1:
        return 0
    return size

  @property
  def block_size(self) -> int:
    """Side of the blocks that the first layer may be given; 1: of none."""
    first = self.layers[0]
    if not isinstance(first, Conv) or first.groups > 1:
      return 1
    return first.stride

  def input_blocks(self, size: int) -> Blocks | None:
    """How pictures of `size` x `size` pixels are cut; None: they are not."""
    first = self.layers[0]
    if self.block_size == 1 or not isinstance(first, Conv):
      return None
    return first.blocks(size)

  @property
  def min_input_size(self) -> int:
    """The smallest square input, in pixels, that leaves one pixel."""
    return next(s for s in range(1, 1 << 16) if self.spatial_size(s) > 0)

  def with_ops(self, change: Callable[[Op], Op | None]) -> 'Architecture':
    """The same network with each operation changed, or (None) left out."""
    layers = tuple(
      dataclasses.replace(
        layer, then=tuple(op for op in map(change, layer.then) if op)
      )
      for layer in self.layers
    )
    return dataclasses.replace(self, layers=layers)

  def with_dropout(self, **changes: Any) -> 'Architecture':
    """The same network with each `Dropout` changed: `rate=0.0`, and so on."""
    return self.with_ops(
      lambda op: (
        dataclasses.replace(op, **changes) if isinstance(op, Dropout) else op
      )
    )


def scope_name(layer_name: str, op: Op) -> str:
  """What profiles call an operation that follows a layer: lrn1, pool1, ..."""
  kinds = {LRN: 'lrn', SpatialLRN: 'lrn', MaxPool: 'pool', Dropout: 'dropout'}
  # An activation is one with the layer whose output it is.
  kind = kinds.get(type(op))
  number = layer_name.removeprefix('conv').removeprefix('fc')
  return f'{kind}{number}' if kind else layer_name


_ACT = Activation()
_POOL = MaxPool()
_DROP = Dropout(0.5)
_PAPER_LRN = LRN()

PAPER = Architecture(
  name='paper',
  # The paper prints 224; without padding only 227 gives its 55 x 55 maps.
  input_size=227,
  layers=(
    Conv(96, kernel=11, stride=4, then=(_ACT, _PAPER_LRN, _POOL)),
    Conv(
      256,
      kernel=5,
      padding=(2, 2),
      groups=2,
      bias=1.0,
      then=(_ACT, _PAPER_LRN, _POOL),
    ),
    Conv(384, padding=(1, 1), then=(_ACT,)),
    Conv(384, padding=(1, 1), groups=2, bias=1.0, then=(_ACT,)),
    Conv(256, padding=(1, 1), groups=2, bias=1.0, then=(_ACT, _POOL)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(),
  ),
)

# Each of the two columns is normalized alone, and alpha is divided by 5.
_COLUMN_LRN = LRN(alpha=1e-4 / 5, groups=2)

KRIZHEVSKY2012 = Architecture(
  name='krizhevsky2012',
  input_size=224,
  layers=(
    # The last window hangs 3 pixels over the edge: its sizes round up.
    Conv(
      96,
      kernel=11,
      stride=4,
      padding=(0, 3),
      then=(_COLUMN_LRN, _POOL, _ACT),
    ),
    Conv(
      256,
      kernel=5,
      padding=(2, 2),
      groups=2,
      bias=1.0,
      then=(_ACT, _COLUMN_LRN, SpatialLRN(), _POOL),
    ),
    Conv(384, padding=(1, 1), weight_std=0.03, then=(_ACT,)),
    Conv(
      384, padding=(1, 1), groups=2, weight_std=0.03, bias=1.0, then=(_ACT,)
    ),
    Conv(
      256,
      padding=(1, 1),
      groups=2,
      weight_std=0.03,
      bias=1.0,
      then=(_POOL, _ACT),
    ),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(),
  ),
)

_OWT_LRN = LRN(alpha=1e-4 / 5)

OWT = Architecture(
  name='owt',
  input_size=224,
  layers=(
    Conv(64, kernel=11, stride=4, padding=(0, 3), then=(_OWT_LRN, _POOL, _ACT)),
    Conv(
      192,
      kernel=5,
      padding=(2, 2),
      bias=1.0,
      then=(_ACT, _OWT_LRN, _POOL),
    ),
    Conv(384, padding=(1, 1), weight_std=0.03, then=(_ACT,)),
    Conv(256, padding=(1, 1), weight_std=0.03, bias=1.0, then=(_ACT,)),
    Conv(256, padding=(1, 1), weight_std=0.03, bias=1.0, then=(_POOL, _ACT)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(bias=-7.0),
  ),
)

_CAFFE_LRN = LRN(k=1.0, alpha=1e-4 / 5)


def _caffe(name: str, bias: float, order: tuple[Op, ...]) -> Architecture:
  """Caffe's two, which differ in the ones-biases and in LRN's place."""
  return Architecture(
    name=name,
    input_size=227,
    layers=(
      Conv(96, kernel=11, stride=4, then=order),
      Conv(256, kernel=5, padding=(2, 2), groups=2, bias=bias, then=order),
      Conv(384, padding=(1, 1), then=(_ACT,)),
      Conv(384, padding=(1, 1), groups=2, bias=bias, then=(_ACT,)),
      Conv(256, padding=(1, 1), groups=2, bias=bias, then=(_ACT, _POOL)),
      Dense(4096, weight_std=0.005, bias=bias, then=(_ACT, _DROP)),
      Dense(4096, weight_std=0.005, bias=bias, then=(_ACT, _DROP)),
      Dense(),
    ),
  )


CAFFE = _caffe('caffe', bias=0.1, order=(_ACT, _CAFFE_LRN, _POOL))
CAFFENET = _caffe('caffenet', bias=1.0, order=(_ACT, _POOL, _CAFFE_LRN))

TORCHVISION = Architecture(
  name='torchvision',
  input_size=224,
  layers=(
    Conv(
      64,
      kernel=11,
      stride=4,
      padding=(2, 2),
      weight_std=None,
      then=(_ACT, _POOL),
    ),
    Conv(192, kernel=5, padding=(2, 2), weight_std=None, then=(_ACT, _POOL)),
    Conv(384, padding=(1, 1), weight_std=None, then=(_ACT,)),
    Conv(256, padding=(1, 1), weight_std=None, then=(_ACT,)),
    # Here dropout comes before fc6 and fc7; elsewhere it follows them.
    Conv(256, padding=(1, 1), weight_std=None, then=(_ACT, _POOL, _DROP)),
    Dense(4096, weight_std=None, then=(_ACT, _DROP)),
    Dense(4096, weight_std=None, then=(_ACT,)),
    Dense(weight_std=None),
  ),
)

ALEXNETS: dict[str, Architecture] = {
  architecture.name: architecture
  for architecture in (
    PAPER,
    KRIZHEVSKY2012,
    OWT,
    CAFFE,
    CAFFENET,
    TORCHVISION,
  )
}


def torch_uniform_bound(fan_in: int) -> float:
  """PyTorch's default for convolutions and linear layers: 1/sqrt(fan_in).

  Kaiming-uniform with a = sqrt(5) is uniform in +-sqrt(6 / (6 fan_in)).
  """
  return 1.0 / math.sqrt(fan_in)
