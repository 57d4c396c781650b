"""The order of an epoch, of which each process reads only its own files.

The files of a split form at most 64 streams, each shuffled by itself, and each
position of the epoch belongs to a stream:

    position    0   1   2   3   4   5   6   7  ...
    stream      a   b   c   d   a   b   c   d  ...  four files of one size

A batch is divided among the devices by residues of its positions: two devices
have the even and the odd ones, four the multiples of four, and so on, and
streams are assigned by the same residues. Each device, and each process, has
therefore the positions of a few streams.
"""

import heapq
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from alexnet_jax.data.dataset import Dataset, Part

# Those of an epoch: a power of two. docs/input.md has its effect on the order
# and on memory.
NUM_STREAMS = 64
_BITS = NUM_STREAMS.bit_length() - 1
# The second half of the seeds that shuffle an epoch's files, and its positions.
_FILES, _POSITIONS = 2, 3


def shuffled(
  dataset: Dataset,
  split: str,
  read: Callable[[str, Sequence[Part]], tf.data.Dataset],
  *,
  seed: int,
  buffer: int,
  batch_size: int,
  num_devices: int = 1,
  process_index: int = 0,
  process_count: int = 1,
) -> tf.data.Dataset:
  """Returns one process's part of an epoch, in order.

  The example at a position depends on the split's files, `seed` and `buffer`
  alone; the device that gets it on `batch_size` and `num_devices`, too.

  Args:
    dataset: a prepared dataset.
    split: the split to read.
    read: `dataset.records` or `dataset.read`.
    seed: from 0 to 2**31 - 1.
    buffer: the number of records from which the next is drawn; the streams
      share it in proportion to their sizes.
    batch_size: global.
    num_devices: of all processes; a divisor of the batch size.
    process_index: of this process.
    process_count: a divisor of the number of devices.

  Returns:
    Pairs of a position, int64, and what `read` returns: batch_size /
    process_count for each batch, device by device.
  """
  parts = dataset.parts(split)
  streams = deal(
    [part.number for part in parts],
    NUM_STREAMS,
    _permutation(len(parts), seed).tolist(),
  )
  sizes = [sum(parts[i].number for i in files) for files in streams]
  turns = assign(sizes, seed)
  buffer = min(buffer, len(turns))
  number = len(turns) // batch_size * batch_size
  slots = _by_device(number, batch_size, num_devices)
  # The streams' records come in the order of the slots. Each keeps the position
  # that it would have in the order of the positions.
  positions = np.empty_like(slots)
  positions[np.argsort(turns[slots], kind='stable')] = np.argsort(
    turns[:number], kind='stable'
  )
  part = np.arange(number) % batch_size // (batch_size // process_count)
  mine = part == process_index
  used, choices = np.unique(turns[slots][mine], return_inverse=True)

  def stream(i):
    elements = read(split, [parts[j] for j in streams[i]]).shuffle(
      max(1, buffer * sizes[i] // len(turns)),
      seed=seed ^ int(i),
      reshuffle_each_iteration=False,
    )
    own = mine[turns[slots] == i]
    if not own.all():  # It is shared with other processes.
      elements = tf.data.Dataset.zip(
        (tf.data.Dataset.from_tensor_slices(own), elements)
      )
      elements = elements.filter(lambda is_own, _: is_own)
      elements = elements.map(lambda _, element: element)
    # All streams fill their buffers at the same time.
    return elements.prefetch(2)

  chosen = tf.data.Dataset.choose_from_datasets(
    [stream(i) for i in used],
    tf.data.Dataset.from_tensor_slices(choices.astype(np.int64)),
  )
  return tf.data.Dataset.zip(
    (tf.data.Dataset.from_tensor_slices(positions[mine]), chosen)
  )


def _by_device(number: int, batch_size: int, num_devices: int) -> np.ndarray:
  """Returns the positions of an epoch, batch by batch and device by device."""
  # 0, 32, 16, 48, ..., 1, 33, ...: consecutive parts, if their number is a
  # power of two, have one residue each.
  order = np.zeros(NUM_STREAMS, int)
  for i in range(_BITS):
    order = 2 * order + (np.arange(NUM_STREAMS) >> i) % 2
  positions = np.arange(number).reshape(-1, batch_size)
  rank = np.argsort(order[positions % NUM_STREAMS], axis=1, kind='stable')
  rank = np.sort(
    rank.reshape(-1, num_devices, batch_size // num_devices), axis=2
  )
  return (rank.reshape(-1, batch_size) + positions[:, :1]).reshape(-1)


def deal(
  sizes: Sequence[int], number: int, order: Sequence[int]
) -> list[list[int]]:
  """Deals files to streams of nearly equal sizes.

  Args:
    sizes: the number of records of each file.
    number: of streams, at most.
    order: a permutation of the files, which decides among files of one size.

  Returns:
    For each stream the indices of its files, in the order to read them.

  Example:
    >>> deal([5, 5, 4, 4], number=2, order=[3, 2, 1, 0])
    [[3, 1], [2, 0]]
  """
  order = [i for i in order if sizes[i]]
  place = {i: at for at, i in enumerate(order)}
  streams: list[tuple[int, int, list[int]]] = [
    (0, s, []) for s in range(min(number, len(order)))
  ]
  for i in sorted(order, key=lambda i: -sizes[i]):
    size, s, files = heapq.heappop(streams)
    heapq.heappush(streams, (size + sizes[i], s, [*files, i]))
  return [
    sorted(files, key=place.__getitem__)
    for _, _, files in sorted(streams, key=lambda stream: stream[1])
  ]


def assign(sizes: Sequence[int], seed: int) -> np.ndarray:
  """Assigns streams to the positions of an epoch.

  The even positions and the odd ones are shared out among the streams so that
  at most one stream has some of both; then the multiples of four among the even
  ones, and so on. Streams of one size have the turns 0, 1, ..., 0, 1, ...

  Args:
    sizes: the number of records of each stream.
    seed: mixes streams that share every `NUM_STREAMS`-th position.

  Returns:
    The stream of each position, `[sum of sizes]`.

  Example:
    >>> assign([2, 2, 1, 2], seed=0).tolist()
    [0, 1, 3, 2, 0, 1, 3]
  """
  turns = np.zeros(sum(sizes), np.int16)

  def fill(start, step, shares):
    """Fills the positions start, start + step, ..."""
    if len(shares) == 1:
      turns[start::step] = shares[0][1]
    elif step == NUM_STREAMS:
      streams = np.repeat([s for _, s in shares], [n for n, _ in shares])
      turns[start::step] = streams[_permutation(len(streams), seed, start)]
    elif shares:
      halves: tuple[list, list] = [], []
      free = [len(turns[i :: 2 * step]) for i in (start, start + step)]
      for n, s in sorted(shares, key=lambda share: -share[0]):
        larger = int(free[1] > free[0])
        # What does not fit into one half goes to the other.
        for half, given in (
          (larger, min(n, free[larger])),
          (1 - larger, max(n - free[larger], 0)),
        ):
          if given:
            halves[half].append((given, s))
            free[half] -= given
      fill(start, 2 * step, halves[0])
      fill(start + step, 2 * step, halves[1])

  fill(0, 1, [(n, s) for s, n in enumerate(sizes) if n])
  return turns


def _permutation(number: int, seed: int, more: int = -1) -> np.ndarray:
  # TensorFlow's generator is the same in all its versions.
  key = [seed, _FILES] if more < 0 else [seed ^ (more << 8), _POSITIONS]
  drawn = tf.random.stateless_uniform([number], key, alg='philox')
  return np.argsort(drawn.numpy(), kind='stable')
