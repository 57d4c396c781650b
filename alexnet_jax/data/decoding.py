"""Decodes and resizes image files to uint8 RGB pixels, 0 to 255 (section 2).

The paper stored its images as 256 x 256 files of integer grey levels and
cropped those. Resized pixels are therefore rounded here too, whether they are
stored in between (`data.resized`) or not.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

_MAX_ASPECT = 100
# If a crop's edge falls between two pixels of the file, more is decoded: the
# edge moves outwards to a pixel, by fewer than this many resized pixels.
_MARGIN = 4
# Images that shrink less than this are interpolated between 2 x 2 pixels.
_BILINEAR_BELOW = 1.6
# A JPEG is decoded this many times smaller, if its pixels are then still
# averaged over areas.
_RATIOS = (1, 2, 4, 8)


def decode(encoded: tf.Tensor) -> tf.Tensor:
  """Decodes a JPEG, PNG, GIF or BMP file to RGB, uint8 `[H, W, 3]`.

  Grey images become grey RGB; CMYK JPEGs are converted.

  Args:
    encoded: the file, a scalar string.

  Raises:
    tf.errors.InvalidArgumentError: the file cannot be decoded, or one side is
      over 100 times the other: with its short side resized to 256, such an
      image would take gigabytes.
  """
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  image.set_shape([None, None, 3])
  with tf.control_dependencies(_not_thin(tf.shape(image)[:2])):
    return tf.identity(image)


def reason(error: tf.errors.OpError) -> str:
  """Returns why an image cannot be decoded, in one line."""
  # A graph's error begins with where it was raised, and ends with its node.
  return error.message.split('\n\t [[')[0].splitlines()[-1].strip()


def _not_thin(sides: tf.Tensor) -> list[tf.Operation]:
  thin = tf.debugging.assert_less_equal(
    tf.reduce_max(sides),
    _MAX_ASPECT * tf.reduce_min(sides),
    message=f'one side is over {_MAX_ASPECT} times the other',
  )
  return [] if thin is None else [thin]


def resize(image: tf.Tensor, how: str, size: int) -> tf.Tensor:
  """Resizes an image to a square, uint8 `[size, size, 3]`.

  The resampling is bilinear, and antialiased where the image shrinks, as in PIL
  and torchvision.

  Args:
    image: `[H, W, 3]`, 0 to 255.
    how: 'short_side' resizes the shorter side to `size` and cuts out the
      central square (the paper, section 2); 'warp' resizes both sides to `size`
      (Caffe).
    size: side of the square, in pixels.

  Example:
    >>> resize(np.zeros((375, 500, 3)), 'short_side', 256).shape.as_list()
    [256, 256, 3]
  """
  target = _target(tf.shape(image)[:2], how, size)
  image = tf.image.resize(image, target, antialias=True)
  return _round(center_crop(image, size))


def _target(shape, how, size):
  """Returns height and width of the whole image after resizing."""
  if how == 'warp':
    return tf.constant([size, size])
  if how == 'short_side':
    # Truncated, as in torchvision.
    return shape * size // tf.reduce_min(shape)
  raise ValueError(f'resize {how!r}: short_side or warp')


def _round(image):
  return tf.cast(tf.round(image), tf.uint8)


def center_crop(image: tf.Tensor, size: int) -> tf.Tensor:
  """Returns the central `size` x `size` part of `[H, W, 3]`."""
  shape = tf.shape(image)
  return crop(image, (shape[0] - size) // 2, (shape[1] - size) // 2, size)


def crop(
  image: tf.Tensor, top: tf.Tensor | int, left: tf.Tensor | int, size: int
) -> tf.Tensor:
  """Returns the `size` x `size` part of `[H, W, 3]` at `top` and `left`."""
  part = tf.slice(image, [top, left, 0], [size, size, -1])
  part.set_shape([size, size, 3])
  return part


def decode_square(
  encoded: tf.Tensor, how: str, size: int, is_square_jpeg: bool = False
) -> tf.Tensor:
  """Decodes a file and resizes it to a square, uint8 `[size, size, 3]`.

  Args:
    encoded: the file, a scalar string.
    how: see `resize`.
    size: side of the square, in pixels.
    is_square_jpeg: whether the file is known to be a JPEG of `size` x `size`,
      which is decoded only.
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
  """Decodes a crop of the resized square; of a JPEG, only that part.

  The result is nearly `crop(decode_square(encoded, how, size), *top_left,
  crop_size)`, in half the time:

  * Where the image grows or keeps its size, both agree to one grey level.
  * Where it shrinks, a pixel is interpolated between 2 x 2 pixels, or from a
    factor of 1.6 on averaged over the area that it covers. (Antialiasing
    weights twice that width by a triangle.) An edge that falls between two
    pixels moves to one of them, by a tenth of a pixel on average. The two then
    differ about as much as `tf.image.resize` with and without antialiasing:
    benchmarks/input_pipeline.py prints both, tests/test_decoding.py has bounds.
  * From a factor of 3.2 on, a JPEG is decoded at half, a quarter or an eighth
    of its size, which averages blocks of pixels, too.
  * The 256 x 256 dataset (`data.resized`) has no such difference.

  Args:
    encoded: the file, a scalar string.
    how: see `resize`.
    size: side of the square, in pixels.
    top_left: position of the crop in the square, int32 `[2]`.
    crop_size: side of the crop, in pixels.
    is_square_jpeg: whether the file is known to be a JPEG of `size` x `size`.

  Returns:
    uint8 `[crop_size, crop_size, 3]`.
  """
  if is_square_jpeg:
    window = tf.concat([top_left, [crop_size, crop_size]], 0)
    image = tf.io.decode_and_crop_jpeg(_to_its_end(encoded), window, channels=3)
    return tf.ensure_shape(image, [crop_size, crop_size, 3])

  def resized_crop(shape, read, ratios):
    target = _target(shape, how, size)
    first = (target - size) // 2 + top_left
    ratio = _ratio(shape, target, ratios)
    shape = -(-shape // ratio)
    scale = tf.cast(shape, tf.float32) / tf.cast(target, tf.float32)
    return tf.cond(
      tf.reduce_min(scale) >= 1,
      lambda: _shrunk_crop(
        target, scale, first, crop_size, lambda *at: read(*at, ratio)
      ),
      lambda: _grown_crop(shape, target, first, crop_size, read),
    )

  return _read_part(encoded, resized_crop)


def decode_part(
  encoded: tf.Tensor,
  place: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
  size: int,
) -> tf.Tensor:
  """Decodes a part of an image and resizes it; of a JPEG, only that part.

  Args:
    encoded: the file, a scalar string.
    place: maps the image's height and width, int32 `[2]`, to top and left and
      to height and width of the part, each int32 `[2]`.
    size: side of the result, in pixels.

  Returns:
    uint8 `[size, size, 3]`, resampled as by `decode_crop`.
  """

  def resized_part(shape, read, ratios):
    begin, extent = place(shape)
    ratio = _ratio(extent, tf.constant([size, size]), ratios)
    end = -(-(begin + extent) // ratio)
    begin = begin // ratio
    extent = end - begin
    part = read(begin, extent, ratio)[None]
    scale = tf.cast(extent, tf.float32) / size
    image = tf.cond(
      tf.reduce_min(scale) >= 1,
      lambda: _shrink(part, [size, size], scale),
      lambda: tf.image.resize(part, [size, size], antialias=True),
    )
    return tf.ensure_shape(_round(image[0]), [size, size, 3])

  return _read_part(encoded, resized_part)


def _ratio(shape, target, ratios):
  """Returns how many times smaller an image may be decoded, int32."""
  if len(ratios) == 1:
    return ratios[0]
  factor = tf.reduce_min(shape / target) / _BILINEAR_BELOW
  return tf.reduce_max(tf.where(factor >= ratios, ratios, 1))


def _read_part(encoded, make):
  """Calls `make(shape, read, ratios)`.

  `read(begin, extent, ratio=1)` decodes a part of the image that is `ratio`
  times smaller, one of `ratios`.
  """

  def of_jpeg():
    jpeg = _to_its_end(encoded)
    shape = tf.image.extract_jpeg_shape(jpeg)[:2]
    with tf.control_dependencies(_not_thin(shape)):
      shape = tf.identity(shape)

    def read(begin, extent, ratio=1):
      window = tf.concat([begin, extent], 0)

      def at(ratio):
        return lambda: tf.io.decode_and_crop_jpeg(
          jpeg, window, channels=3, ratio=ratio
        )

      return tf.cond(
        tf.equal(ratio, 1),
        at(1),
        lambda: tf.switch_case(
          tf.reduce_sum(tf.cast(ratio > np.array(_RATIOS[1:]), tf.int32)),
          [at(ratio) for ratio in _RATIOS[1:]],
        ),
      )

    return make(shape, read, np.array(_RATIOS, np.int32))

  def of_other():
    image = decode(encoded)

    def read(begin, extent, ratio=1):
      del ratio
      return tf.slice(image, tf.pad(begin, [[0, 1]]), [*tf.unstack(extent), 3])

    return make(tf.shape(image)[:2], read, (1,))

  return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_other)


def _to_its_end(encoded):
  """Returns a JPEG that is not cut off.

  Below the part that is decoded, nothing would notice it. A file ends with the
  marker of its end, or with what a camera appended, such as a film. Of those,
  which are few, all is decoded.
  """

  def decoded():
    # An eighth of the size, from all of the file. TensorFlow would not decode
    # what its result does not depend on.
    image = tf.io.decode_jpeg(encoded, ratio=8)
    first = tf.minimum(tf.reduce_max(tf.cast(image, tf.int32)), 0)
    return tf.strings.substr(encoded, first, tf.strings.length(encoded))

  ends = tf.equal(tf.strings.substr(encoded, -2, 2), b'\xff\xd9')
  return tf.cond(ends, lambda: encoded, decoded)


def _shrink(images, size, scale):
  """Shrinks images in a third of the time that `resize` takes."""
  return tf.cond(
    tf.reduce_max(scale) < _BILINEAR_BELOW,
    lambda: tf.raw_ops.ResizeBilinear(
      images=images, size=size, half_pixel_centers=True
    ),
    lambda: tf.raw_ops.ResizeArea(images=images, size=size),
  )


def _shrunk_crop(target, scale, first, size, read):
  """Crops an image that shrinks.

  The edges of the crop fall between the file's pixels. Among the edges up to
  `_MARGIN` - 1 resized pixels further out, the one nearest to a pixel of the
  file is used, and the surplus is cut off again.
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
  """Crops an image that is upscaled, exactly: resizes all of it."""
  whole = read(tf.zeros_like(shape), shape)[None]
  image = tf.cond(
    tf.reduce_all(target >= shape),
    lambda: tf.raw_ops.ResizeBilinear(
      images=whole, size=target, half_pixel_centers=True
    ),
    lambda: tf.image.resize(whole, target, antialias=True),
  )[0]
  return _round(crop(image, first[0], first[1], size))
