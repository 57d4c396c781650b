"""Writes metrics.jsonl, TensorBoard events and conv1.png."""

import contextlib
import json
import time
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow as tf
from etils import epath

from alexnet_jax.cli.errors import StorageError
from alexnet_jax.cli.files import sync, write_file, write_text
from alexnet_jax.plots.kernels import kernel_grid


class Writer:
  """Writes the metrics of one workdir; only process 0 writes.

  metrics.jsonl has at most one line for each (`split`, `step`). When a run
  resumes, lines from after its checkpoint are dropped, and a line that is there
  already is not written again.
  """

  def __init__(self, workdir: epath.Path, first_step: int):
    """Opens the files.

    Args:
      workdir: the workdir of the run.
      first_step: the step of the checkpoint that it resumes from, or 0.

    Raises:
      StorageError: here and in every method, if a file cannot be read or
        written.
    """
    self._workdir = workdir
    self._metrics = workdir / 'metrics.jsonl'
    self._events_action = f'write TensorBoard events in {workdir}'
    self._active = jax.process_index() == 0
    self._written: set[tuple[str, int]] = set()
    if self._active:
      self._drop_lines_after(first_step)
      with _storage(self._events_action):
        self._events = tf.summary.create_file_writer(
          str(workdir), filename_suffix=f'.{first_step}'
        )

  def scalars(
    self, split: str, step: int, epoch: float, values: dict[str, float | None]
  ) -> None:
    """Writes one line of metrics.jsonl and the same numbers for TensorBoard.

    Args:
      split: 'train' or 'validation'.
      step: steps done.
      epoch: epochs done, a fraction within an epoch.
      values: by name; None is not written.
    """
    if not self._active or (split, step) in self._written:
      return
    self._written.add((split, step))
    values = {name: x for name, x in values.items() if x is not None}
    line = {'split': split, 'step': step, 'epoch': round(epoch, 6), **values}
    text = json.dumps({**line, 'time': round(time.time(), 3)}) + '\n'
    # Opened for each line, so that the line is safe at once, on gs:// too.
    with (
      _storage(f'write {self._metrics}'),
      self._metrics.open('a') as file,
    ):
      file.write(text)
    with _storage(f'write {self._metrics}'):
      sync(self._metrics)
    with self._events_at(step):
      for name, value in values.items():
        tf.summary.scalar(f'{split}/{name}', value)

  def conv1_kernels(self, step: int, kernels: np.ndarray) -> None:
    """Writes an image of the first layer's kernels (the paper's Figure 3).

    Args:
      step: steps done.
      kernels: `[kh, kw, 3, features]`.
    """
    if not self._active:
      return
    grid = kernel_grid(kernels)
    with self._events_at(step):
      tf.summary.image('conv1', grid[None])
    png = tf.io.encode_png(grid).numpy()
    path = self._workdir / 'conv1.png'
    with _storage(f'write {path}'):
      write_file(path, lambda file: file.write(png))

  def close(self) -> None:
    """Closes the TensorBoard file; metrics.jsonl is closed already."""
    if self._active:
      with _storage(self._events_action):
        self._events.close()

  def _drop_lines_after(self, step: int) -> None:
    if not self._metrics.exists():
      return
    with _storage(f'read {self._metrics}'):
      lines = self._metrics.read_bytes().split(b'\n')
    kept = []
    for line in lines:
      key = _key_of(line)
      # Incomplete lines are dropped; their steps are logged again.
      if key and key[1] <= step and key not in self._written:
        self._written.add(key)
        kept.append(line)
    if lines != [*kept, b'']:
      text = b''.join(line + b'\n' for line in kept).decode()
      write_text(self._metrics, text)

  @contextlib.contextmanager
  def _events_at(self, step: int) -> Iterator[None]:
    with _storage(self._events_action):
      with self._events.as_default(step=step):
        yield
      self._events.flush()


@contextlib.contextmanager
def _storage(action: str) -> Iterator[None]:
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    reason = getattr(error, 'message', error)
    raise StorageError(f'cannot {action}: {reason}') from error


def _key_of(line: bytes) -> tuple[str, int] | None:
  """Returns split and step of a line of metrics.jsonl, None if invalid."""
  try:
    values = json.loads(line.decode())
    return str(values['split']), int(values['step'])
  except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
    return None
