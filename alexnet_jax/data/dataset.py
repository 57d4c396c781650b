"""Opens a TFDS image classification dataset and reads it undecoded."""

import dataclasses
import functools
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import file_adapters

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import builders, digits, sizes


def _hide_gpus() -> None:
  """Keeps TensorFlow, which runs on the host only, from taking GPU memory."""
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:  # This program has used TensorFlow before.
    # Not `terminal.warn`, which would start JAX.
    warnings.warn(
      'TensorFlow has taken GPU memory, which JAX may lack. Call '
      "tf.config.set_visible_devices([], 'GPU') before anything else of "
      'TensorFlow, or set TF_FORCE_GPU_ALLOW_GROWTH=true',
      RuntimeWarning,
      stacklevel=2,
    )


_hide_gpus()
# Hides deprecation warnings from inside TFDS and TensorFlow.
tf.get_logger().setLevel('ERROR')

# The read buffer of each file.
_READ_BYTES = 1 << 20

# `data.resized` writes this file into each dataset that it builds. A dataset of
# another revision holds different pixels.
RESIZED_FILE = 'resized.json'
RESIZED_REVISION = 1


class Part(NamedTuple):
  """Consecutive records of one file.

  Attributes:
    path: of the file.
    skip: the number of records before them.
    take: the number of records.
    left_out: the places in the file of those that are skipped (`faults`).
    is_whole: whether they are all the records of the file.
  """

  path: str
  skip: int
  take: int
  left_out: tuple[int, ...]
  is_whole: bool

  @property
  def number(self) -> int:
    """The number of records that are read."""
    return self.take - len(self.left_out)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared TFDS dataset whose examples have an image and a class label.

  Attributes:
    builder: the TFDS builder.
    image_key: name of the image feature.
    label_key: name of the label feature.
    skipped: keys of the examples to skip, by split (`faults.skip_faults`).
    max_pixels: of an image; larger ones cannot be used (`sizes.checked`).
  """

  builder: tfds.core.DatasetBuilder
  image_key: str
  label_key: str
  skipped: Mapping[str, frozenset[str]] = dataclasses.field(
    default_factory=dict
  )
  max_pixels: int = sizes.MAX_PIXELS

  @property
  def full_name(self) -> str:
    """Name, config and version, such as `imagenette/320px-v2/1.0.0`."""
    return self.builder.info.full_name

  @property
  def data_dir(self) -> epath.Path:
    """The TFDS folder that holds this dataset: `data.data_dir`."""
    return builders.data_dir_of(self.builder)

  @property
  def num_classes(self) -> int:
    """The number of class labels."""
    return self.builder.info.features[self.label_key].num_classes

  @property
  def has_lists(self) -> bool:
    """Whether each image has a list of labels, such as imagenet2012_real's."""
    feature = self.builder.info.features[self.label_key]
    return isinstance(feature, tfds.features.Sequence)

  @property
  def class_names(self) -> list[str]:
    """The class names, in the order of the labels."""
    return self.builder.info.features[self.label_key].names

  def num_examples(self, split: str) -> int:
    """Returns the size of a split, without the skipped examples.

    Raises:
      UserError: the split does not exist, which lists those that do, or it is
        empty.
    """
    try:
      number = self.builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
      raise UserError(
        f'unknown split {split!r} of {self.full_name}: there are '
        f'{", ".join(sorted(self.builder.info.splits))}, and slices such as '
        "'train[:90%]' (data.train_split, data.val_split)"
      ) from error
    number -= len(self.skipped.get(split, ()))
    if number < 1:  # Negative for a slice that ends before it begins.
      raise UserError(f'split {split!r} of {self.full_name} is empty')
    return number

  @property
  def origin(self) -> str:
    """The full name of the dataset, or of the source that it was made from."""
    return self.resized['source'] if self.resized else self.full_name

  @functools.cached_property
  def resized(self) -> dict[str, Any] | None:
    """How `data.resized` built this dataset; None if another program did."""
    path = epath.Path(self.builder.data_path) / RESIZED_FILE
    return json.loads(path.read_text()) if path.exists() else None

  def check_resize(self, how: str) -> None:
    """Checks that a dataset built by `data.resized` was resized in one way.

    Args:
      how: `data.resize`, 'short_side' or 'warp'.

    Raises:
      UserError: it was resized in the other way.
    """
    if self.resized and self.resized['resize'] != how:
      # TFDS takes NAME:VERSION, but calls it NAME/VERSION.
      source = f'--source={":".join(self.origin.rsplit("/", 1))}'
      if 'form' in self.resized:  # Made from a folder.
        name = self.origin.split('/')[0]
        source = f'--source=FOLDER --name={name}'
      raise UserError(
        f'{self.full_name} was resized by {self.resized["resize"]!r}, not '
        f'{how!r} (data.resize). Build the other one with: python -m '
        f'alexnet_jax.data.resized {source} --resize={how} '
        f'--data_dir={self.data_dir}'
      )

  def is_square_jpeg(self, size: int) -> bool:
    """Whether every image is stored as a JPEG of `size` x `size` pixels."""
    feature = self.builder.info.features[self.image_key]
    return (
      feature.shape == (size, size, 3) and feature.encoding_format == 'jpeg'
    )

  def parts(self, split: str, share: tuple[int, int] = (0, 1)) -> list[Part]:
    """Returns the pieces of files that hold a split, in the stored order.

    Args:
      split: a split or a slice of one.
      share: (i, n) selects the i-th of n consecutive parts of the split.
    """
    wanted = self.builder.info.splits[split].file_instructions
    number = sum(piece.take for piece in wanted)
    begin, end = (number * (share[0] + i) // share[1] for i in (0, 1))
    parts, done = [], 0
    for piece in wanted:
      first = max(begin - done, 0)
      take = min(end - done, piece.take) - first
      if take > 0:
        parts.append(self._part(split, piece, piece.skip + first, take))
      done += piece.take
    return parts

  def _part(self, split, piece, skip, take) -> Part:
    name = os.path.basename(piece.filename)
    keys = (key.rpartition('__') for key in self.skipped.get(split, ()))
    left_out = sorted(
      int(i) for of, _, i in keys if of == name and skip <= int(i) < skip + take
    )
    is_whole = take == piece.examples_in_shard
    return Part(
      os.fspath(piece.filename), skip, take, tuple(left_out), is_whole
    )

  def records(
    self, split: str, parts: Sequence[Part] | None = None, keys: bool = False
  ) -> tf.data.Dataset:
    """Reads stored examples of a split, neither parsed nor decoded.

    Parsing takes longer than reading, so the caller parses only the examples
    that it uses.

    Args:
      split: a split or a slice of one.
      parts: those of `parts` to read, in this order; None: all.
      keys: whether to return the keys too, which takes longer than reading.

    Returns:
      Strings; with `keys`, pairs of a record and its key.
    """
    parts = self.parts(split) if parts is None else parts
    if not keys and all(p.is_whole and not p.left_out for p in parts):
      return self.file_records([part.path for part in parts])
    left_out = [
      f'{os.path.basename(part.path)}__{i}'
      for part in parts
      for i in part.left_out
    ]

    def read(path, skip, take):
      records = self.file_records(path)
      if not keys and not left_out:
        return records.skip(skip).take(take)
      name = tf.strings.split(path, '/')[-1]
      return records.enumerate().skip(skip).take(take).map(
        # The key is TFDS's `tfds_id`.
        lambda i, record: (
          record, tf.strings.join([name, tf.strings.as_string(i)], '__')
        )
      )  # fmt: skip

    records = tf.data.Dataset.from_tensor_slices(
      (
        tf.constant([part.path for part in parts], tf.string),
        np.array([part.skip for part in parts], np.int64),
        np.array([part.take for part in parts], np.int64),
      )
    ).flat_map(tf.autograph.experimental.do_not_convert(read))
    if left_out:
      records = records.filter(
        lambda _, key: tf.reduce_all(key != tf.constant(left_out))
      )
      if not keys:
        records = records.map(lambda record, _: record)
    return records

  def file_records(self, path: Any) -> tf.data.Dataset:
    """Reads the stored examples of a file or of several, as strings."""
    adapter = file_adapters.ADAPTER_FOR_FORMAT[self.builder.info.file_format]
    return adapter.make_tf_data(path, buffer_size=_READ_BYTES)

  def parse(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the `image` (string) and `label` of a stored example.

    The label is an int64 scalar, or for a list of labels, ones and zeros
    `[num_classes]`.
    """
    has_lists = self.has_lists
    label_form = (
      tf.io.RaggedFeature(tf.int64)
      if has_lists
      else tf.io.FixedLenFeature([], tf.int64)
    )
    parsed = tf.io.parse_single_example(
      record,
      {
        self.image_key: tf.io.FixedLenFeature([], tf.string),
        self.label_key: label_form,
      },
    )
    label = parsed[self.label_key]
    if has_lists:
      in_list = tf.one_hot(label, self.num_classes, dtype=tf.int64)
      is_valid = (label >= 0) & (label < self.num_classes)
      label = tf.where(
        tf.reduce_all(is_valid),
        tf.minimum(tf.reduce_sum(in_list, axis=0), 1),
        tf.constant(-1, tf.int64),  # So that it stays out of range.
      )
    return {'image': parsed[self.image_key], 'label': label}

  def read(
    self, split: str, parts: Sequence[Part] | None = None
  ) -> tf.data.Dataset:
    """Reads undecoded examples: `image` and `key` (strings), `label` (int64).

    A key is TFDS's `tfds_id`: the name of the file, and the position in it.

    Args:
      split: a split or a slice of one.
      parts: see `records`.
    """
    return self.records(split, parts, keys=True).map(
      lambda record, key: {**self.parse(record), 'key': key},
      num_parallel_calls=tf.data.AUTOTUNE,
    )

  def files(self, splits: Sequence[str]) -> list[epath.Path]:
    """Returns the files that hold the examples of some splits, sorted."""
    paths = {
      os.fspath(part.filename)
      for split in splits
      for part in self.builder.info.splits[split].file_instructions
    }
    return [epath.Path(path) for path in sorted(paths)]


def open_dataset(name: str, data_dir: str | None = None) -> Dataset:
  """Opens a prepared TFDS dataset; `digits` is prepared on first use.

  Args:
    name: `NAME[/CONFIG][:VERSION]`, as in TFDS.
    data_dir: the TFDS folder that holds it. None is TFDS's own default
      (`TFDS_DATA_DIR`, else `~/tensorflow_datasets`), and the user's cache for
      `digits`.

  Raises:
    UserError: the dataset is unknown or not prepared, does not have images and
      class labels, or was built by another revision of `data.resized`.
  """
  is_digits = name.split(':')[0] == digits.Digits.name
  if is_digits:
    data_dir = data_dir or digits.default_data_dir()
  builder = builders.find_builder(name, data_dir)
  if not builder.info.splits and is_digits:
    builders.prepare(builder)
  if not builder.info.splits:
    raise UserError(builders.how_to_prepare(builder, name))
  dataset = _check_features(builder)
  try:
    dataset.file_records('')
  except NotImplementedError as error:  # ArrayRecord.
    file_format = builder.info.file_format.value
    raise UserError(
      f'{builder.data_path} has files of the format {file_format}, which '
      'tf.data cannot read. Prepare it in another folder: python -m '
      f'alexnet_jax.data.prepare {name} --data_dir=FOLDER'
    ) from error
  made = dataset.resized
  if made and made.get('revision') != RESIZED_REVISION:
    raise UserError(
      f'{builder.data_path} was built by revision {made.get("revision")} of '
      f'alexnet_jax.data.resized, this is {RESIZED_REVISION}: remove that '
      'folder and build the dataset again'
    )
  return dataset


def _check_features(builder) -> Dataset:
  """Finds the image and the label among a dataset's features.

  They are TFDS's supervised pair, or are called 'image' and 'label'.
  """
  info = builder.info
  image_key, label_key = info.supervised_keys or ('image', 'label')
  features: dict[str, Any] = dict(info.features)
  label = features.get(label_key)
  if isinstance(label, tfds.features.Sequence):
    label = label.feature
  if not isinstance(
    features.get(image_key), tfds.features.Image
  ) or not isinstance(label, tfds.features.ClassLabel):
    raise UserError(
      f'dataset {info.full_name} (data.name) needs an image and a class label: '
      f'its features are {", ".join(sorted(features))}'
    )
  return Dataset(builder, image_key, label_key)
