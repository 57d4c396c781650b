"""Makes the 256 x 256 dataset of images in any form: the work of Beam workers.

First each worker reads a piece of the source from its beginning to its end, and
keeps its resized images in one file, sorted by a hash of their names. Then each
file of the dataset gathers its range of hashes from all pieces. So the images
of all classes are mixed, sources are read in order, and little is in memory.
"""

import collections
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from alexnet_jax.data import decoding, images
from alexnet_jax.data.color_stats import ColorSums
from alexnet_jax.data.resized import sources
from alexnet_jax.data.resized.files import QUALITY, SIZE

_AHEAD = 64  # Images that are decoded before they are needed.


class Piece(NamedTuple):
  """A part of a source.

  Attributes:
    split: the split that it belongs to.
    members: its images.
    path: of the file to keep the resized images in.
    num_files: number of files of the split.
    how: 'short_side' or 'warp'; see `decoding.resize`.
    upright: whether images are turned by their EXIF orientation.
  """

  split: str
  members: Sequence[sources.Image]
  path: str
  num_files: int
  how: str
  upright: bool


class Kept(NamedTuple):
  """What is known of one or more pieces of a split.

  Attributes:
    bounds: for each piece its path, and where its part of each file begins, and
      the last one ends, in bytes.
    sums: over the images, as they are stored.
    counts: number of images by label.
    sides: the shortest and the longest side of the source's images, in pixels.
    skipped: names of the images that cannot be read, and why.
  """

  bounds: list[tuple[str, list[int]]]
  sums: ColorSums
  counts: collections.Counter[int]
  sides: tuple[int, int]
  skipped: list[tuple[str, str]]

  def merge(self, other: 'Kept') -> 'Kept':
    """Returns what is known of the pieces of both."""
    return Kept(
      self.bounds + other.bounds,
      self.sums.merge(other.sums),
      self.counts + other.counts,
      (min(self.sides[0], other.sides[0]), max(self.sides[1], other.sides[1])),
      self.skipped + other.skipped,
    )


def keep_piece(piece: Piece) -> tuple[str, Kept]:
  """Resizes the images of a piece and keeps them in one file.

  Returns:
    The split, and what is known of the piece.
  """
  records: list[tuple[int, bytes]] = []
  sums, counts = ColorSums.zero(SIZE), collections.Counter[int]()
  shortest, longest = 2**31, 0
  skipped = []
  for image, made in _resized(piece):
    if isinstance(made, str):
      skipped.append((image.name, made))
      continue
    jpeg, pixels, sides = made
    sums = sums.add(pixels[None])
    counts[image.label] += 1
    shortest, longest = min(shortest, *sides), max(longest, *sides)
    at = sources.position(image.name)
    records.append((at, _record(image, jpeg)))
  records.sort()
  bounds, end = [0] * (piece.num_files + 1), 0
  with tf.io.gfile.GFile(piece.path, 'wb') as file:
    for at, record in records:
      file.write(struct.pack('<QQ', at, len(record)) + record)
      end += 16 + len(record)
      bounds[file_of(at, piece.num_files) + 1] = end
  for i in range(piece.num_files):  # Files without an image of this piece.
    bounds[i + 1] = max(bounds[i], bounds[i + 1])
  kept = Kept(
    [(piece.path, bounds)], sums, counts, (shortest, longest), skipped
  )
  return piece.split, kept


def file_of(position: int, num_files: int) -> int:
  """Returns the number of the file that an image belongs to."""
  return position * num_files >> 64


def gather(
  target: str, parts: Sequence[tuple[str, int, int]]
) -> tuple[str, int]:
  """Writes a file of the dataset.

  Args:
    target: path of the TFRecord file to write.
    parts: for each piece the path, and where the file's part begins and ends.

  Returns:
    The path and the number of images.
  """
  records = []
  for path, begin, end in parts:
    with tf.io.gfile.GFile(path, 'rb') as file:
      file.seek(begin)
      part = file.read(end - begin)
    start = 0
    while start < len(part):
      at, size = struct.unpack_from('<QQ', part, start)
      start += 16
      records.append((at, part[start : start + size]))
      start += size
  records.sort()
  with tf.io.TFRecordWriter(target) as file:
    for _, record in records:
      file.write(record)
  return target, len(records)


def _resized(piece: Piece) -> Iterator[tuple[sources.Image, Any]]:
  """Yields for each image its JPEG, pixels and sides, or why there are none."""

  @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
  def resized(encoded):
    image = decoding.decode(encoded)
    small = decoding.resize(image, piece.how, SIZE)
    jpeg = tf.io.encode_jpeg(small, quality=QUALITY)
    # The statistics are those of the pixels that readers will decode.
    return jpeg, tf.io.decode_jpeg(jpeg), tf.shape(image)[:2]

  graph = resized.get_concrete_function()

  def make(content: bytes | OSError) -> Any:
    if isinstance(content, OSError):
      return content.strerror or str(content)
    try:
      encoded = images.standard(content, piece.upright)
      jpeg, pixels, sides = graph(tf.constant(encoded))
    except ValueError as error:
      return str(error)
    except tf.errors.OpError as error:
      return f'cannot be decoded: {decoding.reason(error)}'
    return jpeg.numpy(), pixels.numpy(), tuple(map(int, sides.numpy()))

  contents = sources.read(piece.members)
  made = images.map_ahead(make, contents, _AHEAD)
  yield from zip(piece.members, made, strict=True)


def _record(image: sources.Image, jpeg: bytes) -> bytes:
  def of_bytes(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

  label = tf.train.Int64List(value=[image.label])
  feature = {
    'file_name': of_bytes(image.name.encode('utf-8', 'backslashreplace')),
    'image': of_bytes(jpeg),
    'label': tf.train.Feature(int64_list=label),
  }
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  return example.SerializeToString(deterministic=True)
