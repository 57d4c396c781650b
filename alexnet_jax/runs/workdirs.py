"""Guards a workdir: one training run at a time, and no links in it.

On a file system the kernel holds the lock and drops it when the process ends,
even by SIGKILL. Object storage (gs://) has no locks: there a running process
rewrites a file every few seconds, and a second run that finds the file waits to
see whether it changes.
"""

import contextlib
import fcntl
import os
import platform
import stat
import threading
import time
import uuid
from collections.abc import Iterator

from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.terminal import say

LOCK = '.lock'

# What a run reads, writes and deletes, by name and by prefix.
_NAMES = ('config.json', 'conv1.png', 'left_out.json', 'metrics.jsonl',
          'preprocessing.json', 'results.json')  # fmt: skip
_PREFIXES = ('.', 'events.out.')
FOLDERS = ('checkpoints', 'broken_checkpoints', 'profile')


def check_files(workdir: epath.Path) -> None:
  """Refuses a workdir with links in it, as its source may be untrusted.

  Raises:
    UserError: something that a run would read, write or delete is a link, or is
      neither a file nor a folder.
  """
  if '://' in os.fspath(workdir) or not workdir.is_dir():
    return
  with os.scandir(workdir) as entries:
    for entry in entries:
      if entry.name in FOLDERS:
        _check_file(entry.path)
        for folder, folders, files in os.walk(entry.path):
          for name in folders + files:
            _check_file(os.path.join(folder, name))
      elif entry.name in _NAMES or entry.name.startswith(_PREFIXES):
        _check_file(entry.path)


def _check_file(path: str) -> None:
  mode = os.lstat(path).st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
    what = 'a link' if stat.S_ISLNK(mode) else 'neither a file nor a folder'
    raise UserError(
      f'{path} is {what}, which is refused for safety. If you made it, replace '
      'it by what it points to; the workdir itself may be a link'
    )


@contextlib.contextmanager
def sole_run(workdir: epath.Path) -> Iterator[None]:
  """Reserves a workdir, which is created if missing, for one run.

  A run that is refused leaves nothing behind: no workdir and no lock.

  Raises:
    UserError: another run uses the workdir.
    StorageError: it cannot be written.
  """
  with contextlib.ExitStack() as stack:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      lock = _heartbeat if '://' in os.fspath(workdir) else _kernel_lock
      stack.enter_context(lock(workdir))
    except OSError as error:
      raise StorageError(f'cannot write in {workdir}: {error}') from error
    yield


def _in_use(workdir: epath.Path, by: str) -> UserError:
  return UserError(
    f'{workdir} is in use by another run{by}: wait for it, stop it, or give '
    'another --workdir'
  )


@contextlib.contextmanager
def _kernel_lock(workdir: epath.Path) -> Iterator[None]:
  path = os.path.join(workdir, LOCK)
  existed = os.path.exists(path)
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    inode = os.fstat(file).st_ino
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      os.close(file)
      raise _in_use(workdir, _holder(inode)) from error
    # A refused run may have removed the file in the meantime.
    with contextlib.suppress(FileNotFoundError):
      if os.stat(path).st_ino == inode:
        break
    os.close(file)
  refused = False
  try:
    yield
  except (UserError, StorageError):
    refused = not existed
    raise
  finally:
    with contextlib.suppress(OSError):
      if refused or os.listdir(workdir) == [LOCK]:
        os.unlink(path)  # This process still holds it.
        os.rmdir(workdir)  # Fails unless it is empty.
    os.close(file)


def _holder(inode: int) -> str:
  """Returns ' (process 123)' on Linux, '' elsewhere."""
  with contextlib.suppress(OSError), open('/proc/locks') as locks:
    for line in locks:  # 1: FLOCK  ADVISORY  WRITE 123 fd:01:456 0 EOF
      fields = line.split()
      if fields[1] == 'FLOCK' and fields[5].endswith(f':{inode}'):
        return f' (process {fields[4]})'
  return ''


@contextlib.contextmanager
def _heartbeat(
  workdir: epath.Path, seconds: float = 15, patience: float = 60
) -> Iterator[None]:
  """Rewrites the lock every `seconds`, after checking that no other run does.

  Args:
    workdir: the workdir of the run.
    seconds: between two writes.
    patience: seconds after which an unchanged lock counts as abandoned.
  """
  path = workdir / LOCK
  mine = f'process {os.getpid()} on {platform.node()}, {uuid.uuid4()}'

  def read() -> str:
    try:
      return path.read_text()
    except FileNotFoundError:
      return ''

  now = before = read()
  if before:
    holder = before.split(',')[0]
    say(f'waiting {patience:.0f} s to see whether {holder} is still running')
    until = time.monotonic() + patience
    while now == before and time.monotonic() < until:
      time.sleep(seconds / 10)
      now = read()
    if now not in (before, ''):
      raise _in_use(workdir, f' ({now.split(",")[0]})')
  path.write_text(mine)
  # If two runs start together, the one that wrote last continues.
  time.sleep(seconds / 5)
  if (now := read()) != mine:
    raise _in_use(workdir, f' ({now.split(",")[0]})')

  ended = threading.Event()

  def beat():
    number = 0
    while not ended.wait(seconds):
      number += 1
      with contextlib.suppress(OSError):  # The next write may succeed.
        path.write_text(f'{mine}, {number}')

  thread = threading.Thread(target=beat, name='lock', daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
    with contextlib.suppress(OSError):
      path.unlink()
