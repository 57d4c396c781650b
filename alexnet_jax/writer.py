"""What a run says: lines at the terminal, metrics.jsonl, TensorBoard."""

import contextlib
import json
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import flax
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import tensorflow as tf
from etils import epath
from tqdm import tqdm

import alexnet_jax
from alexnet_jax.command import printable
from alexnet_jax.config import write_whole
from alexnet_jax.errors import StorageError
from alexnet_jax.model import Architecture


def say(line: str) -> None:
  """One line on stdout, above a progress bar if there is one."""
  if jax.process_index() == 0:
    tqdm.write(printable(line))
    # Into a pipe or a file too, while the run goes on.
    sys.stdout.flush()


def warn(line: str) -> None:
  """One line on stderr that is not to be overlooked."""
  if jax.process_index() == 0:
    sys.stdout.flush()
    tqdm.write(f'alexnet_jax: WARNING: {printable(line)}', file=sys.stderr)
    sys.stderr.flush()


def versions() -> dict[str, str]:
  """Of this package, Python, and what a run's numbers depend on."""
  return {
    'alexnet_jax': alexnet_jax.__version__,
    'python': platform.python_version(),
    'jax': jax.__version__,
    'flax': flax.__version__,
    'optax': optax.__version__,
    'orbax': ocp.__version__,
    'tensorflow': tf.__version__,
  }


def devices() -> str:
  """`8 x TPU v5 lite, 2 process(es)`."""
  kind = jax.devices()[0].device_kind
  return f'{jax.device_count()} x {kind}, {jax.process_count()} process(es)'


def banner(**facts: Any) -> None:
  """The first lines of a run: versions, devices, and what it is about."""
  say(', '.join(f'{name} {version}' for name, version in versions().items()))
  say(f'  {"devices":<16}{devices()}')
  for name, value in facts.items():
    say(f'  {name.replace("_", " "):<16}{value}')


def parameter_table(
  architecture: Architecture, params: dict[str, Any]
) -> list[str]:
  """Each layer's kernel and number of parameters, and the sum."""
  lines = [f'  {"layer":<8}{"kernel":<20}{"groups":>6}{"parameters":>14}']
  total = 0
  for name, layer in zip(
    architecture.layer_names, architecture.layers, strict=True
  ):
    number = sum(leaf.size for leaf in jax.tree.leaves(params[name]))
    total += number
    kernel = ' x '.join(map(str, params[name]['kernel'].shape))
    groups = getattr(layer, 'groups', 1)
    lines.append(f'  {name:<8}{kernel:<20}{groups:>6}{number:>14,}')
  lines.append(f'  {"total":<34}{total:>14,}')
  return lines


