"""The order of an epoch, and what each process reads of it."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core.utils.shard_utils import FileInstruction

from alexnet_jax.data import streams
from alexnet_jax.data.dataset import Dataset


def numbered(folder, sizes, padding=0):
  """Returns a dataset of one split, whose records are their own numbers."""
  files, done = [], 0
  for i, size in enumerate(sizes):
    path = folder / f'{i}.tfrecord'
    with tf.io.TFRecordWriter(str(path)) as file:
      for number in range(done, done + size):
        file.write(number.to_bytes(4, 'little') + bytes(padding))
    files.append(FileInstruction(str(path), 0, -1, size))
    done += size
  split = SimpleNamespace(file_instructions=files, num_examples=done)
  info = SimpleNamespace(
    splits={'train': split}, file_format=file_adapters.FileFormat.TFRECORD
  )
  return Dataset(SimpleNamespace(info=info), 'image', 'label')


def epoch(dataset, batch_size, seed=1, buffer=100, **arguments):
  """Returns `[batches, batch_size, 2]`: positions and records."""
  elements = streams.shuffled(
    dataset,
    'train',
    dataset.records,
    seed=seed,
    buffer=buffer,
    batch_size=batch_size,
    **arguments,
  )
  rows = [
    (position, int.from_bytes(record[:4], 'little'))
    for position, record in elements.as_numpy_iterator()
  ]
  local_size = batch_size // arguments.get('process_count', 1)
  return np.array(rows).reshape(-1, local_size, 2)


@pytest.fixture(scope='module')
def uneven(tmp_path_factory):
  sizes = [30, 3, 50, 0, 17, 50, 41, 9]
  return numbered(tmp_path_factory.mktemp('uneven'), sizes)


@pytest.mark.parametrize('number', [1, 2, 4, 8])
def test_the_processes_together_have_the_batches_of_one(uneven, number):
  expected = epoch(uneven, 24, num_devices=8)
  parts = [
    epoch(uneven, 24, num_devices=8, process_index=i, process_count=number)
    for i in range(number)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


@pytest.mark.parametrize('number', [1, 2, 3, 4, 12])
def test_a_batch_is_the_same_on_any_number_of_devices(uneven, number):
  batches = epoch(uneven, 24, num_devices=number)
  order = np.argsort(batches[..., 0], axis=1)[..., None]
  in_order = np.take_along_axis(batches, order, axis=1)
  np.testing.assert_array_equal(in_order, epoch(uneven, 24))
  np.testing.assert_array_equal(in_order[..., 0].ravel(), range(192))


def test_an_epoch_has_every_record_once(uneven):
  records = epoch(uneven, 20)[..., 1].ravel()
  np.testing.assert_array_equal(np.sort(records), range(200))
  again = epoch(uneven, 20, seed=2)[..., 1].ravel()
  assert np.mean(records == again) < 0.1


@pytest.mark.parametrize(
  ('batch_size', 'devices'), [(7, 1), (24, 4), (30, 3), (8, 2)]
)
def test_the_order_is_that_of_any_batch_size(uneven, batch_size, devices):
  expected = dict(epoch(uneven, 20).reshape(-1, 2).tolist())
  found = epoch(uneven, batch_size, num_devices=devices).reshape(-1, 2)
  assert len(found) >= 180
  for position, record in found.tolist():
    assert expected[position] == record


def test_one_file_is_one_stream(tmp_path):
  one = numbered(tmp_path, [60])
  expected = tf.data.Dataset.range(60).shuffle(
    20, seed=1, reshuffle_each_iteration=False
  )
  np.testing.assert_array_equal(
    epoch(one, 12, buffer=20)[..., 1].ravel(),
    list(expected.as_numpy_iterator()),
  )


@pytest.mark.parametrize(
  'sizes',
  [
    [20018] * 9 + [20019] * 55,
    [1251] * 5 + [1252] * 11,
    [100] * 48,
    [13, 900, 12, 400, 400, 77],
    list(range(1, 65)),
    [3],
  ],
)
def test_the_turns_of_streams(sizes):
  turns = streams.assign(sizes, seed=5)
  np.testing.assert_array_equal(np.bincount(turns, minlength=len(sizes)), sizes)
  # A stream's records are spread evenly: each 64 positions have its share.
  blocks = turns[: len(turns) // 64 * 64].reshape(-1, 64)
  for stream, size in enumerate(sizes):
    of = (blocks == stream).sum(axis=1)
    share = 64 * size / len(turns)
    assert np.all(np.abs(of - share) < max(2.5, share / 2)), stream
  # At most one stream is shared for each division into two halves.
  for number in (2, 4, 8, 16):
    used = [len(np.unique(turns[i::number])) for i in range(number)]
    assert sum(used) <= len(sizes) + number - 1
  if max(sizes) - min(sizes) <= 1 and len(sizes) % 16 == 0:
    assert sum(used) == len(sizes)


def test_files_of_one_size_are_dealt_evenly():
  sizes = [1251 + (i % 7 == 0) for i in range(1024)]
  order = np.random.default_rng(0).permutation(1024).tolist()
  dealt = streams.deal(sizes, 64, order)
  assert sorted(i for files in dealt for i in files) == list(range(1024))
  totals = [sum(sizes[i] for i in files) for files in dealt]
  assert max(totals) - min(totals) <= 1
  assert streams.deal([4, 0, 5], 64, [2, 1, 0]) == [[2], [0]]


def bytes_read():
  """Returns how many bytes this process has read so far."""
  lines = pathlib.Path('/proc/self/io').read_text().splitlines()
  return int(lines[0].removeprefix('rchar: '))


@pytest.mark.parametrize('files', [16, 50, 100])
def test_each_process_reads_its_own_files(tmp_path, files):
  dataset = numbered(tmp_path, [12 + i % 2 for i in range(files)], 10_000)
  read = {}
  for number in (1, 2, 4):
    before = bytes_read()
    for i in range(number):
      epoch(dataset, 64, process_index=i, process_count=number, num_devices=4)
    # Evaluation and statistics read in the stored order.
    for i in range(number):
      parts = dataset.parts('train', (i, number))
      assert sum(1 for _ in dataset.records('train', parts)) > 0
    read[number] = bytes_read() - before
  assert read[1] > 2 * 12 * files * 10_000
  assert read[2] <= 1.1 * read[1]
  assert read[4] <= 1.1 * read[1]
