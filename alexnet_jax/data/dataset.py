"""A TFDS image classification set: found, checked, and read undecoded."""

import dataclasses
import difflib
import functools
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import file_adapters

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import digits

# The pipeline runs on the host; accelerators are JAX's alone.
tf.config.set_visible_devices([], 'GPU')
# Deprecations within TFDS and TensorFlow are no news to who trains.
tf.get_logger().setLevel('ERROR')

# Files read in turns when shuffled; docs/input.md has what it does for the
# order, and `_READ_BYTES` for memory.
_FILES_AT_ONCE = 64
_READ_BYTES = 1 << 20
# The second half of the seed of an epoch's order of files.
_SHUFFLE = 2

# What `resized` leaves beside the files of a set; a set of another revision
# holds other pixels.
RESIZED_FILE = 'resized.json'
RESIZED_REVISION = 1

_IMAGENET_HELP = (
  'ImageNet must be downloaded by hand: put ILSVRC2012_img_train.tar and '
  'ILSVRC2012_img_val.tar into {data_dir}/downloads/manual, then run'
)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared TFDS set with one picture and one class label an example.

  Attributes:
    builder: TFDS's.
    image_key: name of the picture among the features.
    label_key: name of the label.
    left_out: keys of examples that are passed over, by split (`faults`).
  """

  builder: tfds.core.DatasetBuilder
  image_key: str
  label_key: str
  left_out: Mapping[str, frozenset[str]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def full_name(self) -> str:
    """Name, config and version: `imagenette/320px-v2/1.0.0`."""
    return self.builder.info.full_name

  @property
  def data_dir(self) -> epath.Path:
    """The folder that holds it and others, as `data.data_dir` has it."""
    return data_dir_of(self.builder)

  @property
  def num_classes(self) -> int:
    """The number of class labels."""
    return self.builder.info.features[self.label_key].num_classes

  @property
  def class_names(self) -> list[str]:
    """By label."""
    return self.builder.info.features[self.label_key].names

  def num_examples(self, split: str) -> int:
    """The size of a split; UserError names those there are."""
    try:
      number = self.builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
      raise UserError(
        f'unknown split {split!r} of {self.full_name}: there are '
        f'{", ".join(sorted(self.builder.info.splits))}, and slices of them '
        "such as 'train[:90%]' (data.train_split, data.val_split)"
      ) from error
    number -= len(self.left_out.get(split, ()))
    if number < 1:  # A slice that ends before it begins is below 0.
      raise UserError(f'split {split!r} of {self.full_name} is empty')
    return number

  @property
  def origin(self) -> str:
    """The full name; of a `resized` set that of its source."""
    return self.resized['source'] if self.resized else self.full_name

  @functools.cached_property
  def resized(self) -> dict[str, Any] | None:
    """How a `resized` set was made; None of any other."""
    path = epath.Path(self.builder.data_path) / RESIZED_FILE
    return json.loads(path.read_text()) if path.exists() else None

  def check_resize(self, how: str) -> None:
    """UserError where a `resized` set was made by another way of resizing."""
    if self.resized and self.resized['resize'] != how:
      raise UserError(
        f'{self.full_name} was resized by {self.resized["resize"]!r}, not '
        f'{how!r} (data.resize): python -m alexnet_jax.data.resized '
        f'--source={self.origin} --resize={how} makes the other'
      )

  def is_square_jpeg(self, size: int) -> bool:
    """Whether every picture is stored as a JPEG of `size` x `size` pixels."""
    feature = self.builder.info.features[self.image_key]
    return (
      feature.shape == (size, size, 3) and feature.encoding_format == 'jpeg'
    )

  def records(
    self, split: str, shuffle_seed: int | None = None, keys: bool = False
  ) -> tf.data.Dataset:
    """Stored examples, not even parsed: that takes longer than to read them.

    The order depends on `shuffle_seed` alone (None: as stored). With a seed
    the files are taken in a random order, `_FILES_AT_ONCE` of them in turns.

    Args:
      split: a split or a slice of one.
      shuffle_seed: from 0 to 2**31 - 1.
      keys: whether to give the keys too, which takes longer than reading.

    Returns:
      Strings; with `keys`, pairs of strings.
    """
    left_out = sorted(self.left_out.get(split, ()))
    parts = self.builder.info.splits[split].file_instructions
    if shuffle_seed is not None:
      seed = [shuffle_seed, _SHUFFLE]
      random = tf.random.stateless_uniform([len(parts)], seed, alg='philox')
      parts = [parts[i] for i in np.argsort(random.numpy(), kind='stable')]

    def read(path, skip, take):
      records = self.file_records(path)
      if not keys and not left_out:
        return records.skip(skip).take(take)
      name = tf.strings.split(path, '/')[-1]
      return records.enumerate().skip(skip).take(take).map(
        # As `tfds_id` has it.
        lambda i, record: (
          record, tf.strings.join([name, tf.strings.as_string(i)], '__')
        )
      )  # fmt: skip

    records = tf.data.Dataset.from_tensor_slices(
      (
        [os.fspath(part.filename) for part in parts],
        np.array([part.skip for part in parts], np.int64),
        # -1: all.
        np.array([part.take for part in parts], np.int64),
      )
    ).interleave(
      read,
      cycle_length=1 if shuffle_seed is None else _FILES_AT_ONCE,
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )
    if left_out:
      records = records.filter(
        lambda _, key: tf.reduce_all(key != tf.constant(left_out))
      )
      if not keys:
        records = records.map(lambda record, _: record)
    return records

  def file_records(self, path: Any) -> tf.data.Dataset:
    """The stored examples of one file, as strings."""
    adapter = file_adapters.ADAPTER_FOR_FORMAT[self.builder.info.file_format]
    return adapter.make_tf_data(path, buffer_size=_READ_BYTES)

  def parse(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
    """A stored example's `image` (string) and `label` (int64)."""
    parsed = tf.io.parse_single_example(
      record,
      {
        self.image_key: tf.io.FixedLenFeature([], tf.string),
        self.label_key: tf.io.FixedLenFeature([], tf.int64),
      },
    )
    return {'image': parsed[self.image_key], 'label': parsed[self.label_key]}

  def read(
    self, split: str, shuffle_seed: int | None = None
  ) -> tf.data.Dataset:
    """Undecoded examples: `image` and `key` (strings) and `label` (int64).

    In the order of `records`. A key is TFDS's `tfds_id`: the name of the file
    and the number in it.
    """
    return self.records(split, shuffle_seed, keys=True).map(
      lambda record, key: {**self.parse(record), 'key': key},
      num_parallel_calls=tf.data.AUTOTUNE,
    )

  def files(self, splits: Sequence[str]) -> list[epath.Path]:
    """The files that hold these splits."""
    paths = {
      os.fspath(part.filename)
      for split in splits
      for part in self.builder.info.splits[split].file_instructions
    }
    return [epath.Path(path) for path in sorted(paths)]


