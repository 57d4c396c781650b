"""Makes a dataset ready for a run, and checks that a network fits it."""

from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import say
from alexnet_jax.config.loading import Config
from alexnet_jax.data import color_stats, faults
from alexnet_jax.data.cache import cached
from alexnet_jax.data.dataset import Dataset, origin
from alexnet_jax.data.preprocessing import Preprocessing


def prepare_data(
  data: Config,
  dataset: Dataset,
  splits: list[str],
  workdir: epath.Path,
) -> Dataset:
  """A set as `config.data` wants it read: from a copy, without its faults."""
  if data.cache_dir:
    dataset = cached(dataset, splits, data.cache_dir)
    say(f'reading {dataset.full_name} from its copy in {data.cache_dir}')
  if data.on_error == 'skip':
    dataset = faults.leave_out(dataset, splits, workdir, data.max_error_rate)
  for split, keys in dataset.left_out.items():
    if keys:
      named = ', '.join(sorted(keys)[:5]) + (', ...' if len(keys) > 5 else '')
      say(
        f'left out {len(keys)} of {dataset.num_examples(split) + len(keys)} '
        f'examples of {split}, which cannot be used: {named}'
      )
  return dataset


def check_dataset(
  num_classes: int,
  workdir: epath.Path,
  preprocessing: Preprocessing,
  dataset: Dataset,
) -> None:
  """Is the data set the one trained on, or one that its classes fit?

  Args:
    num_classes: that the network tells apart.
    workdir: its own.
    preprocessing: its own.
    dataset: to be scored.

  Raises:
    UserError: it is another, or has other classes.
  """
  if preprocessing.dataset is not None:
    # A set and its 256 x 256 form hold the same pictures.
    if origin(preprocessing.dataset) != dataset.origin:
      raise UserError(
        f'{workdir} was trained on {preprocessing.dataset}, not '
        f'{dataset.full_name} (data.name)'
      )
  # Converted weights do not say, but for the names of ImageNet's classes.
  elif preprocessing.class_names not in ((), tuple(dataset.class_names)):
    raise UserError(
      f'{workdir} tells {len(preprocessing.class_names)} classes apart, '
      f'{preprocessing.class_names[0]} and so on; those of '
      f'{dataset.full_name} are others (data.name)'
    )
  elif dataset.num_classes > num_classes:
    raise UserError(
      f'{workdir} tells {num_classes} classes apart, '
      f'{dataset.full_name} has {dataset.num_classes} (data.name)'
    )


def needs_color_stats(data: Config) -> bool:
  """Whether `config.data` wants something computed over the training set."""
  return (
    'channel' in (data.mean, data.std)
    or data.mean == 'image'
    or data.lighting != 'none'
  )


def preprocessing_of(
  data: Config, stats: color_stats.ColorStats | None, **facts: Any
) -> Preprocessing:
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
  return Preprocessing(
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
