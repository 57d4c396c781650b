"""Measures how well an epoch of ImageNet's size is shuffled.

  python benchmarks/shuffle.py [--files=1024] [--examples=1251]

Writes a dataset of --files files with --examples numbered records each to a
temporary folder, shuffles it as in training for two epochs, and compares the
order with a permutation:

  spread   standard deviation of the positions of a file's records, as a
           fraction of the epoch; .289 if they are anywhere
  files    number of different files in a batch of 128
  again    of the pairs that share a batch in one epoch, the fraction that is
           within 8192 records of each other in the next; 1.3% by chance
"""

import argparse
import json
import os
import pathlib
import tempfile

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from alexnet_jax.data import dataset

BATCH = 128
NEAR = 8192


def write_dataset(folder: str, files: int, examples: int) -> dataset.Dataset:
  """Writes and opens a TFDS dataset whose records are their own numbers."""
  target = pathlib.Path(folder) / 'numbers' / '1.0.0'
  target.mkdir(parents=True)
  for i in range(files):
    path = target / f'numbers-train.tfrecord-{i:05}-of-{files:05}'
    with tf.io.TFRecordWriter(str(path)) as file:
      for j in range(examples):
        file.write((i * examples + j).to_bytes(4, 'little'))
  tfds.folder_dataset.write_metadata(
    data_dir=str(target),
    features=tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(),
        'label': tfds.features.ClassLabel(num_classes=1000),
      }
    ),
    split_infos=[
      tfds.core.SplitInfo(
        name='train',
        shard_lengths=[examples] * files,
        num_bytes=4 * files * examples,
        filename_template=tfds.core.ShardedFileTemplate(
          dataset_name='numbers',
          data_dir=target,
          split='train',
          filetype_suffix='tfrecord',
        ),
      )
    ],
    check_data=False,
  )
  return dataset.open_dataset('numbers:1.0.0', folder)


def epoch_order(numbers: dataset.Dataset, seed: int, buffer: int) -> np.ndarray:
  """Returns the numbers in the order of an epoch."""
  records = numbers.records('train', seed).shuffle(buffer, seed=seed)
  batches = records.batch(NEAR).map(lambda r: tf.io.decode_raw(r, tf.int32))
  return np.concatenate([b[:, 0] for b in batches.as_numpy_iterator()])


def measure(
  one: np.ndarray, other: np.ndarray, examples: int
) -> tuple[float, float, float]:
  """Returns spread, files and again from the orders of two epochs."""
  positions = np.argsort(one).reshape(-1, examples)
  spread = positions.std(axis=1).mean() / len(one)
  batches = one[: len(one) // BATCH * BATCH].reshape(-1, BATCH)
  files = np.mean([len(np.unique(batch // examples)) for batch in batches])
  then = np.argsort(other)
  apart = then[batches[:, ::2]] - then[batches[:, 1::2]]
  return spread, files, np.mean(np.abs(apart) < NEAR)


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--files', type=int, default=1024)
  parser.add_argument('--examples', type=int, default=1251)
  arguments = parser.parse_args()
  number = arguments.files * arguments.examples
  rng = np.random.default_rng(0)
  print(f'{number} records in {arguments.files} files')
  print(
    f'{"files at once":>13}{"buffer":>8}{"spread":>9}{"files":>7}{"again":>7}'
  )
  rows = {}

  def row(name, at_once, buffer, orders):
    rows[name] = measure(*orders, arguments.examples)
    spread, files, again = rows[name]
    print(
      f'{at_once:>13}{buffer:>8}{spread:9.4f}{files:7.1f}{again:7.1%}',
      flush=True,
    )

  with tempfile.TemporaryDirectory() as folder:
    numbers = write_dataset(folder, arguments.files, arguments.examples)
    default = dataset._FILES_AT_ONCE
    for at_once in (16, default):
      for buffer in (8192, 65536):
        dataset._FILES_AT_ONCE = at_once
        orders = [epoch_order(numbers, seed, buffer) for seed in (1, 2)]
        row(f'{at_once}, {buffer}', at_once, buffer, orders)
  row('permutation', 'all', 'all', [rng.permutation(number) for _ in range(2)])
  spread, files, again = rows[f'{default}, 8192']
  full = rows['permutation']
  ratios = {
    'shuffle_spread': round(spread / full[0], 3),
    'shuffle_files_in_a_batch': round(files / full[1], 3),
    'shuffle_again': round(again / full[2], 2),
  }
  print(json.dumps({'ratios': ratios, 'targets': {}, 'met': True}))


if __name__ == '__main__':
  main()
