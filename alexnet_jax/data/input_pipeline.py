"""Batches of pictures: TFDS -> tf.data -> devices.

A stream of training batches is a pure function of (seed, epoch, position): not
of the number of hosts or threads, a restart, or timing. So a run needs no
iterator checkpoints: a step number says where the stream goes on.
"""

import collections
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.data import faults, preprocess
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.preprocessing import Preprocessing, at_epoch
from alexnet_jax.model.architectures import Blocks

Batch = dict[str, np.ndarray]

# Batches that wait on the devices while one is computed with, and on the host
# for those. Not AUTOTUNE: it would fill the memory that it finds.
PREFETCH = 2


def train_batches(
  dataset: Dataset,
  split: str,
  preprocessing: Preprocessing,
  *,
  batch_size: int,
  seed: int,
  epoch: int,
  start: int = 0,
  shuffle_buffer: int = 8192,
  finish: str = 'host',
  blocks: Blocks | None = None,
  dtype: Any = np.float32,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """The training batches of one epoch, from the `start`-th on.

  Every picture is seen at most once; the last N mod `batch_size` of the
  epoch's order are left out. Of what comes before `start`, and of other
  processes' parts, records are read and nothing else.

  Args:
    dataset: a prepared set.
    split: its training split.
    preprocessing: see `preprocess.train_view`.
    batch_size: global, over all processes.
    seed: of the run.
    epoch: from 0.
    start: batches of this epoch to skip.
    shuffle_buffer: undecoded records among which the next is drawn.
    finish: 'host', or 'device': whole grey levels, which `finish.finisher`
      makes the same numbers of there.
    blocks: how pictures are cut for the first convolution, if they are.
    dtype: of pictures that the host finishes: the network's, which rounds them
      to it in any case.
    process_index: which consecutive part of each global batch is wanted.
    process_count: the number of those parts.

  Yields:
    `image`, `dtype` `[n, crop, crop, 3]` or its blocks, and `label`, int32
    `[n]`, with n = batch_size / process_count. With 'device' `image` is uint8,
    and `lighting` and `place` are there where `preprocess.train_view` has them.

  Raises:
    UserError: an example cannot be used, or a file is damaged; its key or name
      and the split are told.
  """
  # Not seed + epoch: seed 1's first epoch would be seed 0's second.
  epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
  epoch_seed &= 0x7FFFFFFF
  num_examples = dataset.num_examples(split)
  num_batches = num_examples // batch_size
  local_size = batch_size // process_count

  def in_order(elements):
    """This process's part of the epoch, each with its position."""
    elements = (
      elements.shuffle(
        min(shuffle_buffer, num_examples),
        seed=epoch_seed,
        reshuffle_each_iteration=False,
      )
      .enumerate()
      .take(num_batches * batch_size)
      .skip(start * batch_size)
    )
    return _part(elements, batch_size, process_index, process_count)

  p = at_epoch(preprocessing, epoch)
  draws = preprocess.draw(p, num_examples, epoch_seed)
  is_square_jpeg = dataset.is_square_jpeg(p.resize_size)

  def view(position, record):
    example = dataset.parse(record)
    drawn = {name: tf.gather(x, position) for name, x in draws.items()}
    view = preprocess.train_view(example['image'], drawn, p, is_square_jpeg)
    return {
      **device_input(view, p, finish, blocks, dtype),
      'label': _int32(example['label']),
    }

  records = in_order(dataset.records(split, epoch_seed))
  batches = _map(records, view).batch(local_size, drop_remainder=True)
  done = start
  for batch in iterate(
    batches,
    lambda: in_order(dataset.read(split, epoch_seed)),
    local_size,
    dataset,
    split,
  ):
    yield batch
    done += 1
  if done < num_batches:
    raise faults.damaged(dataset, split)


def eval_batches(
  dataset: Dataset,
  split: str,
  preprocessing: Preprocessing,
  *,
  batch_size: int,
  crops: int = 1,
  finish: str = 'host',
  blocks: Blocks | None = None,
  dtype: Any = np.float32,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Every picture of a split once, in batches of one size.

  The last batch is filled with blanks whose `mask` is 0, so that any batch
  size goes and every process has as many batches.

  Args:
    dataset: a prepared set.
    split: the split to score.
    preprocessing: see `preprocess.eval_views`.
    batch_size: global; a multiple of `process_count`.
    crops: 1 (centre) or 10.
    finish: 'host' or 'device'; see `train_batches`.
    blocks: see `train_batches`.
    dtype: see `train_batches`.
    process_index: which consecutive part of each global batch is wanted.
    process_count: the number of those parts.

  Yields:
    `image`, `dtype` `[n, crops, crop, crop, 3]` or its blocks (with 'device'
    uint8),
    `label`, int32 `[n]`, and `mask`, float32 `[n]`, with
    n = batch_size / process_count.

  Raises:
    UserError: an example cannot be used; its key and split are named.
  """
  local_size = batch_size // process_count
  num_batches = -(-dataset.num_examples(split) // batch_size)
  is_square_jpeg = dataset.is_square_jpeg(preprocessing.resize_size)

  def in_order(elements):
    elements = elements.enumerate()
    return _part(elements, batch_size, process_index, process_count)

  def view(_, record):
    example = dataset.parse(record)
    view = preprocess.eval_views(
      example['image'], preprocessing, crops, is_square_jpeg
    )
    return {
      **device_input(view, preprocessing, finish, blocks, dtype),
      'label': _int32(example['label']),
      'mask': tf.constant(1.0),
    }

  batches = _map(in_order(dataset.records(split)), view).batch(local_size)
  blank = jax.tree.map(
    lambda spec: np.zeros(spec.shape[1:], spec.dtype.as_numpy_dtype),
    batches.element_spec,
  )
  done, there = 0, 0
  for batch in iterate(
    batches, lambda: in_order(dataset.read(split)), local_size, dataset, split
  ):
    there += len(batch['label'])
    yield _pad(batch, blank, local_size)
    done += 1
  positions = np.arange(dataset.num_examples(split)) % batch_size
  if there != np.sum(positions // local_size == process_index):
    raise faults.damaged(dataset, split)
  for _ in range(done, num_batches):
    yield _pad(
      {name: x[None][:0] for name, x in blank.items()}, blank, local_size
    )


def device_input(
  view: preprocess.View,
  preprocessing: Preprocessing,
  finish: str,
  blocks: Blocks | None,
  dtype: Any,
) -> preprocess.View:
  """What the device is given of a view."""
  if finish == 'host':
    image = preprocess.finish(view, preprocessing)
    view = {'image': tf.cast(image, np.dtype(dtype))}
  if blocks:
    view = {**view, 'image': preprocess.to_blocks(view['image'], blocks)}
  return view


def _int32(label):
  # What does not fit must not become a label that does.
  return tf.cast(tf.clip_by_value(label, -1, 2**31 - 1), tf.int32)


def _part(elements, batch_size, process_index, process_count):
  """Of `(position, element)`, those of one process."""
  if process_count == 1:
    return elements
  local_size = batch_size // process_count
  return elements.filter(
    lambda position, _: position % batch_size // local_size == process_index
  )


def _map(elements: tf.data.Dataset, view) -> tf.data.Dataset:
  return elements.map(
    # There is no Python in it to convert, which would take a second an epoch.
    tf.autograph.experimental.do_not_convert(view),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )


def _pad(batch: Batch, blank: Batch, size: int) -> Batch:
  missing = size - len(batch['label'])
  if not missing:
    return batch
  return {
    name: np.concatenate([x, np.stack([blank[name]] * missing)])
    for name, x in batch.items()
  }


def iterate(
  batches: tf.data.Dataset,
  examples: Callable[[], tf.data.Dataset],
  size: int,
  dataset: Dataset | None = None,
  split: str = '',
) -> Iterator[Batch]:
  """The batches as NumPy; what is wrong with an example is told by its key.

  Args:
    batches: of decoded pictures.
    examples: makes what they were made of, `(position, example)`, in that
      order, with keys.
    size: of the batches.
    dataset: what they were read from; None for files without labels.
    split: of it.

  Raises:
    UserError: a picture cannot be decoded, a label is out of range, or a file
      is damaged.
  """
  options = tf.data.Options()
  # All cores from the start. Tuning finds no better, and its thread holds up
  # the end of an epoch by seconds.
  options.autotune.enabled = False
  batches = batches.prefetch(PREFETCH).with_options(options)
  iterator = batches.as_numpy_iterator()
  for number in itertools.count():
    error = None
    try:
      batch = next(iterator)
    except StopIteration:
      return
    except faults.ERRORS as e:
      error = e
    if error or (dataset and not faults.valid(batch['label'], dataset).all()):
      suspects = examples().skip(number * size).take(size)
      raise faults.explain(error, suspects, dataset, split) from error
    yield batch


def to_devices(
  batches: Iterator[Batch], devices: list[Any]
) -> Iterator[dict[str, jax.Array]]:
  """Batches laid out for `jax.pmap`, some of them sent ahead.

  Args:
    batches: arrays `[n, ...]`, n divisible by the number of devices.
    devices: this process's.

  Yields:
    The same arrays as `[devices, n / devices, ...]`, one part a device.
  """
  sharding = NamedSharding(
    Mesh(np.array(devices), ('batch',)), PartitionSpec('batch')
  )
  queue: collections.deque = collections.deque()
  for batch in batches:
    split = {
      name: x.reshape(len(devices), -1, *x.shape[1:])
      for name, x in batch.items()
    }
    queue.append(jax.device_put(split, sharding))
    if len(queue) > PREFETCH:
      yield queue.popleft()
  yield from queue
