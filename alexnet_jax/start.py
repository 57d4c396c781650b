"""What a training run has before its first step: data, a workdir, a start."""

from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from alexnet_jax import config as config_lib
from alexnet_jax import evaluate, pretrained, writer
from alexnet_jax.data import color_stats, preprocess
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.errors import StorageError, UserError
from alexnet_jax.learning import steps


def training_set(config: config_lib.Config, workdir: epath.Path) -> Dataset:
  """The data set, on this machine if so wished, and without its faults."""
  data = config.data
  dataset = open_dataset(data.name, data.data_dir)
  splits = [data.train_split, data.val_split]
  for split in splits:
    dataset.num_examples(split)
  dataset.check_resize(data.resize)
  return evaluate.prepare_data(data, dataset, splits, workdir)


def check_data(config: config_lib.Config, dataset: Dataset) -> int:
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
  config: config_lib.Config, workdir: epath.Path, dataset: Dataset
) -> preprocess.Preprocessing:
  """Writes config.json and preprocessing.json, or takes what is there."""
  path = workdir / 'preprocessing.json'
  data = config.data
  identity = color_stats.identity(
    dataset, data.train_split, data.resize, data.resize_size
  )
  if path.exists():
    preprocessing = pretrained.read_preprocessing(workdir)
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
    preprocessing = preprocess.Preprocessing.from_json(preprocessing.to_json())
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise StorageError(f'cannot make {workdir}: {error}') from error
  if jax.process_index() == 0:
    # The config first: it says what the other was made for.
    config_lib.write_config(config, workdir)
    evaluate.write_left_out(dataset, workdir)
    if not path.exists():
      config_lib.write_whole(path, preprocessing.to_json())
  if jax.process_count() > 1:
    # Each computed it; the last bits may differ. One is the run's.
    multihost_utils.sync_global_devices('preprocessing.json')
    preprocessing = pretrained.read_preprocessing(workdir)
  return preprocessing


def needs_color_stats(data: config_lib.Config) -> bool:
  """Whether `config.data` wants something computed over the training set."""
  return (
    'channel' in (data.mean, data.std)
    or data.mean == 'image'
    or data.lighting != 'none'
  )


def preprocessing_of(
  data: config_lib.Config, stats: color_stats.ColorStats | None, **facts: Any
) -> preprocess.Preprocessing:
  """What `config.data` makes of a training set's colours.

  Args:
    data: `config.data`.
    stats: of the training set; None where none are needed.
    **facts: other fields of `Preprocessing`: of which set it is.
  """
  mean, std = data.mean, data.std
  if stats:
    if isinstance(mean, str):
      mean = {'image': stats.mean_image, 'channel': stats.mean}[mean]
    std = stats.std if std == 'channel' else std
  return preprocess.Preprocessing(
    resize=data.resize,
    resize_size=data.resize_size,
    crop_size=data.crop_size,
    mean=np.asarray(mean),
    mean_crop=data.mean_crop,
    std=np.asarray(std),
    flip=data.flip,
    lighting=data.lighting,
    lighting_std=data.lighting_std,
    lighting_epochs=data.lighting_epochs,
    lighting_rescale=data.lighting_rescale,
    train_crop=data.train_crop,
    eigenvalues=stats and stats.eigenvalues,
    eigenvectors=stats and stats.eigenvectors,
    **facts,
  )


def init_from(
  config: config_lib.Config, state: steps.TrainState
) -> steps.TrainState:
  """The state with the best parameters of another workdir.

  The last layer stays new where it tells another number of classes apart.
  """
  source = pretrained.load(config.init_from)
  name = source.model.architecture.name
  if name != config.model.name:
    raise UserError(
      f'{config.init_from} (init_from) holds the network {name!r}, not '
      f'{config.model.name!r} (model.name)'
    )
  if source.dropout_scaling != config.model.dropout_scaling:
    raise UserError(
      f'{config.init_from} (init_from) was trained with '
      f'model.dropout_scaling={source.dropout_scaling}: take the same, or its '
      'weights are those of another network'
    )
  params = dict(source.params)
  head = source.model.architecture.layer_names[-1]
  kept = ''
  if source.model.num_classes != config.model.num_classes:
    params[head] = state.params[head]
    kept = (
      f'; {head} is new: {config.model.num_classes} classes, not '
      f'{source.model.num_classes}'
    )
  for layer, leaves in state.params.items():
    for kind, leaf in leaves.items():
      if params[layer][kind].shape != leaf.shape:
        raise UserError(
          f'{config.init_from} (init_from): {layer}/{kind} is '
          f'{params[layer][kind].shape}, {leaf.shape} expected (data.crop_size '
          f'is {source.preprocessing.crop_size} there)'
        )
  writer.say(
    f'starting from the parameters of {config.init_from}, step {source.step}'
    + kept
  )
  std, trained_std = config.data.std, source.preprocessing.std
  if std != 'channel' and not np.allclose(std, trained_std, rtol=0.2):
    writer.say(
      f'  these were trained on pixels divided by {trained_std.tolist()}, not '
      f'by {list(std)} (data.std): expect a poor start'
    )
  return state.replace(params=params)
