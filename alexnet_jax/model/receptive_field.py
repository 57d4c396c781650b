"""Which pixels of its input a layer's position depends on."""

from typing import NamedTuple

from alexnet_jax.model.layer_types import (
  Architecture,
  AvgPool,
  Dense,
  MaxPool,
  SpatialLRN,
)


class ReceptiveField(NamedTuple):
  """The pixels that each position of a layer's maps depends on.

  It is the same in height and width. Where a convolution is padded, it reaches
  beyond the image.

  Attributes:
    start: the first pixel of position 0; negative if it is in the padding.
    stride: pixels from one position to the next; 0 if all positions depend on
      the same pixels.
    size: height and width, in pixels.
    end: the pixel after the last one that any position depends on: windows with
      a stride may leave out the image's last pixels.
  """

  start: int
  stride: int
  size: int
  end: int

  def span(self, position: int) -> tuple[int, int]:
    """Returns the first pixel of a position, and the one after its last.

    Both are in the image, without the padding.

    Example:
      >>> field = ReceptiveField(start=-2, stride=4, size=11, end=62)
      >>> field.span(0), field.span(2), field.span(14)
      ((0, 9), (6, 17), (54, 62))
    """
    first = self.start + position * self.stride
    return max(first, 0), min(first + self.size, self.end)


def receptive_field(
  architecture: Architecture, layer: str, size: int
) -> ReceptiveField:
  """Returns the receptive field of a layer.

  It is all of the image for a fully connected layer, and for average pooling
  that changes the size of the maps.

  Args:
    architecture: the network.
    layer: one of `architecture.feature_names`.
    size: height and width of the images, in pixels.

  Raises:
    ValueError: there is no such layer.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> receptive_field(ARCHITECTURES['paper'], 'conv1', 227)
    ReceptiveField(start=0, stride=4, size=11, end=227)
    >>> receptive_field(ARCHITECTURES['paper'], 'pool5', 227)
    ReceptiveField(start=-64, stride=32, size=195, end=227)
    >>> receptive_field(ARCHITECTURES['paper'], 'fc6', 227)
    ReceptiveField(start=0, stride=0, size=227, end=227)
  """
  field = ReceptiveField(start=0, stride=1, size=1, end=size)
  width = size  # Of the maps.
  for _, part in architecture.up_to([layer]):
    if isinstance(part, Dense):
      return ReceptiveField(0, 0, size, field.end)
    width = part.output_size(width)
    field = _through(field, width, part.kernel, part.stride, part.padding[0])
    for op in part.then:
      match op:
        case MaxPool():
          width = op.output_size(width)
          field = _through(field, width, op.window, op.stride)
        case SpatialLRN():
          field = _through(field, width, op.size, before=op.size // 2)
        case AvgPool():
          if width != op.size:
            return ReceptiveField(0, 0, size, field.end)
  return field


def _through(
  field: ReceptiveField,
  width: int,
  window: int,
  stride: int = 1,
  before: int = 0,
) -> ReceptiveField:
  """Returns the field after an operation.

  Args:
    field: before it.
    width: height and width of its output.
    window: height and width of its windows.
    stride: from one window to the next.
    before: where position 0 begins before its input.
  """
  start = field.start - before * field.stride
  size = field.size + (window - 1) * field.stride
  step = field.stride * stride
  last = start + (width - 1) * step + size
  return ReceptiveField(start, step, size, min(field.end, last))
