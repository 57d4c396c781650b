"""From a stored file to pixels: uint8 RGB, 0 to 255 (section 2).

The paper stored its pictures as 256 x 256 files of whole grey levels, and
cropped those. So does this: what is resized is rounded, whether it is stored in
between (`resized`) or not.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

_MAX_ASPECT = 100
# How many pixels further out an edge is looked for that falls between pixels.
_MARGIN = 4
# Two pixels each way are enough to make one of up to that many.
_BILINEAR_BELOW = 1.6


def decode(encoded: tf.Tensor) -> tf.Tensor:
  """Decodes JPEG, PNG, GIF or BMP to uint8 `[H, W, 3]`.

  Grey pictures become grey RGB; CMYK JPEGs are converted. One whose sides are
  more than 100:1 is no picture: its short side, resized, would make gigabytes
  of it (tf.errors.InvalidArgumentError, as of what cannot be decoded).
  """
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  image.set_shape([None, None, 3])
  with tf.control_dependencies(_not_thin(tf.shape(image)[:2])):
    return tf.identity(image)


def _not_thin(sides: tf.Tensor) -> list[tf.Operation]:
  thin = tf.debugging.assert_less_equal(
    tf.reduce_max(sides),
    _MAX_ASPECT * tf.reduce_min(sides),
    message=f'one side is over {_MAX_ASPECT} times the other',
  )
  return [] if thin is None else [thin]


def resize(image: tf.Tensor, how: str, size: int) -> tf.Tensor:
  """A picture of any shape to uint8 `[size, size, 3]`.

  'short_side' is the paper's (section 2): the shorter side to `size`, then the
  central square. 'warp' stretches both sides to `size` (Caffe). Bilinear,
  antialiased when it shrinks, as PIL and torchvision do it.
  """
  target = _target(tf.shape(image)[:2], how, size)
  image = tf.image.resize(image, target, antialias=True)
  return _round(center_crop(image, size))


def _target(shape, how, size):
  """Height and width of the whole picture when it is resized."""
  if how == 'warp':
    return tf.constant([size, size])
  if how == 'short_side':
    # Truncated, as torchvision does.
    return shape * size // tf.reduce_min(shape)
  raise ValueError(f'resize {how!r}: short_side or warp')


def _round(image):
  return tf.cast(tf.round(image), tf.uint8)


def center_crop(image: tf.Tensor, size: int) -> tf.Tensor:
  """The central `size` x `size` part of `[H, W, 3]`."""
  shape = tf.shape(image)
  return crop(image, (shape[0] - size) // 2, (shape[1] - size) // 2, size)


def crop(
  image: tf.Tensor, top: tf.Tensor | int, left: tf.Tensor | int, size: int
) -> tf.Tensor:
  """A `size` x `size` part of `[H, W, 3]`."""
  part = tf.slice(image, [top, left, 0], [size, size, -1])
  part.set_shape([size, size, 3])
  return part


def decode_square(
  encoded: tf.Tensor, how: str, size: int, is_square_jpeg: bool = False
) -> tf.Tensor:
  """`resize(decode(encoded))`; nothing is resized that has that size.

  Args:
    encoded: the file, a scalar string.
    how: see `resize`.
    size: side of the square, in pixels.
    is_square_jpeg: whether the file is known to be a JPEG of that size.
  """
  if is_square_jpeg:
    image = tf.io.decode_jpeg(encoded, channels=3)
    return tf.ensure_shape(image, [size, size, 3])
  return resize(decode(encoded), how, size)


def decode_crop(
  encoded: tf.Tensor,
  how: str,
  size: int,
  top_left: tf.Tensor,
  crop_size: int,
  is_square_jpeg: bool = False,
) -> tf.Tensor:
  """A crop of the resized square; of a JPEG only that part is decoded.

  Nearly `crop(decode_square(encoded, how, size), *top_left, crop_size)`, in
  half the time. Where the picture grows or keeps its size, it is that, to a
  grey level. Where it shrinks, a pixel is interpolated between four, or from
  1.6 times on averaged over the area that it comes from, instead of under a
  triangle of twice its width; and an edge that falls between two pixels is
  moved to one, by a tenth of a pixel on average. The two then differ about as
  much as `tf.image.resize` with and without antialiasing (benchmarks/
  input_pipeline.py prints both; tests/test_decoding.py has bounds). The
  256 x 256 set (`resized`) has no such difference.

  Args:
    encoded: the file, a scalar string.
    how: see `resize`.
    size: side of the square, in pixels.
    top_left: of the crop in the square, int32 `[2]`.
    crop_size: its side, in pixels.
    is_square_jpeg: whether the file is known to be a JPEG of `size` x `size`.

  Returns:
    uint8 `[crop_size, crop_size, 3]`.
  """
  if is_square_jpeg:
    window = tf.concat([top_left, [crop_size, crop_size]], 0)
    image = tf.io.decode_and_crop_jpeg(encoded, window, channels=3)
    return tf.ensure_shape(image, [crop_size, crop_size, 3])

  def resized_crop(shape, read):
    target = _target(shape, how, size)
    first = (target - size) // 2 + top_left
    scale = tf.cast(shape, tf.float32) / tf.cast(target, tf.float32)
    return tf.cond(
      tf.reduce_min(scale) >= 1,
      lambda: _shrunk_crop(target, scale, first, crop_size, read),
      lambda: _grown_crop(shape, target, first, crop_size, read),
    )

  return _read_part(encoded, resized_crop)


def decode_part(
  encoded: tf.Tensor,
  place: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
  size: int,
) -> tf.Tensor:
  """A part of a picture, resized; of a JPEG only that part is decoded.

  Args:
    encoded: the file, a scalar string.
    place: from the picture's height and width, int32 `[2]`, to the part's top
      and left, and its height and width, each int32 `[2]`.
    size: side of the result, in pixels.

  Returns:
    uint8 `[size, size, 3]`, resampled as by `decode_crop`.
  """

  def resized_part(shape, read):
    begin, extent = place(shape)
    part = read(begin, extent)[None]
    scale = tf.cast(extent, tf.float32) / size
    image = tf.cond(
      tf.reduce_min(scale) >= 1,
      lambda: _shrink(part, [size, size], scale),
      lambda: tf.image.resize(part, [size, size], antialias=True),
    )
    return tf.ensure_shape(_round(image[0]), [size, size, 3])

  return _read_part(encoded, resized_part)


def _read_part(encoded, make):
  """`make(shape, read)`, where `read(begin, extent)` decodes a part."""

  def of_jpeg():
    shape = tf.image.extract_jpeg_shape(encoded)[:2]
    with tf.control_dependencies(_not_thin(shape)):
      shape = tf.identity(shape)

    def read(begin, extent):
      window = tf.concat([begin, extent], 0)
      return tf.io.decode_and_crop_jpeg(encoded, window, channels=3)

    return make(shape, read)

  def of_another():
    image = decode(encoded)

    def read(begin, extent):
      return tf.slice(image, tf.pad(begin, [[0, 1]]), [*tf.unstack(extent), 3])

    return make(tf.shape(image)[:2], read)

  return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_another)


def _shrink(images, size, scale):
  """Pictures made smaller, in a third of the time that `resize` takes."""
  return tf.cond(
    tf.reduce_max(scale) < _BILINEAR_BELOW,
    lambda: tf.raw_ops.ResizeBilinear(
      images=images, size=size, half_pixel_centers=True
    ),
    lambda: tf.raw_ops.ResizeArea(images=images, size=size),
  )


def _shrunk_crop(target, scale, first, size, read):
  """A crop of what shrinks.

  Edges of the crop fall between the file's pixels. Among the edges up to
  `_MARGIN` - 1 pixels further out the one is taken that is nearest to a pixel,
  and what is too much is cut off again.
  """
  edges = tf.stack([first, first + size])  # [edge, axis]
  room = tf.stack([first, target - first - size])
  out = np.arange(_MARGIN, dtype=np.int32)[:, None, None]  # [step, 1, 1]
  outwards = out * np.array([[-1], [1]], np.int32)
  places = tf.cast(edges + outwards, tf.float32) * scale
  pixels = tf.round(places)
  distance = tf.abs(places - pixels) + tf.cast(out > room, tf.float32)
  steps = tf.argmin(distance, output_type=tf.int32)  # [edge, axis]
  chosen = tf.gather(tf.transpose(pixels, [1, 2, 0]), steps, batch_dims=2)
  low, high = tf.unstack(tf.cast(chosen, tf.int32))
  image = _shrink(
    read(low, high - low)[None], size + steps[0] + steps[1], scale
  )[0]
  return crop(_round(image), steps[0, 0], steps[0, 1], size)


def _grown_crop(shape, target, first, size, read):
  """A crop of what grows, at least one way: of the whole, exactly."""
  picture = read(tf.zeros_like(shape), shape)[None]
  image = tf.cond(
    tf.reduce_all(target >= shape),
    lambda: tf.raw_ops.ResizeBilinear(
      images=picture, size=target, half_pixel_centers=True
    ),
    lambda: tf.image.resize(picture, target, antialias=True),
  )[0]
  return _round(crop(image, first[0], first[1], size))
