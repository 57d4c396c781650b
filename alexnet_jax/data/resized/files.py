"""Makes one file of the 256 x 256 dataset: the work of a Beam worker."""

import contextlib
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import decoding, faults, sizes
from alexnet_jax.data.color_stats import ColorSums

SIZE = 256
QUALITY = 95
_BATCH = 32


class Task(NamedTuple):
  """One file to make.

  Attributes:
    split: the split that the file belongs to.
    number: the number of the file in its split.
    source: path of the TFRecord file to read.
    target: path of the TFRecord file to write.
    length: number of records in the source.
    image_key: name of the image feature.
    how: 'short_side' or 'warp'; see `decoding.resize`.
    skip_errors: whether to skip images that cannot be decoded.
  """

  split: str
  number: int
  source: str
  target: str
  length: int
  image_key: str
  how: str
  skip_errors: bool


class Made(NamedTuple):
  """What is known of one or more finished files of a split.

  Attributes:
    lengths: number of examples by the number of the file.
    num_skipped: number of images that cannot be decoded.
    sums: over the images, as they are stored.
  """

  lengths: dict[int, int]
  num_skipped: int
  sums: ColorSums

  def merge(self, other: 'Made') -> 'Made':
    """Returns what is known of the files of both."""
    return Made(
      {**self.lengths, **other.lengths},
      self.num_skipped + other.num_skipped,
      self.sums.merge(other.sums),
    )


def resize_file(task: Task) -> tuple[str, Made]:
  """Makes one file: resizes its images and copies all other features.

  Returns:
    The split, and what is known of the file.

  Raises:
    UserError: an image cannot be decoded, which names its key, or the source
      is corrupt.
  """
  source = tf.data.TFRecordDataset(task.source, buffer_size=1 << 20)
  feature = {task.image_key: tf.io.FixedLenFeature([], tf.string)}

  def resized(record):
    encoded = tf.io.parse_single_example(record, feature)[task.image_key]
    encoded = sizes.checked(encoded, sizes.MAX_PIXELS)
    image = decoding.resize(decoding.decode(encoded), task.how, SIZE)
    jpeg = tf.io.encode_jpeg(image, quality=QUALITY)
    # The statistics are those of the pixels that readers will decode.
    return record, jpeg, tf.io.decode_jpeg(jpeg)

  examples = source.map(resized, num_parallel_calls=tf.data.AUTOTUNE)
  if task.skip_errors:
    examples = examples.ignore_errors()
  sums = ColorSums.zero(SIZE)
  num_records = 0
  try:
    for _ in source:
      num_records += 1
    if num_records != task.length:
      raise UserError(_corrupt(task, f'{num_records} of {task.length} records'))
    # A worker that is tried again overwrites the file.
    with tf.io.TFRecordWriter(task.target) as file, tqdm(
      desc=task.target.rsplit('/', 1)[-1], unit='', leave=False, disable=None
    ) as bar:  # fmt: skip
      for batch in examples.batch(_BATCH).prefetch(2).as_numpy_iterator():
        for record, jpeg in zip(*batch[:2], strict=True):
          file.write(_with_image(record, task.image_key, jpeg))
        sums = sums.add(batch[2])
        bar.update(len(batch[0]))
  except faults.ERRORS as error:
    raise UserError(_explain(task, sums.num_examples, error)) from error
  num_skipped = num_records - sums.num_examples
  lengths = {task.number: sums.num_examples}
  return task.split, Made(lengths, num_skipped, sums)


def _with_image(record: bytes, key: str, jpeg: bytes) -> bytes:
  example = tf.train.Example.FromString(record)
  example.features.feature[key].bytes_list.value[:] = [jpeg]
  return example.SerializeToString(deterministic=True)


def _explain(task: Task, done: int, error: tf.errors.OpError) -> str:
  name = task.source.rsplit('/', 1)[-1]
  records = tf.data.TFRecordDataset(task.source).enumerate().skip(done)
  feature = {task.image_key: tf.io.FixedLenFeature([], tf.string)}
  with contextlib.suppress(*faults.ERRORS):
    for number, record in records.as_numpy_iterator():
      try:
        example = tf.io.parse_single_example(record, feature)
        encoded = sizes.checked(example[task.image_key], sizes.MAX_PIXELS)
        decoding.decode(encoded)
      except tf.errors.InvalidArgumentError:
        return (
          f'cannot decode image {name}__{number} of split {task.split!r}: fix '
          'it, or skip such images with --on_error=skip'
        )
  return _corrupt(task, str(error.message))


def _corrupt(task: Task, reason: str) -> str:
  return (
    f'{task.source} of split {task.split!r} is corrupt: {reason}; copy it or '
    'prepare the dataset again'
  )
