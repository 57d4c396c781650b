"""SIGTERM (a preemption's notice too) and SIGINT ask for a checkpoint."""

import contextlib
import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignals:
  """Notes the signals while it is entered; a second SIGINT does not wait.

  Several processes must stop after the same step, or they wait for each other
  for ever. There JAX's own preemption service hears SIGTERM, tells the others,
  and names the point at which all of them stop.
  """

  def __init__(self):
    self.signal = 0
    self._alone = jax.process_count() == 1
    self._points = 0
    self._exit = contextlib.ExitStack()

  def __enter__(self) -> 'StopSignals':
    numbers = [signal.SIGINT]
    if self._alone:
      numbers.append(signal.SIGTERM)
    for number in numbers:
      before = signal.signal(number, self._note)
      self._exit.callback(signal.signal, number, before)
    # Python calls `_note` between two of its own instructions, and a step or a
    # compilation may be long. So a second SIGINT is heard by a thread.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
    self._exit.callback(os.close, writer)  # It ends the thread.
    self._exit.callback(signal.set_wakeup_fd, before)
    return self

  def __exit__(self, *_: Any) -> None:
    self._exit.close()

  def agreed(self) -> int:
    """The signal to stop for here, 0 for none: so for all processes, or none.

    All of them must ask at the same points: after each step, and at each batch
    of an evaluation.
    """
    if self._alone:
      return self.signal
    self._points += 1
    if multihost_utils.reached_preemption_sync_point(self._points):
      return self.signal or signal.SIGTERM
    return 0

  def _note(self, number: int, frame: Any) -> None:
    del frame
    self.signal = number
    if not self._alone:  # By the way that JAX hears of it.
      os.kill(os.getpid(), signal.SIGTERM)
    # Not `say`: the signal may have come while a line was being written, and
    # Python's streams refuse a second one within the first.
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):
      os.write(1, f'{name}: saving after this step ...\n'.encode())

  @staticmethod
  def _listen(reader: int) -> None:
    heard = b''
    while number := os.read(reader, 1):
      if heard and number == bytes([signal.SIGINT]):
        os._exit(128 + signal.SIGINT)
      heard = number
    os.close(reader)
