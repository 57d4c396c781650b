"""Batches of images: TFDS -> tf.data -> devices.

A stream of training batches is a pure function of (seed, epoch, position). It
does not depend on the number of hosts or threads, on a restart or on timing. A
run therefore needs no iterator checkpoints: its step number says where the
stream continues.
"""

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.cli.terminal import patient
from alexnet_jax.data import faults, preprocess, sizes, streams
from alexnet_jax.data.classes import Classes
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.preprocessing import Preprocessing, at_epoch
from alexnet_jax.model.layer_types import Blocks

Batch = dict[str, np.ndarray]

_no_context = contextlib.nullcontext()

# The number of batches that wait on the devices, and again on the host. With
# AUTOTUNE it would grow until memory is full.
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
  num_devices: int | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields the training batches of an epoch, from batch `start` on.

  An epoch has each image at most once: the last N mod `batch_size` images of
  its order are dropped. Each process reads the files that hold its part of the
  batches (`streams`); records before `start` are neither parsed nor decoded.

  Args:
    dataset: a prepared dataset.
    split: its training split.
    preprocessing: see `preprocess.train_view`.
    batch_size: global, over all processes.
    seed: the seed of the run.
    epoch: from 0.
    start: the number of batches to skip.
    shuffle_buffer: number of undecoded records from which the next is drawn,
      over all processes.
    finish: 'host', or 'device': the batches hold integer grey levels, from
      which `learning.finish.finisher` computes the same numbers on the device.
    blocks: how images are rearranged for the first convolution; None: not.
    dtype: the dtype of images that the host finishes: the network's, which
      would round them in any case.
    num_devices: of all processes; they divide a batch in the same way for any
      number of processes. None: one for each process.
    process_index: which part of each global batch to yield.
    process_count: the number of parts.

  Yields:
    `image`, `dtype` `[n, crop, crop, 3]` or its blocks, and `label`, int32
    `[n]`, with n = batch_size / process_count. With 'device', `image` is uint8,
    and `lighting` and `place` are those of `preprocess.train_view`.

  Raises:
    UserError: an example cannot be used, or a file is corrupt; the message
      names its key or file, and the split.
  """
  # Not seed + epoch: seed 1's first epoch would be seed 0's second.
  epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
  epoch_seed &= 0x7FFFFFFF
  num_examples = dataset.num_examples(split)
  num_batches = num_examples // batch_size
  local_size = batch_size // process_count

  def in_order(read):
    """Returns this process's part of the epoch, with positions."""
    return streams.shuffled(
      dataset,
      split,
      read,
      seed=epoch_seed,
      buffer=shuffle_buffer,
      batch_size=batch_size,
      num_devices=num_devices or process_count,
      process_index=process_index,
      process_count=process_count,
    ).skip(start * local_size)

  p = at_epoch(preprocessing, epoch)
  draws = preprocess.draw(p, num_examples, epoch_seed)
  is_square_jpeg = dataset.is_square_jpeg(p.resize_size)

  def view(position, record):
    example = dataset.parse(record)
    drawn = {name: tf.gather(x, position) for name, x in draws.items()}
    encoded = sizes.checked(example['image'], dataset.max_pixels)
    view = preprocess.train_view(encoded, drawn, p, is_square_jpeg)
    return {
      **device_input(view, p, finish, blocks, dtype),
      'label': _int32(example['label']),
    }

  batches = _map(in_order(dataset.records), view)
  batches = batches.batch(local_size, drop_remainder=True)
  done = start
  for batch in iterate(
    batches,
    lambda: in_order(dataset.read),
    local_size,
    dataset,
    split,
  ):
    yield batch
    done += 1
  if done < num_batches:
    raise faults.corrupt_file(dataset, split)