def kernel_grid(kernels: np.ndarray, scale: int = 4) -> np.ndarray:
  """The first layer's kernels as one picture (Figure 3 of the paper).

  Args:
    kernels: `[kh, kw, 3, n]`.
    scale: pixels of the picture for one weight.

  Returns:
    uint8 `[height, width, 3]`, the kernels in rows, each stretched from its
    own least weight (black) to its greatest (white).
  """
  kh, kw, channels, n = kernels.shape
  columns = int(np.ceil(np.sqrt(n * 1.5)))
  rows = -(-n // columns)
  tiles = np.transpose(kernels, (3, 0, 1, 2)).astype(np.float32)
  low = tiles.min(axis=(1, 2, 3), keepdims=True)
  spread = tiles.max(axis=(1, 2, 3), keepdims=True) - low
  tiles = (tiles - low) / np.maximum(spread, 1e-12) * 255
  tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
  gap = scale
  grid = np.full(
    (
      rows * (kh * scale + gap) + gap,
      columns * (kw * scale + gap) + gap,
      channels,
    ),
    255,
    np.uint8,
  )
  for i, tile in enumerate(tiles):
    top = gap + i // columns * (kh * scale + gap)
    left = gap + i % columns * (kw * scale + gap)
    grid[top : top + kh * scale, left : left + kw * scale] = tile.astype(
      np.uint8
    )
  return grid


def duration(seconds: float) -> str:
  """`45s`, `3m05s`, `2h10m`, `4d03h`."""
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f'{days}d{h:02}h'
  if hours:
    return f'{hours}h{m:02}m'
  return f'{m}m{s:02}s' if minutes else f'{s}s'


class Writer:
  """metrics.jsonl and TensorBoard events of one workdir.

  There is at most one line for each (`split`, `step`): those that a killed run
  wrote after its last checkpoint are dropped when the run goes on from there,
  and one that is there already is not written again.
  """

  def __init__(self, workdir: epath.Path, first_step: int):
    self._workdir = workdir
    self._metrics = workdir / 'metrics.jsonl'
    self._active = jax.process_index() == 0
    self._written: set[tuple[str, int]] = set()
    if self._active:
      self._drop_lines_after(first_step)
      with self._storage():
        self._events = tf.summary.create_file_writer(
          str(workdir), filename_suffix=f'.{first_step}'
        )

  def close(self) -> None:
    """Ends the TensorBoard file; metrics.jsonl is closed already."""
    if self._active:
      with self._storage():
        self._events.close()

  def _drop_lines_after(self, step: int) -> None:
    if not self._metrics.exists():
      return
    try:
      lines = self._metrics.read_bytes().split(b'\n')
    except OSError as error:
      raise StorageError(f'cannot read {self._metrics}: {error}') from error
    kept = []
    for line in lines:
      key = _key_of(line)
      # A torn line belongs to no step; it and its like are written anew.
      if key and key[1] <= step and key not in self._written:
        self._written.add(key)
        kept.append(line)
    if lines != [*kept, b'']:
      text = b''.join(line + b'\n' for line in kept).decode()
      write_whole(self._metrics, text)

  def scalars(
    self, split: str, step: int, epoch: float, values: dict[str, float]
  ) -> None:
    """One line of metrics.jsonl, and the same numbers for TensorBoard."""
    if not self._active or (split, step) in self._written:
      return
    self._written.add((split, step))
    line = {'split': split, 'step': step, 'epoch': round(epoch, 6), **values}
    # Opened each time: what is written is safe, on gs:// too.
    text = json.dumps({**line, 'time': round(time.time(), 3)}) + '\n'
    try:
      with self._metrics.open('a') as file:
        file.write(text)
    except OSError as error:
      raise StorageError(f'cannot write {self._metrics}: {error}') from error
    with self._events_at(step):
      for name, value in values.items():
        tf.summary.scalar(f'{split}/{name}', value)

  @contextlib.contextmanager
  def _events_at(self, step: int) -> Iterator[None]:
    with self._storage():
      with self._events.as_default(step=step):
        yield
      self._events.flush()

  @contextlib.contextmanager
  def _storage(self) -> Iterator[None]:
    try:
      yield
    except tf.errors.OpError as error:
      raise StorageError(
        f'cannot write TensorBoard events in {self._workdir}: {error.message}'
      ) from error

  def conv1_kernels(self, step: int, kernels: np.ndarray) -> None:
    """The first layer's kernels, for TensorBoard and as conv1.png."""
    if not self._active:
      return
    grid = kernel_grid(kernels)
    with self._events_at(step):
      tf.summary.image('conv1', grid[None])
    path = self._workdir / 'conv1.png'
    try:
      path.write_bytes(tf.io.encode_png(grid).numpy())
    except OSError as error:
      raise StorageError(f'cannot write {path}: {error}') from error


def _key_of(line: bytes) -> tuple[str, int] | None:
  """Split and step of a line of metrics.jsonl; None of a torn one."""
  try:
    values = json.loads(line.decode())
    return str(values['split']), int(values['step'])
  except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
    return None


class Chronometer:
  """Where the time goes: steps, waiting for data, everything else."""

  def __init__(self, step: int, total_steps: int, batch_size: int):
    self.compiled = False
    self._batch_size = batch_size
    self._total_steps = total_steps
    self._start = self._last = time.monotonic()
    self._first_step = self._last_step = step
    self._waited = self._excluded = 0.0

  def waiting_for(self, batches: Iterator) -> Iterator:
    """The same batches; the time until each is there is counted as waiting."""
    while True:
      asked = time.monotonic()
      batch = next(batches, None)
      self._waited += time.monotonic() - asked
      if batch is None:
        return
      yield batch

  def first_step_done(self, step: int) -> float:
    """Seconds since the start; from here on steps are measured."""
    seconds = time.monotonic() - self._start
    self.compiled = True
    self._first_step = step
    self._start = time.monotonic()
    self._next_interval(step)
    return seconds

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """What is done in it does not count as training."""
    start = time.monotonic()
    yield
    self._excluded += time.monotonic() - start

  def read(self, step: int) -> dict[str, float]:
    """Images/s and the share of time spent waiting, since the last reading."""
    seconds = time.monotonic() - self._last - self._excluded
    seconds = max(seconds, 1e-9)
    images = (step - self._last_step) * self._batch_size
    values = {
      'images_per_second': images / seconds,
      'data_wait': self._waited / seconds,
    }
    self._next_interval(step)
    return values

  def _next_interval(self, step: int) -> None:
    self._last, self._last_step = time.monotonic(), step
    self._waited = self._excluded = 0.0

  def eta(self, step: int) -> float:
    """Seconds to the last step, at the pace so far, evaluations included."""
    pace = (time.monotonic() - self._start) / max(step - self._first_step, 1)
    return pace * (self._total_steps - step)