def data_dir_of(builder: tfds.core.DatasetBuilder) -> epath.Path:
  """TFDS's data folder of a builder: above name, config and version."""
  levels = len(builder.info.full_name.split('/'))
  return epath.Path(builder.data_path).parents[levels - 1]


def resized_name(name: str, how: str) -> str:
  """What the 256 x 256 set of a set is called: `imagenet2012_256`."""
  return f'{name}_256' if how == 'short_side' else f'{name}_256_{how}'


def origin(full_name: str) -> str:
  """The source of a `resized` set, by its full name; of others itself."""
  return re.sub(r'^(\w+?)_256(_warp)?/', r'\1/', full_name)


def open_dataset(name: str, data_dir: str | None = None) -> Dataset:
  """Finds a prepared TFDS set.

  Args:
    name: `NAME[/CONFIG][:VERSION]`, as TFDS has it. `digits` is prepared on
      first use.
    data_dir: where it is; None is TFDS's own default (`TFDS_DATA_DIR`, else
      `~/tensorflow_datasets`), for `digits` the user's cache.

  Raises:
    UserError: there is no such set, it is not prepared, or it is not one of
      image classification.
  """
  is_digits = name.split(':')[0] == digits.Digits.name
  if is_digits:
    data_dir = data_dir or digits.default_data_dir()
  builder = _find_builder(name, data_dir)
  if not builder.info.splits and is_digits:
    _prepare(builder)
  if not builder.info.splits:
    raise UserError(_how_to_prepare(builder, name))
  dataset = _check_features(builder)
  made = dataset.resized
  if made and made.get('revision') != RESIZED_REVISION:
    raise UserError(
      f'{builder.data_path} was made by revision {made.get("revision")} of '
      f'alexnet_jax.data.resized, this is {RESIZED_REVISION}: remove that '
      'folder and make it again'
    )
  return dataset


