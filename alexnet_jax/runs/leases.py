"""Reserves a workdir by a file that its run renews, for storage without locks.

Object storage (gs://) has no locks, nor have some file systems. There a run
renews `.lock` every few seconds. Another run takes over a lock that has not
been renewed for a while. Only one of the two may write, even if the first was
paused (SIGSTOP, a migrated machine) or the storage did not answer it:

- Clocks of two machines are never compared. A lock is valid for 11 s from
  before it was renewed. Others must see it unchanged for 14 s, and start again
  when the storage does not answer them, as it may not answer the holder.
- The holder writes nothing while its lock is not valid. It waits until it has
  renewed the lock, or finds that another run holds it, and stops.
- Each write names the version of the file that it replaces, and Cloud Storage
  refuses it if another write came first. (Not through epath, but through
  tensorstore, which Orbax uses.) Other storage may ignore that. So a run reads
  the file again a second after it took the lock: the last to write continues.
"""

import contextlib
import os
import pathlib
import platform
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator

import tensorstore
from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.terminal import say, warn

LOCK = '.lock'

# In seconds. How often a lock is renewed.
_BEAT = 4.0
# In beats: how long a lock is valid; how long another run watches it; and how
# soon that run reads it again.
_VALID, _PATIENCE, _SETTLE = 2.75, 3.5, 0.25
# In seconds: for one request; until storage that does not answer is an error.
_TIMEOUT, _GIVE_UP = 5, 110


def in_use(workdir: epath.Path, by: str) -> UserError:
  """Returns the error of a run that is refused."""
  return UserError(
    f'{workdir} is in use by another run{by}: wait for it, stop it, or give '
    'another --workdir'
  )


@contextlib.contextmanager
def hold(
  workdir: epath.Path, beat: float = _BEAT
) -> Iterator[Callable[[], None]]:
  """Reserves a workdir for this run.

  Args:
    workdir: the workdir of the run, local or gs://.
    beat: seconds between two renewals; all runs must have the same.

  Yields:
    A function to call before anything is written. It waits while the lock
    cannot be renewed, and raises StorageError if another run has taken it over,
    or the storage does not answer for two minutes.

  Raises:
    UserError: another run uses the workdir.
    StorageError: it cannot be written.
  """
  lease = _Lease(workdir, beat)
  lease.take()
  ended = threading.Event()
  thread = threading.Thread(
    target=lease.renew_until, args=(ended,), name='lock', daemon=True
  )
  thread.start()
  try:
    yield lease.check
  finally:
    ended.set()
    thread.join()
    lease.release()


