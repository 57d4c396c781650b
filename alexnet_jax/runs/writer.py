"""What a run says: lines at the terminal, metrics.jsonl, TensorBoard."""

import contextlib
import json
import time
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow as tf
from etils import epath

from alexnet_jax.cli.errors import StorageError
from alexnet_jax.cli.files import write_text
from alexnet_jax.plots.kernels import kernel_grid


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
      write_text(self._metrics, text)

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
