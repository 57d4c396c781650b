"""Batches of pictures: TFDS -> tf.data -> devices.

A stream of training batches is a pure function of (seed, epoch, position): not
of the number of hosts or threads, a restart, or timing. So a run needs no
iterator checkpoints: a step number says where the stream goes on.
"""

import collections
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.data import preprocess
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.errors import UserError

Batch = dict[str, np.ndarray]

# Batches that wait on the devices while one is computed with.
_PREFETCH = 2


def train_batches(
  dataset: Dataset,
  split: str,
  preprocessing: preprocess.Preprocessing,
  *,
  batch_size: int,
  seed: int,
  epoch: int,
  start: int = 0,
  shuffle_buffer: int = 8192,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """The training batches of one epoch, from the `start`-th on.

  Every picture is seen at most once; the last N mod `batch_size` of the
  epoch's order are left out. Records before `start` are read, not decoded.

  Args:
    dataset: a prepared set.
    split: its training split.
    preprocessing: see `preprocess.train_view`.
    batch_size: global, over all processes.
    seed: of the run.
    epoch: from 0.
    start: batches of this epoch to skip.
    shuffle_buffer: undecoded records among which the next is drawn.
    process_index: which consecutive part of each global batch is wanted.
    process_count: the number of those parts.

  Yields:
    `image`, float32 `[batch_size / process_count, crop, crop, 3]`, and
    `label`, int32 `[batch_size / process_count]`.
  """
  # Not seed + epoch: seed 1's first epoch would be seed 0's second.
  epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
  epoch_seed &= 0x7FFFFFFF
  num_batches = dataset.num_examples(split) // batch_size
  examples = (
    dataset.read(split, shuffle_seed=epoch_seed)
    .shuffle(
      min(shuffle_buffer, dataset.num_examples(split)),
      seed=epoch_seed,
      reshuffle_each_iteration=False,
    )
    .enumerate()
    .take(num_batches * batch_size)
    .skip(start * batch_size)
  )
  local_size = batch_size // process_count
  if process_count > 1:
    examples = examples.filter(
      lambda position, _: position % batch_size // local_size == process_index
    )
  preprocessing = preprocess.at_epoch(preprocessing, epoch)

  def view(position, example):
    seed = tf.stack([tf.constant(epoch_seed, tf.int64), position])
    image = preprocess.train_view(example['image'], seed, preprocessing)
    return {'image': image, 'label': tf.cast(example['label'], tf.int32)}

  batches = _map(examples, view).batch(local_size, drop_remainder=True)
  yield from iterate(batches, examples, local_size)


def eval_batches(
  dataset: Dataset,
  split: str,
  preprocessing: preprocess.Preprocessing,
  *,
  batch_size: int,
  crops: int = 1,
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
    process_index: which consecutive part of each global batch is wanted.
    process_count: the number of those parts.

  Yields:
    `image`, float32 `[n, crops, crop, crop, 3]`, `label`, int32 `[n]`, and
    `mask`, float32 `[n]`, with n = batch_size / process_count.
  """
  local_size = batch_size // process_count
  num_batches = -(-dataset.num_examples(split) // batch_size)
  examples = dataset.read(split).enumerate()
  if process_count > 1:
    examples = examples.filter(
      lambda position, _: position % batch_size // local_size == process_index
    )

  def view(_, example):
    return {
      'image': preprocess.eval_views(example['image'], preprocessing, crops),
      'label': tf.cast(example['label'], tf.int32),
      'mask': tf.constant(1.0),
    }

  batches = _map(examples, view).batch(local_size)
  blank = jax.tree.map(
    lambda spec: np.zeros(spec.shape[1:], spec.dtype.as_numpy_dtype),
    batches.element_spec,
  )
  done = 0
  for batch in iterate(batches, examples, local_size):
    yield _pad(batch, blank, local_size)
    done += 1
  for _ in range(done, num_batches):
    yield _pad(
      {name: x[None][:0] for name, x in blank.items()}, blank, local_size
    )


def _map(examples: tf.data.Dataset, view) -> tf.data.Dataset:
  return examples.map(
    view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
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
  batches: tf.data.Dataset, examples: tf.data.Dataset, size: int
) -> Iterator[Batch]:
  """The batches as NumPy; an undecodable picture is named.

  Args:
    batches: of decoded pictures.
    examples: what they were made of, `(position, example)`, in that order.
    size: of the batches.

  Raises:
    UserError: a picture cannot be decoded; its key is named.
  """
  iterator = batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
  position = 0
  while True:
    try:
      batch = next(iterator)
    except StopIteration:
      return
    except tf.errors.InvalidArgumentError as error:
      culprits = examples.skip(position * size).take(size)
      _name_undecodable(culprits, error)
    yield batch
    position += 1


def _name_undecodable(examples: tf.data.Dataset, error: Exception) -> None:
  for _, example in examples.as_numpy_iterator():
    try:
      preprocess.decode(tf.constant(example['image']))
    except tf.errors.InvalidArgumentError as cause:
      raise UserError(
        f'cannot decode picture {example["key"].decode()}: '
        f'{_reason(cause)[:160]}; mend it or leave it out'
      ) from cause
  raise error


def _reason(error: tf.errors.OpError) -> str:
  """A message without the name of the operation that it came from."""
  message = ' '.join(str(error.message).split())
  return re.sub(r'\{\{[^}]*\}\}|\[Op:\w+\]( name:)?', '', message).strip()


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
    if len(queue) > _PREFETCH:
      yield queue.popleft()
  yield from queue
