"""Sets up a training run: its dataset and the files of its workdir."""

import jax
from etils import epath
from jax.experimental import multihost_utils

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import absolute, write_text
from alexnet_jax.cli.terminal import warn
from alexnet_jax.config.loading import Config
from alexnet_jax.config.saved import write_config
from alexnet_jax.data import color_stats, faults
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.data.of_run import (
  needs_color_stats,
  prepare_data,
  preprocessing_of,
)
from alexnet_jax.data.preprocessing import Preprocessing, read_preprocessing


def training_dataset(config: Config, workdir: epath.Path) -> Dataset:
  """Opens the dataset of `config.data`, without the examples to be skipped.

  Raises:
    UserError: the dataset or a split does not exist, or does not fit
      `data.resize`.
  """
  data = config.data
  dataset = open_dataset(data.name, data.data_dir)
  splits = [data.train_split, data.val_split]
  for split in splits:
    dataset.num_examples(split)
  dataset.check_resize(data.resize)
  return prepare_data(config, dataset, splits, workdir)


def check_data(config: Config, dataset: Dataset) -> int:
  """Checks that dataset, network and batch size fit each other.

  Returns:
    The number of training steps in an epoch.

  Raises:
    UserError: the network has too few outputs, the batch is larger than the
      training split, or the images have lists of labels.
  """
  if dataset.has_lists:
    raise UserError(
      f'{dataset.full_name} (data.name) has lists of labels, for evaluation '
      'alone (--mode=eval): a training needs one label an image'
    )
  number = dataset.num_examples(config.data.train_split)
  num_classes = config.model.num_classes or dataset.num_classes
  if dataset.num_classes > num_classes:
    raise UserError(
      f'{dataset.full_name} has {dataset.num_classes} classes, the network '
      f'{num_classes} (model.num_classes)'
    )
  if dataset.num_classes < num_classes:
    warn(
      f'the network has {num_classes} outputs (model.num_classes), and '
      f'{dataset.full_name} {dataset.num_classes} classes'
    )
  if config.batch_size > number:
    raise UserError(
      f'batch_size {config.batch_size} is larger than the {number} images of '
      f'{dataset.full_name} {config.data.train_split!r}: an epoch would have '
      'no step'
    )
  return number // config.batch_size


def prepare_workdir(
  config: Config, workdir: epath.Path, dataset: Dataset
) -> Preprocessing:
  """Writes config.json and left_out.json, and preprocessing.json if missing.

  Returns:
    The workdir's preprocessing, or if it has none, that of the training split.

  Raises:
    UserError: the workdir holds the preprocessing of other images.
    StorageError: the workdir cannot be written.
  """
  path = workdir / 'preprocessing.json'
  preprocessing = _preprocessing(config, workdir, dataset)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise StorageError(f'cannot make {workdir}: {error}') from error
  if jax.process_index() == 0:
    # The config first: it identifies the run that the other files belong to.
    write_config(config, workdir)
    faults.write_skipped(dataset, workdir)
    if not path.exists():
      write_text(path, preprocessing.to_json())
  if jax.process_count() > 1:
    # Each process computed its own, and the last bits may differ. All use the
    # one that was written.
    multihost_utils.sync_global_devices('preprocessing.json')
    preprocessing = read_preprocessing(workdir)
  return preprocessing


def _preprocessing(
  config: Config, workdir: epath.Path, dataset: Dataset
) -> Preprocessing:
  data = config.data
  images = data.train_split, data.resize, data.resize_size
  identity = color_stats.identity(dataset, *images)
  if (path := workdir / 'preprocessing.json').exists():
    preprocessing = read_preprocessing(workdir)
    if preprocessing.color_stats != identity:
      raise UserError(
        f'{path} belongs to other images: {preprocessing.color_stats}, not '
        f'{identity}. Give another --workdir'
      )
    return preprocessing
  stats = None
  if needs_color_stats(data):
    stats = color_stats.compute_color_stats(dataset, *images)
  mean_image = None
  if data.mean == 'init_from':
    mean_image = read_preprocessing(absolute(config.init_from)).mean
  preprocessing = preprocessing_of(
    data,
    stats,
    mean_image,
    dataset=dataset.full_name,
    class_names=tuple(dataset.class_names),
    color_stats=identity,
  )
  # With the same rounding as when a resumed run reads it.
  return Preprocessing.from_json(preprocessing.to_json())
