"""Where the time of a training run goes."""

import contextlib
import time
from collections.abc import Iterator


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
