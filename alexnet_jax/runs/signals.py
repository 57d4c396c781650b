"""Saves and stops at SIGTERM, which also announces a preemption, and SIGINT."""

import contextlib
import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignals:
  """A context in which signals are noted, for the run to stop after its step.

  A second SIGINT ends the process at once. Python gives signals to the main
  thread alone: a run in another thread leaves their handling as it is.

  Several processes must stop after the same step, or they wait for each other
  for ever. With several processes JAX's preemption service receives SIGTERM,
  informs the other processes, and chooses the step at which all of them stop.
  """

  def __init__(self):
    self.signal = 0
    self._alone = jax.process_count() == 1
    self._points = 0
    self._exit = contextlib.ExitStack()

  def __enter__(self) -> 'StopSignals':
    if threading.current_thread() is not threading.main_thread():
      return self
    numbers = [signal.SIGINT]
    if self._alone:
      numbers.append(signal.SIGTERM)
    for number in numbers:
      before = signal.signal(number, self._note)
      self._exit.callback(signal.signal, number, before)
    # Python calls `_note` only between two of its own instructions, and a step
    # or a compilation may be long. So a thread waits for a second SIGINT.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
    self._exit.callback(os.close, writer)  # Ends the thread.
    self._exit.callback(signal.set_wakeup_fd, before)
    return self

  def __exit__(self, *_: Any) -> None:
    self._exit.close()

  def agreed(self) -> int:
    """Returns the signal to stop for, or 0; all processes agree on it.

    All processes must call it at the same points: after each step, and before
    each batch of an evaluation.
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
    if not self._alone:  # JAX's preemption service knows SIGTERM alone.
      os.kill(os.getpid(), signal.SIGTERM)
    # Not `say`: the signal may arrive while a line is being written, and
    # Python's streams refuse to write another one inside it.
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):
      os.write(1, f'{name}: saving after this step ...\n'.encode())

  @staticmethod
  def _listen(reader: int) -> None:
    earlier = b''
    while number := os.read(reader, 1):
      if earlier and number == bytes([signal.SIGINT]):
        os._exit(128 + signal.SIGINT)
      earlier = number
    os.close(reader)
