"""The number of pixels of an image file, without decoding it.

A file of some kilobytes may decode to many gigabytes. So each file's header is
read first, and one that is too large is refused (`config.data.max_pixels`).
"""

from typing import Any

import numpy as np
import tensorflow as tf

# The largest image unless `config.data.max_pixels` allows more: 400 MB of RGB.
MAX_PIXELS = 2**27

_GIF_EXTENSION, _GIF_FRAME = 0x21, 0x2C


def num_pixels(encoded: tf.Tensor) -> tf.Tensor:
  """Returns how many pixels are decoded from a file.

  Args:
    encoded: a JPEG, PNG, GIF or BMP file, a scalar string.

  Returns:
    int64; of a GIF, the sum over its frames, as TensorFlow decodes all of them
    to return one.

  Raises:
    tf.errors.InvalidArgumentError: it is no such file.

  Example:
    >>> file = tf.io.encode_png(np.zeros((3, 5, 3), np.uint8))
    >>> int(num_pixels(file))
    15
  """

  head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=26)
  head = tf.cast(head, tf.int64)

  def begins(letters: bytes):
    return tf.reduce_all(head[: len(letters)] == list(letters))

  def product(place: int, order: range):
    """Multiplies two numbers of four bytes each, from a place of the file."""
    weights = np.array([256**i for i in order], np.int64)
    parts = tf.reshape(head[place : place + 8], [2, 4]) * weights
    sides = tf.reduce_sum(parts, axis=1)
    # A BMP's height is negative if its first row is the top one.
    return tf.reduce_prod(tf.minimum(sides, 2**32 - sides))

  def of_jpeg():
    shape = tf.image.extract_jpeg_shape(encoded, output_type=tf.int32)
    return tf.reduce_prod(tf.cast(shape[:2], tf.int64))

  def of_gif():
    number = tf.numpy_function(_gif_pixels, [encoded], tf.int64)
    return tf.ensure_shape(number, [])

  def of_none():
    message = 'not a JPEG, PNG, GIF or BMP file'
    with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
      return tf.zeros([], tf.int64)

  return tf.case(
    [
      (tf.io.is_jpeg(encoded), of_jpeg),
      (begins(b'\x89PNG'), lambda: product(16, range(3, -1, -1))),
      (begins(b'GIF8'), of_gif),
      (begins(b'BM'), lambda: product(18, range(4))),
    ],
    default=of_none,
  )


def checked(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
  """Returns a file that does not decode to more pixels than allowed.

  Args:
    encoded: as for `num_pixels`.
    max_pixels: `config.data.max_pixels`.

  Raises:
    tf.errors.InvalidArgumentError: it has more, or is no such file.
  """
  message = f'more than {max_pixels:,} pixels (data.max_pixels)'
  fits = tf.debugging.assert_less_equal(
    num_pixels(encoded), np.int64(max_pixels), message=message
  )
  with tf.control_dependencies([] if fits is None else [fits]):
    return tf.identity(encoded)


def _gif_pixels(encoded: Any) -> np.int64:
  """Adds up the frames of a GIF, up to where it ends or makes no sense."""
  encoded = np.asarray(encoded, object).item()  # Bytes, in an array or not.
  total, place = 0, 13
  if len(encoded) > 10 and encoded[10] & 0x80:  # A table of colors.
    place += 3 << (encoded[10] & 7) + 1
  while place + 10 <= len(encoded):
    if encoded[place] == _GIF_FRAME:
      width, height = np.frombuffer(encoded, '<u2', 2, place + 5)
      total += int(width) * int(height)
      colors = encoded[place + 9]
      place += 11  # With the least size of codes.
      if colors & 0x80:
        place += 3 << (colors & 7) + 1
    elif encoded[place] == _GIF_EXTENSION:
      place += 2
    else:
      break
    while place < len(encoded) and encoded[place]:  # Blocks of up to 255.
      place += 1 + encoded[place]
    place += 1
  return np.int64(total)
