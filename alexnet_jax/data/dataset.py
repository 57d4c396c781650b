"""A TFDS image classification set: found, checked, and read undecoded."""

import dataclasses
import difflib
import sys
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from alexnet_jax.data import digits
from alexnet_jax.errors import UserError

# The pipeline runs on the host; accelerators are JAX's alone.
tf.config.set_visible_devices([], 'GPU')
# Deprecations within TFDS and TensorFlow are no news to who trains.
tf.get_logger().setLevel('ERROR')

_IMAGENET_HELP = (
  'ImageNet must be downloaded by hand: put ILSVRC2012_img_train.tar and '
  'ILSVRC2012_img_val.tar into {data_dir}/downloads/manual, then run'
)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared TFDS set with one picture and one class label an example."""

  builder: tfds.core.DatasetBuilder
  image_key: str
  label_key: str

  @property
  def full_name(self) -> str:
    """Name, config and version: `imagenette/320px-v2/1.0.0`."""
    return self.builder.info.full_name

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
    if number < 1:  # A slice that ends before it begins is below 0.
      raise UserError(f'split {split!r} of {self.full_name} is empty')
    return number

  def read(
    self, split: str, shuffle_seed: int | None = None
  ) -> tf.data.Dataset:
    """Undecoded examples: `image` and `key` (strings) and `label` (int64).

    The order depends on `shuffle_seed` alone (None: as stored). With a seed
    the files are read in a shuffled order; records within a file are not.
    """
    read_config = tfds.ReadConfig(
      shuffle_seed=shuffle_seed,
      # The same order each time that it is walked.
      shuffle_reshuffle_each_iteration=False,
      add_tfds_id=True,
      try_autocache=False,
      # Sets that were stored in order may be shuffled as well.
      enable_ordering_guard=False,
    )
    examples = self.builder.as_dataset(
      split=split,
      shuffle_files=shuffle_seed is not None,
      read_config=read_config,
      decoders=tfds.decode.PartialDecoding(
        {self.image_key: True, self.label_key: True},
        decoders={self.image_key: tfds.decode.SkipDecoding()},
      ),
    )
    return examples.map(
      lambda example: {
        'image': example[self.image_key],
        'label': example[self.label_key],
        'key': example['tfds_id'],
      }
    )


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
  return _check_features(builder)


def _find_builder(name: str, data_dir: str | None):
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    close = difflib.get_close_matches(name.split('/')[0], tfds.list_builders())
    hint = f' (did you mean {" or ".join(close)}?)' if close else ''
    raise UserError(
      f'unknown data set {name!r}{hint}: data.name takes any TFDS name, '
      'NAME[/CONFIG][:VERSION], or one prepared in '
      f'{data_dir or tfds.core.constants.DATA_DIR} (data.data_dir)'
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
  data_dir = builder.data_path.parents[
    len(builder.info.full_name.split('/')) - 1
  ]
  message = f'data set {builder.info.full_name} is not prepared in {data_dir}'
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