def _versions_in(folder: epath.Path) -> list[str]:
  """Configs and versions of a set that are prepared in its folder."""
  return sorted(
    os.fspath(path.parent)[len(os.fspath(folder)) + 1 :]
    for depth in ('*', '*/*')
    for path in folder.glob(f'{depth}/dataset_info.json')
    if 'incomplete' not in os.fspath(path)
  )


def _find_builder(name: str, data_dir: str | None):
  folder = data_dir or tfds.core.constants.DATA_DIR
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    there = _versions_in(epath.Path(folder) / re.split('[/:]', name)[0])
    source = origin(f'{name.split(":")[0]}/').rstrip('/')
    close = difflib.get_close_matches(name.split('/')[0], tfds.list_builders())
    hint = ''
    if there:
      hint = f' (prepared there: {", ".join(there)})'
    elif source != name.split(':')[0]:
      hint = (
        f' (python -m alexnet_jax.data.resized --source={source} makes such a '
        'set)'
      )
    elif close:
      hint = f' (did you mean {" or ".join(close)}?)'
    raise UserError(
      f'unknown data set {name!r}{hint}: data.name takes any TFDS name, '
      'NAME[/CONFIG][:VERSION], or one prepared in '
      f'{folder} (data.data_dir)'
    ) from error
  except (ValueError, AssertionError, RuntimeError, ImportError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(f'data set {name!r} (data.name): {reason}') from error


def _prepare(builder) -> None:
  """Prepares a set of our own; another process may be doing the same."""
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  try:
    builder.download_and_prepare()
  except OSError as error:
    # TFDS builds aside and renames: the loser of a race finds it done.
    if not builder.data_path.exists():
      raise UserError(
        f'cannot prepare {builder.name} in {builder.data_path}: {error}; name '
        'a writable folder with --config.data.data_dir=DIR'
      ) from error
    builder.info.read_from_directory(builder.data_path)


def _how_to_prepare(builder, name: str) -> str:
  data_dir = data_dir_of(builder)
  message = f'data set {builder.info.full_name} is not prepared in {data_dir}'
  there = _versions_in(data_dir / builder.name)
  if there:
    message += f' (there: {builder.name} {", ".join(there)})'
  command = f'tfds build {name} --data_dir={data_dir}'
  if builder.name == 'imagenet2012':
    message += '. ' + _IMAGENET_HELP.format(data_dir=data_dir)
    command += f' --manual_dir={data_dir}/downloads/manual'
  else:
    message += '. Prepare it with'
  return f'{message}: {command} (or name another folder: data.data_dir)'


def _check_features(builder) -> Dataset:
  """The keys of picture and label: the set's own pair, or the usual names."""
  info = builder.info
  image_key, label_key = info.supervised_keys or ('image', 'label')
  features: dict[str, Any] = dict(info.features)
  if not isinstance(
    features.get(image_key), tfds.features.Image
  ) or not isinstance(features.get(label_key), tfds.features.ClassLabel):
    raise UserError(
      f'data set {info.full_name} is not one of image classification: its '
      f'features are {", ".join(sorted(features))}'
    )
  return Dataset(builder, image_key, label_key)
