"""What a training run has before its first step: data, a workdir, a start."""

import jax
from etils import epath
from jax.experimental import multihost_utils

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import write_text
from alexnet_jax.config.loading import Config
from alexnet_jax.config.saved import write_config
from alexnet_jax.data import color_stats, faults
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.data.prepare import (
  needs_color_stats,
  prepare_data,
  preprocessing_of,
)
from alexnet_jax.data.preprocessing import Preprocessing, read_preprocessing


def training_dataset(config: Config, workdir: epath.Path) -> Dataset:
  """The data set, on this machine if so wished, and without its faults."""
  data = config.data
  dataset = open_dataset(data.name, data.data_dir)
  splits = [data.train_split, data.val_split]
  for split in splits:
    dataset.num_examples(split)
  dataset.check_resize(data.resize)
  return prepare_data(data, dataset, splits, workdir)


def check_data(config: Config, dataset: Dataset) -> int:
  """Checks data set, network and batch together; returns steps an epoch."""
  number = dataset.num_examples(config.data.train_split)
  if dataset.num_classes > config.model.num_classes:
    raise UserError(
      f'{dataset.full_name} has {dataset.num_classes} classes, the network '
      f'{config.model.num_classes} (model.num_classes)'
    )
  if config.batch_size > number:
    raise UserError(
      f'batch_size {config.batch_size} is larger than the {number} images of '
      f'{dataset.full_name} {config.data.train_split!r}: no step in an epoch'
    )
  return number // config.batch_size


def prepare_workdir(
  config: Config, workdir: epath.Path, dataset: Dataset
) -> Preprocessing:
  """Writes config.json and preprocessing.json, or takes what is there."""
  path = workdir / 'preprocessing.json'
  data = config.data
  identity = color_stats.identity(
    dataset, data.train_split, data.resize, data.resize_size
  )
  if path.exists():
    preprocessing = read_preprocessing(workdir)
    if preprocessing.color_stats != identity:
      raise UserError(
        f'{path} is of other pictures: {preprocessing.color_stats}, not '
        f'{identity}. Give another --workdir'
      )
  else:
    stats = None
    if needs_color_stats(data):
      stats = color_stats.compute_color_stats(
        dataset, data.train_split, data.resize, data.resize_size
      )
    preprocessing = preprocessing_of(
      data,
      stats,
      dataset=dataset.full_name,
      class_names=tuple(dataset.class_names),
      color_stats=identity,
    )
    # As it is read when the run goes on.
    preprocessing = Preprocessing.from_json(preprocessing.to_json())
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise StorageError(f'cannot make {workdir}: {error}') from error
  if jax.process_index() == 0:
    # The config first: it says what the other was made for.
    write_config(config, workdir)
    faults.write_skipped(dataset, workdir)
    if not path.exists():
      write_text(path, preprocessing.to_json())
  if jax.process_count() > 1:
    # Each computed it; the last bits may differ. One is the run's.
    multihost_utils.sync_global_devices('preprocessing.json')
    preprocessing = read_preprocessing(workdir)
  return preprocessing
