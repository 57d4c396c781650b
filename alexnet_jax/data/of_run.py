"""Prepares a dataset for a run: its files, whether it fits, its colors."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from alexnet_jax.cli.terminal import say
from alexnet_jax.config.loading import Config, flatten
from alexnet_jax.data import color_stats, faults, together
from alexnet_jax.data.cache import cached
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.labels import count_labels
from alexnet_jax.data.preprocessing import Preprocessing

# Fields in which the hosts of a run may differ.
_OF_A_HOST = ('compilation_cache', 'data.cache_dir', 'data.data_dir')


def prepare_data(
  config: Config, dataset: Dataset, splits: list[str], workdir: epath.Path
) -> Dataset:
  """Applies `data.max_pixels`, `cache_dir` and `on_error` to a dataset.

  Prints what is copied and which examples are skipped.

  Args:
    config: of the run.
    dataset: the dataset of `open_dataset`.
    splits: the splits that will be read.
    workdir: may list the examples to skip; nothing is written.

  Raises:
    UserError: the copy does not fit, too many examples cannot be used, a file
      is corrupt, or another process of the run has another config or dataset.
    StorageError: `data.cache_dir` cannot be written.
  """
  data = config.data
  together.check_same(_shared_facts(config, dataset, splits))
  dataset = dataclasses.replace(dataset, max_pixels=data.max_pixels)
  if data.cache_dir:
    dataset = cached(dataset, splits, data.cache_dir)
    say(f'reading {dataset.full_name} from its copy in {data.cache_dir}')
  if data.on_error == 'skip':
    dataset = faults.skip_faults(dataset, splits, workdir, data.max_error_rate)
  for split, keys in dataset.skipped.items():
    if keys:
      named = ', '.join(sorted(keys)[:5]) + (', ...' if len(keys) > 5 else '')
      say(
        f'skipping {len(keys)} of {dataset.num_examples(split) + len(keys)} '
        f'examples of {split} that cannot be used: {named}'
      )
  return dataset


def _shared_facts(
  config: Config, dataset: Dataset, splits: list[str]
) -> dict[str, Any]:
  """Returns what all processes of a run must have in common."""
  facts = {
    f'config.{name}': value
    for name, value in flatten(config).items()
    if name not in _OF_A_HOST
  }
  facts['the version of jax'] = jax.__version__
  for split in splits:
    parts = [(p.skip, p.take, p.is_whole) for p in dataset.parts(split)]
    number = dataset.num_examples(split)
    facts[f'of {split!r}, images:'] = number
    facts[f'of {split!r}, in its files:'] = parts
  facts['the dataset'] = dataset.full_name
  facts['the classes'] = dataset.class_names
  return facts


def class_weights(dataset: Dataset, split: str, num_outputs: int) -> np.ndarray:
  """Returns weights with which all classes of a split count the same.

  Args:
    dataset: a prepared dataset.
    split: the split to count.
    num_outputs: of the network, at least the number of classes.

  Returns:
    float32 `[num_outputs]`, whose mean over the images is 1.
  """
  counts = np.zeros(num_outputs)
  counts[: dataset.num_classes] = count_labels(dataset, split).counts
  classes = np.count_nonzero(counts)
  weights = counts.sum() / (classes * np.maximum(counts, 1))
  return np.where(counts > 0, weights, 0).astype(np.float32)


def needs_color_stats(data: Config) -> bool:
  """Returns whether `config.data` uses statistics of the training images.

  Those are the mean image, the mean and the standard deviation by channel, and
  the principal components, for lighting.
  """
  return (
    'channel' in (data.mean, data.std)
    or data.mean == 'image'
    or data.lighting != 'none'
  )


def preprocessing_of(
  data: Config,
  stats: color_stats.ColorStats | None,
  mean_image: np.ndarray | None = None,
  **facts: Any,
) -> Preprocessing:
  """Builds the preprocessing from `config.data` and the training statistics.

  Args:
    data: `config.data`.
    stats: the training split's statistics; None unless `needs_color_stats`.
    mean_image: of another workdir, for `data.mean='init_from'`.
    **facts: the other fields of `Preprocessing`, which name the dataset.
  """
  mean, std = data.mean, data.std
  if mean == 'init_from':
    mean = mean_image
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
