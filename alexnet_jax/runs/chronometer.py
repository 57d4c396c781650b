"""Measures the speed of training and estimates when it ends."""

import contextlib
import time
from collections.abc import Iterator


class Chronometer:
  """Measures images per second, the time spent waiting for data, and the ETA.

  Compilation, evaluations and saves do not count towards the speed.
  """

  def __init__(self, step: int, total_steps: int, batch_size: int):
    """Starts it.

    Args:
      step: steps done already.
      total_steps: the number of steps of the training, from its first step.
      batch_size: global.
    """
    self.compiled = False
    self._batch_size = batch_size
    self._total_steps = total_steps
    self._start = self._last = time.monotonic()
    self._first_step = self._last_step = step
    self._waited = self._excluded = 0.0

  def waiting_for(self, batches: Iterator) -> Iterator:
    """Yields the batches and measures how long each took to arrive."""
    while True:
      asked = time.monotonic()
      batch = next(batches, None)
      self._waited += time.monotonic() - asked
      if batch is None:
        return
      yield batch

  def first_step_done(self, step: int) -> float:
    """Starts to measure steps; returns the seconds since the start."""
    seconds = time.monotonic() - self._start
    self.compiled = True
    self._first_step = step
    self._start = time.monotonic()
    self._next_interval(step)
    return seconds

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes what is done inside it from the speed, but not from the ETA."""
    start = time.monotonic()
    yield
    self._excluded += time.monotonic() - start

  def read(self, step: int) -> dict[str, float]:
    """Returns the speed since the last reading.

    Returns:
      `images_per_second`, and `data_wait`, the fraction of the time that was
      spent waiting for data.
    """
    seconds = time.monotonic() - self._last - self._excluded
    seconds = max(seconds, 1e-9)
    images = (step - self._last_step) * self._batch_size
    values = {
      'images_per_second': images / seconds,
      'data_wait': self._waited / seconds,
    }
    self._next_interval(step)
    return values

  def eta(self, step: int) -> float:
    """Returns the seconds to the last step at the mean pace so far."""
    pace = (time.monotonic() - self._start) / max(step - self._first_step, 1)
    return pace * (self._total_steps - step)

  def _next_interval(self, step: int) -> None:
    self._last, self._last_step = time.monotonic(), step
    self._waited = self._excluded = 0.0