class _Lease:
  """The lock of one run; `hold` explains it."""

  def __init__(self, workdir: epath.Path, beat: float):
    self._workdir = workdir
    self._file = _open(workdir)
    self._beat = beat
    self._name = uuid.uuid4().hex
    self._who = (
      f'process {os.getpid()} on {platform.node()}, {_identity(os.getpid())}'
    )
    self._renewed = 0.0
    self._lost_to = ''
    self._error = ''

  def take(self) -> None:
    """Takes the lock, after watching it if another run may hold it."""
    first, until = None, 0.0
    give_up = _now() + _GIVE_UP
    while True:
      try:
        text, version = self._read()
        mine = self._name in text  # The answer to this run's write was lost.
        if first is None:
          seconds = self._beat * _PATIENCE
          first, until = version, _now() + seconds
          if text and not mine and not _is_dead(text):
            say(
              f'waiting {seconds:.0f} s to see whether {_holder(text)} is '
              'still running'
            )
        elif text and version != first and not mine:
          raise in_use(self._workdir, f' ({_holder(text)})')
        if not text or mine or _is_dead(text) or _now() >= until:
          first = version
          if self._write(version):
            time.sleep(self._beat * _SETTLE)
            if self._name in self._read()[0]:
              return
      except Exception as error:  # tensorstore's are of many types.
        if isinstance(error, UserError):
          raise
        if not _may_pass(error) or _now() > give_up:
          raise self._cannot(_brief(error)) from error
        first = None  # Its holder may have had no answer either.
      time.sleep(self._beat / 8)

  def renew_until(self, ended: threading.Event) -> None:
    """Renews the lock until `ended` is set or another run has taken it."""
    pause = self._beat
    while not self._lost_to and not ended.wait(pause):
      try:
        text, version = self._read()
        if self._name not in text:
          self._lost_to = _holder(text) if text else 'a run that has ended'
        elif self._write(version):
          if self._error:
            say(f'{self._workdir} answers again')
          self._error = ''
        pause = self._beat
      except Exception as error:  # Of any type; it may pass.
        if not self._error:
          warn(f'{self._workdir} does not answer: waiting ({_brief(error)})')
        self._error = _brief(error)
        pause = self._beat / 8

  def check(self) -> None:
    """Returns once the lock is held for certain; `hold` has the errors."""
    began = _now()
    while not self._lost_to and not self._is_valid():
      if _now() > began + _GIVE_UP:
        raise self._cannot(self._error)
      time.sleep(self._beat / 40)
    if self._lost_to:
      raise StorageError(
        f'{self._workdir} was taken over by another run ({self._lost_to}), as '
        f'this one had not renewed {LOCK} for too long. This one wrote nothing '
        'since; let the other run continue'
      )

  def release(self) -> None:
    """Removes the lock if this run still holds it."""
    with contextlib.suppress(Exception):  # A later run waits a while.
      text, version = self._read()
      if self._name in text:
        self._file.write(LOCK, None, if_equal=version).result(_TIMEOUT)

  def _is_valid(self) -> bool:
    return _now() < self._renewed + self._beat * _VALID

  def _read(self) -> tuple[str, bytes]:
    """Returns the text of the lock, '' if there is none, and its version."""
    found = self._file.read(LOCK).result(_TIMEOUT)
    return found.value.decode(errors='replace'), found.stamp.generation

  def _write(self, version: bytes) -> bool:
    """Renews the lock unless it has another version; whether it did."""
    began = _now()
    text = f'{self._who}, {self._name}, {began}'.encode()
    stamp = self._file.write(LOCK, text, if_equal=version).result(_TIMEOUT)
    if stamp.generation:
      self._renewed = began
    return bool(stamp.generation)

  def _cannot(self, reason: str) -> Exception:
    if reason.startswith('NOT_FOUND'):
      return UserError(f'there is no bucket for {self._workdir} (--workdir)')
    return StorageError(f'cannot write in {self._workdir}: {reason}')


def _open(workdir: epath.Path) -> tensorstore.KvStore:
  scheme, _, path = os.fspath(workdir).rpartition('://')
  context = tensorstore.Context(
    {
      # The lock has its own patience.
      'gcs_request_retries': {
        'max_retries': 1,
        'initial_delay': '100ms',
        'max_delay': '1s',
      },
      # tensorstore would use the locks that the file system lacks.
      'file_io_locking': {'mode': 'none'},
      'file_io_sync': False,  # After a power failure no run holds a lock.
    }
  )
  url = f'{scheme or "file"}://{urllib.parse.quote(path)}/'
  try:
    return tensorstore.KvStore.open(url, context=context).result(_TIMEOUT)
  except Exception as error:
    raise StorageError(f'cannot write in {workdir}: {error}') from error


def _brief(error: Exception) -> str:
  # A TimeoutError has no text. tensorstore's errors end in ' [details]'.
  return str(error).partition(' [')[0] or 'no answer in time'


def _may_pass(error: Exception) -> bool:
  # tensorstore reports status 429, 5xx and lost connections as ABORTED.
  return isinstance(error, TimeoutError) or 'ABORTED' in str(error)


def _now() -> float:
  """Returns seconds of a clock that no one sets."""
  if hasattr(time, 'CLOCK_BOOTTIME'):  # It counts a suspended machine's time.
    return time.clock_gettime(time.CLOCK_BOOTTIME)
  return time.monotonic()


def _holder(text: str) -> str:
  return text.split(',')[0]


def _identity(pid: int) -> str:
  """Names a process so that no other process ever has the name.

  By the boot of the machine, the namespace of its number (a container's), and
  its start. Returns '' if there is no such process, or not on Linux.
  """
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    namespace = os.readlink('/proc/self/ns/pid')
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    if os.readlink('/proc/self') != str(os.getpid()):  # Of another namespace.
      return ''
    return f'{boot} {namespace} {stat.rpartition(")")[2].split()[19]}'
  except OSError:
    return ''


def _is_dead(text: str) -> bool:
  """Whether the process that wrote a lock is known to have ended.

  That is known of processes of the same container or machine only.
  """
  who, _, rest = text.partition(', ')
  theirs = rest.partition(', ')[0].split()
  mine = _identity(os.getpid()).split()
  if len(theirs) != 3 or theirs[:2] != mine[:2]:
    return False
  pid = int(who.split()[1])
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except OSError:
    pass  # Of another user; /proc may hide it.
  now = _identity(pid).split()
  return len(now) == 3 and now != theirs