def eval_batches(
  dataset: Dataset,
  split: str,
  preprocessing: Preprocessing,
  *,
  batch_size: int,
  crops: int = 1,
  classes: Classes | None = None,
  finish: str = 'host',
  blocks: Blocks | None = None,
  dtype: Any = np.float32,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields every image of a split once, in batches of one size.

  Each process reads consecutive images, in the stored order. Batches are padded
  with blanks whose `mask` is 0. Any batch size is therefore possible, and every
  process has the same number of batches.

  Args:
    dataset: a prepared dataset.
    split: the split to score.
    preprocessing: see `preprocess.eval_views`.
    batch_size: global; a multiple of `process_count`.
    crops: 1 (center) or 10.
    classes: of the network to be scored; None: labels are the dataset's.
    finish: 'host' or 'device'; see `train_batches`.
    blocks: see `train_batches`.
    dtype: see `train_batches`.
    process_index: which of the split's consecutive parts to yield.
    process_count: the number of parts.

  Yields:
    `image`, `dtype` `[n, crops, crop, crop, 3]` or its blocks (uint8 with
    'device'), `label`, int32 `[n]`, and `mask`, float32 `[n]`, with
    n = batch_size / process_count. For lists of labels, `label` has ones and
    zeros, `[n, classes]`, and `mask` is 0 for an empty list.

  Raises:
    UserError: an example cannot be used, or a file is corrupt; the message
      names its key or file, and the split.
  """
  local_size = batch_size // process_count
  shares = [
    dataset.parts(split, (i, process_count)) for i in range(process_count)
  ]
  numbers = [sum(part.number for part in parts) for parts in shares]
  num_batches = -(-max(numbers) // local_size)
  is_square_jpeg = dataset.is_square_jpeg(preprocessing.resize_size)

  # The least label, or of lists of labels, a one.
  least = 1 if dataset.has_lists else 0

  def in_order(read):
    return read(split, shares[process_index]).prefetch(local_size).enumerate()

  def view(_, record):
    example = dataset.parse(record)
    encoded = sizes.checked(example['image'], dataset.max_pixels)
    view = preprocess.eval_views(encoded, preprocessing, crops, is_square_jpeg)
    return {
      **device_input(view, preprocessing, finish, blocks, dtype),
      'label': _int32(example['label']),
      'mask': tf.cast(tf.reduce_any(example['label'] >= least), tf.float32),
    }

  batches = _map(in_order(dataset.records), view).batch(local_size)
  blank = {
    name: np.zeros(spec.shape[1:], spec.dtype.as_numpy_dtype)
    for name, spec in batches.element_spec.items()
  }

  def relabeled(batch):
    if classes is None:
      return batch
    return {**batch, 'label': classes.to_outputs(batch['label'])}

  done, num_images = 0, 0
  for batch in iterate(
    batches, lambda: in_order(dataset.read), local_size, dataset, split
  ):
    num_images += len(batch['label'])
    yield relabeled(_pad(batch, blank, local_size))
    done += 1
  if num_images != numbers[process_index]:
    raise faults.corrupt_file(dataset, split)
  for _ in range(done, num_batches):
    empty = {name: x[None][:0] for name, x in blank.items()}
    yield relabeled(_pad(empty, blank, local_size))


def device_input(
  view: preprocess.View,
  preprocessing: Preprocessing,
  finish: str,
  blocks: Blocks | None,
  dtype: Any,
) -> preprocess.View:
  """Returns what the host sends to the device for a view.

  Args:
    view: of `preprocess.train_view` or `preprocess.eval_views`.
    preprocessing: the preprocessing that the view was made with.
    finish: 'host' or 'device'; see `train_batches`.
    blocks: see `train_batches`.
    dtype: see `train_batches`.
  """
  if finish == 'host':
    image = preprocess.finish(view, preprocessing)
    view = {'image': tf.cast(image, np.dtype(dtype))}
  if blocks:
    view = {**view, 'image': _to_blocks(view['image'], blocks)}
  return view


def _to_blocks(image: tf.Tensor, blocks: Blocks) -> tf.Tensor:
  """Rearranges `[..., H, W, 3]` to `[..., H', W', size * size * 3]` for conv1.

  The host does this space-to-depth for TPUs, where rearranging the pixels would
  take longer than what it saves.
  """
  *outer, h, w, _ = image.shape
  size, before, after = blocks.size, blocks.before, blocks.after
  image = image[..., : h + min(after, 0), : w + min(after, 0), :]
  sides = (before, max(after, 0))
  image = tf.pad(image, [(0, 0)] * len(outer) + [sides, sides, (0, 0)])
  image = tf.reshape(image, [-1, *image.shape[-3:]])
  image = tf.nn.space_to_depth(image, size)
  return tf.reshape(image, [*outer, *image.shape[1:]])


def _int32(label):
  # A label that does not fit into int32 must stay out of range.
  return tf.cast(tf.clip_by_value(label, -1, 2**31 - 1), tf.int32)


def _map(elements: tf.data.Dataset, view) -> tf.data.Dataset:
  return elements.map(
    # There is no Python to convert, and trying takes a second an epoch.
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
  """Yields batches as NumPy arrays; an error names the example at fault.

  Args:
    batches: the batches of decoded images.
    examples: returns the examples that the batches are made of, `(position,
      example)`, in the same order and with keys.
    size: number of images in a batch.
    dataset: the dataset that they are read from; None for files without labels.
    split: the split that they are read from.

  Raises:
    UserError: an image cannot be decoded, a label is out of range, or a file is
      corrupt.
  """
  options = tf.data.Options()
  # Uses all cores from the start. Tuning is no faster, and its thread delays
  # the end of an epoch by seconds.
  options.autotune.enabled = False
  # All files are opened at once, which matters on buckets (docs/log.md).
  options.experimental_warm_start = True
  batches = batches.prefetch(PREFETCH).with_options(options)
  iterator = batches.as_numpy_iterator()
  place = dataset.data_dir if dataset else ''
  is_remote = '://' in os.fspath(place)
  for number in itertools.count():
    error = None
    try:
      with patient(f'images from {place}') if is_remote else _no_context:
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
  batches: Iterator[Batch], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
  """Sends batches to the devices ahead of their use.

  Args:
    batches: this process's arrays, `[n, ...]`, with n divisible by the number
      of its devices.
    mesh: the devices of all processes (`placement.mesh_of`).

  Yields:
    The same arrays as `[devices, images per device, ...]`, with one part on
    each device. Other processes' devices have their own.
  """
  sharding = NamedSharding(mesh, PartitionSpec('batch'))
  number = len(mesh.local_devices)
  queue: collections.deque = collections.deque()
  for batch in batches:
    parts = {
      name: x.reshape(number, -1, *x.shape[1:]) for name, x in batch.items()
    }
    queue.append(
      jax.device_put(parts, sharding)
      if sharding.is_fully_addressable
      else jax.make_array_from_process_local_data(sharding, parts)
    )
    if len(queue) > PREFETCH:
      yield queue.popleft()
  yield from queue
