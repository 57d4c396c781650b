"""Figures 3 and 4 of a checkpoint: `python -m alexnet_jax.figures WORKDIR`.

Writes into the workdir, or --out:

  figure3.png            the first layer's kernels
  figure4_labels.png     validation pictures, their five likeliest classes as
                         bars
  figure4_neighbors.png  validation pictures, each with the training pictures
                         nearest in the last hidden layer (fc7): exact L2
                         distances to all of them
  figures.json           the same as numbers

Pictures are drawn at random by --seed. alexnet_jax.report shows them all.

Exit status: 0 done; 2 something asked for is not there; 3 storage.
"""

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from etils import epath
from tqdm import tqdm

from alexnet_jax import pretrained
from alexnet_jax.cli import command
from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute, write_file
from alexnet_jax.config.saved import read_config
from alexnet_jax.data import decoding, imagenet, input_pipeline
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.data.prepare import check_dataset
from alexnet_jax.plots import figure4
from alexnet_jax.plots.kernels import kernel_grid
from alexnet_jax.pretrained import inference


def answers(
  network: pretrained.Pretrained,
  dataset: Dataset,
  split: str,
  batch_size: int = 100,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Probabilities and features of every picture of a split, as stored.

  Args:
    network: of a workdir.
    dataset: any prepared set.
    split: of it.
    batch_size: pictures at a time.

  Yields:
    For each batch probabilities, float32 `[n, num_classes]`, features, float32
    `[n, 4096]`, and labels, int32 `[n]`.
  """
  step = jax.jit(functools.partial(inference.probabilities_and_features,
                                   network.model))  # fmt: skip
  params = jax.device_put(network.params)
  for batch in input_pipeline.eval_batches(
    dataset,
    split,
    network.preprocessing,
    batch_size=min(batch_size, dataset.num_examples(split)),
  ):
    there = batch['mask'] > 0
    probabilities, features = jax.device_get(step(params, batch['image'][:, 0]))
    yield probabilities[there], features[there], batch['label'][there]


def nearest(
  queries: np.ndarray, batches: Iterator[np.ndarray], number: int
) -> tuple[np.ndarray, np.ndarray]:
  """The nearest of many points, by L2 distance to all of them.

  Args:
    queries: `[Q, D]`.
    batches: of the points, each `[n, D]`; one is held at a time.
    number: of neighbors wanted; at most as many as there are points.

  Returns:
    Positions among the points and distances, each `[Q, number]`, the nearest
    first; of equally near ones the earlier first. Differences are taken in
    float64: no squares are subtracted from each other.
  """
  queries = np.asarray(queries, np.float64)
  positions = np.zeros((len(queries), 0), np.int64)
  distances = np.zeros((len(queries), 0))
  done = 0
  for points in batches:
    new = np.stack([np.linalg.norm(points - q, axis=1) for q in queries])
    here = np.broadcast_to(done + np.arange(len(points)), new.shape)
    distances = np.concatenate([distances, new], axis=1)
    positions = np.concatenate([positions, here], axis=1)
    order = np.argsort(distances, axis=1, kind='stable')[:, :number]
    distances = np.take_along_axis(distances, order, axis=1)
    positions = np.take_along_axis(positions, order, axis=1)
    done += len(points)
  return positions, distances


def images_at(
  dataset: Dataset, split: str, positions: Sequence[int]
) -> dict[int, dict[str, Any]]:
  """Pictures of a split by their position in it, as stored.

  Returns:
    For each position `picture`, uint8 `[H, W, 3]`, `label` and `key`.
  """
  wanted = tf.constant(sorted(set(positions)), tf.int64)
  elements = (
    dataset.read(split)
    .enumerate()
    .filter(lambda i, _: tf.reduce_any(wanted == i))
  )
  found = {}
  for i, example in elements:
    found[int(i)] = {
      'picture': decoding.decode(example['image']).numpy(),
      'label': int(example['label']),
      'key': example['key'].numpy().decode(),
    }
  return found


def make(
  network: pretrained.Pretrained,
  dataset: Dataset,
  splits: tuple[str, str],
  out: epath.Path,
  *,
  pictures: int = 8,
  queries: int = 5,
  neighbors: int = 6,
  seed: int = 0,
) -> dict[str, Any]:
  """Writes the three figures and figures.json; returns what is in it.

  Args:
    network: of a workdir.
    dataset: the set that it was trained on.
    splits: of training and of validation.
    out: the folder for the files.
    pictures: how many validation pictures are shown with their labels.
    queries: how many are shown with their neighbors.
    neighbors: how many of those.
    seed: of the draw.
  """
  train_split, val_split = splits
  number = dataset.num_examples(val_split)
  if pictures + queries > number:
    raise UserError(
      f'{pictures} pictures and {queries} queries of {number} in {val_split!r}'
    )
  first_layer = network.params['conv1']['kernel']
  _write(
    out / 'figure3.png',
    tf.io.encode_png(kernel_grid(np.asarray(first_layer))).numpy(),
  )
  drawn = np.random.default_rng(seed).choice(
    number, pictures + queries, replace=False
  )
  probabilities, features = _of(drawn, network, dataset, val_split)
  shown = images_at(dataset, val_split, drawn.tolist())

  def name(label: int) -> str:
    return imagenet.words(dataset.class_names[label])

  def in_order():
    for _, batch, _ in tqdm(
      answers(network, dataset, train_split),
      desc=train_split,
      disable=None,
      unit='batch',
      leave=False,
    ):
      yield batch

  labelled = [
    {
      'key': shown[i]['key'],
      'truth': name(shown[i]['label']),
      'classes': inference.likeliest(row, tuple(dataset.class_names)),
    }
    for i, row in zip(drawn[:pictures], probabilities, strict=False)
  ]
  figure4.plot_labels(
    [shown[i]['picture'] for i in drawn[:pictures]],
    [entry['classes'] for entry in labelled],
    str(out / 'figure4_labels.png'),
    [entry['truth'] for entry in labelled],
  )
  where, distances = nearest(features[pictures:], in_order(), neighbors)
  near = images_at(dataset, train_split, where.flatten().tolist())
  found = [
    {
      'key': shown[i]['key'],
      'truth': name(shown[i]['label']),
      'neighbors': [
        {
          'key': near[j]['key'],
          'truth': name(near[j]['label']),
          'distance': float(distance),
        }
        for j, distance in zip(row, row_distances, strict=True)
      ],
    }
    for i, row, row_distances in zip(
      drawn[pictures:], where, distances, strict=True
    )
  ]
  figure4.plot_neighbors(
    [shown[i]['picture'] for i in drawn[pictures:]],
    [[near[j]['picture'] for j in row] for row in where],
    [
      [_short(entry['truth'])]
      + [
        f'{_short(one["truth"])}, {one["distance"]:.3g}'
        for one in entry['neighbors']
      ]
      for entry in found
    ],
    str(out / 'figure4_neighbors.png'),
  )
  content = {
    'step': network.step,
    'dataset': dataset.full_name,
    'splits': {'train': train_split, 'validation': val_split},
    'seed': seed,
    'command': command.typed(),
    'labels': labelled,
    'neighbors': found,
  }
  _write(out / 'figures.json', (json.dumps(content, indent=2) + '\n').encode())
  return content


def _short(name: str) -> str:
  return name.split(',')[0][:16]


def _of(drawn, network, dataset, split):
  """Probabilities and features at positions of a split, in their order."""
  rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
  wanted, done = set(drawn.tolist()), 0
  for probabilities, features, _ in answers(network, dataset, split):
    for i in wanted & set(range(done, done + len(features))):
      rows[i] = probabilities[i - done], features[i - done]
    done += len(features)
  pairs = [rows[i] for i in drawn.tolist()]
  return np.stack([p for p, _ in pairs]), np.stack([f for _, f in pairs])


def _write(path: epath.Path, content: bytes) -> None:
  write_file(str(path), lambda file: file.write(content))


def main(argv: list[str]) -> None:
  """Makes the figures as the arguments say."""
  parser = Parser('figures', __doc__)
  parser.add_argument('workdir', metavar='WORKDIR', help='local or gs://')
  parser.add_argument(
    '--out', metavar='DIR', help='a local folder; the workdir where not given'
  )
  parser.add_argument(
    '--data', metavar='NAME', help="TFDS set; the run's where not given"
  )
  parser.add_argument(
    '--data_dir', metavar='DIR', help="its folder; the run's where not given"
  )
  parser.add_argument('--train_split', help="the run's where not given")
  parser.add_argument('--val_split', help="the run's where not given")
  parser.add_argument(
    '--step', default='best', help='best, latest, or the number of a step'
  )
  for name, default in (('pictures', 8), ('queries', 5), ('neighbors', 6)):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--seed', type=int, default=0, help='of the draw')
  flags = parser.parse_args(argv)
  for name in ('pictures', 'queries', 'neighbors'):
    if getattr(flags, name) < 1:
      raise UserError(f'--{name}={getattr(flags, name)}: at least 1 needed')
  if flags.seed < 0:
    raise UserError(f'--seed={flags.seed}: at least 0 needed')
  network = pretrained.load(flags.workdir, flags.step)
  folder = absolute(flags.workdir)
  out = absolute(flags.out) if flags.out else folder
  if not out.is_dir() or '://' in str(out):
    raise UserError(f'{out} (--out) is no folder of this machine')
  data = (read_config(folder) or {}).get('data', {})

  def of_run(value: str | None, field: str) -> str:
    value = value or data.get(field)
    if not value:
      raise UserError(
        f'{folder} does not say on which pictures it was trained: give --data, '
        '--train_split and --val_split'
      )
    return value

  dataset = open_dataset(
    of_run(flags.data, 'name'), flags.data_dir or data.get('data_dir')
  )
  check_dataset(
    network.model.num_classes, folder, network.preprocessing, dataset
  )
  dataset.check_resize(network.preprocessing.resize)
  content = make(
    network,
    dataset,
    (
      of_run(flags.train_split, 'train_split'),
      of_run(flags.val_split, 'val_split'),
    ),
    out,
    pictures=flags.pictures,
    queries=flags.queries,
    neighbors=flags.neighbors,
    seed=flags.seed,
  )
  for entry in content['labels']:
    best = entry['classes'][0]
    print(f'{entry["truth"]}: {best["name"]} {best["probability"]:.0%}')
  print(
    f'figures: {out}/figure3.png, figure4_labels.png, figure4_neighbors.png'
  )


if __name__ == '__main__':
  run(main, sys.argv[1:])
