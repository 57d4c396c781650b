"""A workdir: one training run at a time, and nothing but files and folders.

On a file system the kernel holds the lock and drops it when its process dies,
however it dies. Object storage (gs://) has no locks: there a file changes every
few seconds as long as a run lives, and who finds one waits to see whether it
does.
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

# What a run reads, writes and deletes: by name, and by how names begin.
_NAMES = ('config.json', 'conv1.png', 'left_out.json', 'metrics.jsonl',
          'preprocessing.json', 'results.json')  # fmt: skip
_BEGINNINGS = ('.', 'events.out.')
FOLDERS = ('checkpoints', 'broken_checkpoints', 'profile')


def check_files(workdir: epath.Path) -> None:
  """Refuses a workdir that leads elsewhere: it may be from somebody else.

  Raises:
    UserError: something in it that a run would read, write or delete is a link,
      or neither a file nor a folder.
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
      elif entry.name in _NAMES or entry.name.startswith(_BEGINNINGS):
        _check_file(entry.path)


def _check_file(path: str) -> None:
  mode = os.lstat(path).st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
    what = 'a link' if stat.S_ISLNK(mode) else 'neither a file nor a folder'
    raise UserError(
      f'{path} is {what}: nothing is read or written through it. If you made '
      'it, move what it stands for there; the workdir itself may be a link'
    )


@contextlib.contextmanager
def sole_run(workdir: epath.Path) -> Iterator[None]:
  """Holds a workdir, which is made if need be, for one run.

  Of a run that was refused nothing is left: no workdir, no lock.

  Raises:
    UserError: another run lives there.
    StorageError: nothing can be written there.
  """
  with contextlib.ExitStack() as stack:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      held = _beating if '://' in os.fspath(workdir) else _locked
      stack.enter_context(held(workdir))
    except OSError as error:
      raise StorageError(f'cannot write in {workdir}: {error}') from error
    yield


def _in_use(workdir: epath.Path, by: str) -> UserError:
  return UserError(
    f'{workdir} is in use by another run{by}: wait until it ends, stop it, or '
    'give another --workdir'
  )


@contextlib.contextmanager
def _locked(workdir: epath.Path) -> Iterator[None]:
  path = os.path.join(workdir, LOCK)
  was_there = os.path.exists(path)
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    inode = os.fstat(file).st_ino
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      os.close(file)
      raise _in_use(workdir, _holder(inode)) from error
    # A run that was refused may have removed it in between.
    with contextlib.suppress(FileNotFoundError):
      if os.stat(path).st_ino == inode:
        break
    os.close(file)
  refused = False
  try:
    yield
  except (UserError, StorageError):
    refused = not was_there
    raise
  finally:
    with contextlib.suppress(OSError):
      if refused or os.listdir(workdir) == [LOCK]:
        os.unlink(path)  # Still ours: nobody else removes it.
        os.rmdir(workdir)  # If nothing else is there.
    os.close(file)


def _holder(inode: int) -> str:
  """' (process 123)', where the kernel tells (Linux)."""
  with contextlib.suppress(OSError), open('/proc/locks') as locks:
    for line in locks:  # 1: FLOCK  ADVISORY  WRITE 123 fd:01:456 0 EOF
      fields = line.split()
      if fields[1] == 'FLOCK' and fields[5].endswith(f':{inode}'):
        return f' (process {fields[4]})'
  return ''


@contextlib.contextmanager
def _beating(
  workdir: epath.Path, seconds: float = 15, patience: float = 60
) -> Iterator[None]:
  """A file that changes every few `seconds`, for all of `patience` to see."""
  path = workdir / LOCK
  mine = f'process {os.getpid()} on {platform.node()}, {uuid.uuid4()}'

  def read() -> str:
    try:
      return path.read_text()
    except FileNotFoundError:
      return ''

  now = found = read()
  if found:
    holder = found.split(',')[0]
    say(f'waiting {patience:.0f} s: does the run of {holder} live?')
    until = time.monotonic() + patience
    while now == found and time.monotonic() < until:
      time.sleep(seconds / 10)
      now = read()
    if now not in (found, ''):
      raise _in_use(workdir, f' ({now.split(",")[0]})')
  path.write_text(mine)
  # Of two that start together, the one that wrote last goes on.
  time.sleep(seconds / 5)
  if (now := read()) != mine:
    raise _in_use(workdir, f' ({now.split(",")[0]})')

  ended = threading.Event()

  def beat():
    number = 0
    while not ended.wait(seconds):
      number += 1
      with contextlib.suppress(OSError):  # It may be back the next time.
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
