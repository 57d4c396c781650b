"""Draws the paper's Figures 3 and 4 for a network and its dataset."""

import json
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli import command
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.data.classes import Classes
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.plots import figure4
from alexnet_jax.plots.kernels import kernel_grid
from alexnet_jax.pretrained import inference, retrieval
from alexnet_jax.pretrained.loading import Pretrained
from alexnet_jax.pretrained.retrieval import Example


def make(
  network: Pretrained,
  dataset: Dataset,
  splits: tuple[str, str],
  classes: Classes,
  out: epath.Path,
  images: int = 8,
  queries: int = 5,
  neighbors: int = 6,
  seed: int = 0,
) -> dict[str, Any]:
  """Writes the figures and figures.json into a folder.

  Args:
    network: the network, of a workdir.
    dataset: images of its classes.
    splits: the training split and the validation split.
    classes: the network's and the dataset's.
    out: the folder.
    images: validation images to show with their most probable classes.
    queries: validation images to show with their nearest training images.
    neighbors: training images to show for each query.
    seed: the seed of the random choice of validation images.

  Returns:
    The content of figures.json.

  Raises:
    UserError: the validation split is too small.
    StorageError: the folder cannot be written.
  """
  train_split, val_split = splits
  number = dataset.num_examples(val_split)
  if images + queries > number:
    raise UserError(
      f'{images} images and {queries} queries are more than the {number} '
      f'images of {val_split!r}: reduce --images or --queries'
    )
  kernels = kernel_grid(np.asarray(network.params['conv1']['kernel']))
  _write(out / 'figure3.png', tf.io.encode_png(kernels).numpy())
  generator = np.random.default_rng(seed)
  drawn = generator.choice(number, images + queries, replace=False).tolist()
  probabilities, features = retrieval.outputs_at(
    network, dataset, val_split, drawn
  )
  found = retrieval.examples_at(dataset, val_split, drawn)
  examples = [found[i] for i in drawn]
  rows = [
    inference.likeliest(row, classes.names) for row in probabilities[:images]
  ]
  labels = _draw_labels(
    examples[:images], rows, str(out / 'figure4_labels.png')
  )
  batches = retrieval.outputs(network, dataset, train_split)
  bar = tqdm(batches, train_split, leave=False, disable=None, unit='batch')
  positions, distances = retrieval.nearest(
    features[images:], (batch.features for batch in bar), neighbors
  )
  near = retrieval.examples_at(dataset, train_split, positions.flat)
  content = {
    'step': network.step,
    'dataset': dataset.full_name,
    'splits': {'train': train_split, 'validation': val_split},
    'seed': seed,
    'command': command.typed(),
    'labels': labels,
    'neighbors': _draw_neighbors(
      examples[images:],
      [[near[i] for i in row] for row in positions],
      distances,
      str(out / 'figure4_neighbors.png'),
    ),
  }
  _write(out / 'figures.json', (json.dumps(content, indent=2) + '\n').encode())
  return content


def draw_mistakes(
  network: Pretrained,
  dataset: Dataset,
  split: str,
  classes: Classes,
  out: epath.Path,
  number: int = 20,
) -> list[dict[str, Any]]:
  """Writes the most confident mistakes: mistakes.png and mistakes.json.

  Args:
    network: the network, of a workdir.
    dataset: images of its classes.
    split: the split to look through.
    classes: the network's and the dataset's.
    out: the folder.
    number: how many to draw, at most.

  Returns:
    For each mistake `key` and `truth` of the image, and its most probable
    `classes`; [] if there is no mistake, and then nothing is written.
  """
  batches = retrieval.outputs(network, dataset, split, classes)
  bar = tqdm(batches, split, leave=False, disable=None, unit='batch')
  found = retrieval.mistakes(bar, number)
  if not found:
    return []
  examples = retrieval.examples_at(dataset, split, [m.position for m in found])
  entries = _draw_labels(
    [examples[mistake.position] for mistake in found],
    [
      inference.likeliest(mistake.probabilities, classes.names)
      for mistake in found
    ],
    str(out / 'mistakes.png'),
  )
  content = json.dumps({'split': split, 'mistakes': entries}, indent=2)
  _write(out / 'mistakes.json', (content + '\n').encode())
  return entries


def _draw_labels(
  examples: list[Example], classes: list[list[dict[str, Any]]], path: str
) -> list[dict[str, Any]]:
  truths = [example.truth for example in examples]
  figure4.plot_labels([e.image for e in examples], classes, path, truths)
  return [
    {'key': example.key, 'truth': example.truth, 'classes': row}
    for example, row in zip(examples, classes, strict=True)
  ]


def _draw_neighbors(
  queries: list[Example],
  neighbors: list[list[Example]],
  distances: np.ndarray,
  path: str,
) -> list[dict[str, Any]]:
  entries, captions = [], []
  for query, row, row_distances in zip(
    queries, neighbors, distances.tolist(), strict=True
  ):
    near = [
      {'key': one.key, 'truth': one.truth, 'distance': distance}
      for one, distance in zip(row, row_distances, strict=True)
    ]
    entries.append({'key': query.key, 'truth': query.truth, 'neighbors': near})
    captions.append(
      [_short(query.truth)]
      + [
        f'{_short(one.truth)}, {distance:.3g}'
        for one, distance in zip(row, row_distances, strict=True)
      ]
    )
  figure4.plot_neighbors(
    [query.image for query in queries],
    [[one.image for one in row] for row in neighbors],
    captions,
    path,
  )
  return entries


def _short(name: str) -> str:
  return name.split(',')[0][:16]


def _write(path: epath.Path, content: bytes) -> None:
  write_file(str(path), lambda file: file.write(content))
