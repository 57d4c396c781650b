"""The table of layers that training prints before its first step."""

from alexnet_jax.model.layer_types import (
  LRN,
  Architecture,
  AvgPool,
  BatchNorm,
  Conv,
  Dense,
  Dropout,
  MaxPool,
  Op,
  SpatialLRN,
)

# Each column's heading and alignment.
_COLUMNS = {
  'layer': '<',
  'output': '<',
  'pooled': '<',
  'kernel': '<',
  'stride': '>',
  'groups': '>',
  'followed by': '<',
  'parameters': '>',
  'mult-adds': '>',
}


def layer_table(
  architecture: Architecture, num_classes: int, image_size: int
) -> list[str]:
  """Returns a network's layers as the lines of a table.

  It can be read beside the paper's Figure 2. The last row holds the totals.

    output      height x width x channels that the convolution computes; a
                fully connected layer has its number of units.
    pooled      height x width after the layer's max pooling, if it has one.
    followed by the operations on that output, in order: `LRN` across channels,
                `LRN 5x5` over the positions of each channel, `pool 3/2` with a
                window of 3 and a stride of 2, `mean 6x6` over 6 x 6 parts of
                the maps, `batch norm`, `dropout 0.5` of that rate.
    parameters  weights and biases; the running averages of batch normalization
                are not counted.
    mult-adds   multiplications of one image with the layer's weights, each with
                its addition; zero padding counts like pixels.

  Args:
    architecture: the network.
    num_classes: number of outputs of the last layer.
    image_size: height and width of the images in pixels.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> for line in layer_table(ARCHITECTURES['paper'], 1000, 227)[:6]:
    ...   print(line[:67].rstrip())
    layer  output     pooled  kernel stride groups  followed by
    conv1  55x55x96   27x27   11x11       4      1  ReLU, LRN, pool 3/2
    conv2  27x27x256  13x13   5x5         1      2  ReLU, LRN, pool 3/2
    conv3  13x13x384          3x3         1      1  ReLU
    conv4  13x13x384          3x3         1      2  ReLU
    conv5  13x13x256  6x6     3x3         1      2  ReLU, pool 3/2
  """
  rows = [tuple(_COLUMNS)]
  all_counts = []
  for name, layer, size, channels in architecture.layer_inputs(image_size):
    counts = layer_counts(layer, size, channels, num_classes)
    all_counts.append(counts)
    features = layer.features or num_classes
    shape = [str(features), '', '', '', '']
    if isinstance(layer, Conv):
      output, pooled = layer.output_size(size), layer.pooled_size(size)
      shape = [
        f'{_square(output)}x{features}',
        _square(pooled) if pooled != output else '',
        _square(layer.kernel),
        str(layer.stride),
        str(layer.groups),
      ]
    ops = ', '.join(_op(op, architecture.activation) for op in layer.then)
    rows.append((name, *shape, ops, *_formatted(*counts)))
  totals = map(sum, zip(*all_counts, strict=True))
  rows.append(('total', *[''] * 6, *_formatted(*totals)))
  return _aligned(rows)


def layer_counts(
  layer: Conv | Dense, size: int, channels: int, num_classes: int = 1000
) -> tuple[int, int]:
  """Returns a layer's number of parameters and of multiply-adds per image.

  Args:
    layer: the layer.
    size: height and width of its input, in pixels.
    channels: number of channels of its input.
    num_classes: number of outputs, if it is the last layer.
  """
  features = layer.features or num_classes
  if isinstance(layer, Dense):
    weights = size**2 * channels * features
    return weights + features, weights
  weights = layer.kernel**2 * channels // layer.groups * features
  positions = layer.output_size(size) ** 2
  parameters = (weights + features) * (1 if layer.shared else positions)
  return parameters, weights * positions


def _formatted(parameters: int, mult_adds: int) -> tuple[str, str]:
  return f'{parameters:,}', f'{mult_adds / 1e6:,.1f} M'


def _square(size: int) -> str:
  return f'{size}x{size}'


def _op(op: Op, activation: str) -> str:
  match op:
    case LRN():
      return 'LRN'
    case SpatialLRN():
      return f'LRN {_square(op.size)}'
    case BatchNorm():
      return 'batch norm'
    case MaxPool():
      return f'pool {op.window}/{op.stride}'
    case AvgPool():
      return f'mean {_square(op.size)}'
    case Dropout():
      return f'dropout {op.rate:g}'
  return {'relu': 'ReLU'}.get(activation, activation)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
  lines = [''] * len(rows)
  for column, align in zip(
    zip(*rows, strict=True), _COLUMNS.values(), strict=True
  ):
    width = max(map(len, column))
    gap = '  ' if align == '<' else ' '
    for i, cell in enumerate(column):
      lines[i] += f'{gap}{cell:{align}{width}}'
  return [line.strip() for line in lines]
