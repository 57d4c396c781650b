"""Guards a workdir: one training run at a time, and no links in it.

On a file system the kernel holds the lock and drops it when the process ends,
even by SIGKILL. Where there are no locks, as on gs://, see `leases.py`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.terminal import warn
from alexnet_jax.runs import leases
from alexnet_jax.runs.leases import LOCK, in_use

try:
  import fcntl
except ImportError:  # Not on Unix.
  fcntl = None  # type: ignore[assignment]

# What flock fails with on a file system without locks, such as Lustre without
# `-o flock`.
_NO_LOCKS = errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK
_NO_LINK = getattr(os, 'O_NOFOLLOW', 0)  # 0 on Windows.

# What a run reads, writes and deletes, by name and by prefix.
_NAMES = ('config.json', 'conv1.png', 'left_out.json', 'metrics.jsonl',
          'preprocessing.json', 'results.json', 'starts.json')  # fmt: skip
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
def sole_run(workdir: epath.Path) -> Iterator[Callable[[], None]]:
  """Reserves a workdir, which is created if missing, for one run.

  A run that is refused leaves nothing behind: no workdir and no lock.

  Yields:
    A function to call before anything is written (`leases.hold`). It does
    nothing where the kernel holds the lock.

  Raises:
    UserError: another run uses the workdir.
    StorageError: it cannot be written.
  """
  with contextlib.ExitStack() as stack:
    try:
      if '://' in os.fspath(workdir):
        lock = leases.hold(workdir)
      else:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = _local_lock(workdir)
      check = stack.enter_context(lock)
    except OSError as error:
      raise StorageError(f'cannot write in {workdir}: {error}') from error
    yield check


@contextlib.contextmanager
def _local_lock(workdir: epath.Path) -> Iterator[Callable[[], None]]:
  path = os.path.join(workdir, LOCK)
  existed = os.path.exists(path)
  file = _locked_file(workdir, path)
  if file is None:
    try:
      with leases.hold(workdir) as check:
        yield check
    finally:
      with contextlib.suppress(OSError):
        os.rmdir(workdir)  # Fails unless it is empty.
    return
  refused = False
  try:
    yield no_check
  except (UserError, StorageError):
    refused = not existed
    raise
  finally:
    with contextlib.suppress(OSError):
      if refused or os.listdir(workdir) == [LOCK]:
        os.unlink(path)  # This process still holds it.
        os.rmdir(workdir)  # Fails unless it is empty.
    os.close(file)


def no_check() -> None:
  """Does nothing: the kernel holds the lock, or another process checks it."""


def _locked_file(workdir: epath.Path, path: str) -> int | None:
  """Returns an open file that this process has locked; None without locks."""
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o644)
    inode = os.fstat(file).st_ino
    try:
      if fcntl is None:
        raise OSError(errno.ENOSYS, 'no flock')
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      os.close(file)
      if isinstance(error, BlockingIOError):
        raise in_use(workdir, _holder(inode)) from error
      if error.errno not in _NO_LOCKS:
        raise
      warn(
        f'{workdir} is on a file system without locks ({error.strerror}): '
        f'{LOCK} is renewed every few seconds instead, as on gs://'
      )
      return None
    # A refused run may have removed the file in the meantime.
    with contextlib.suppress(FileNotFoundError):
      if os.stat(path).st_ino == inode:
        return file
    os.close(file)


def _holder(inode: int) -> str:
  """Returns ' (process 123)' on Linux, '' elsewhere."""
  with contextlib.suppress(OSError), open('/proc/locks') as locks:
    for line in locks:  # 1: FLOCK  ADVISORY  WRITE 123 fd:01:456 0 EOF
      fields = line.split()
      if fields[1] == 'FLOCK' and fields[5].endswith(f':{inode}'):
        return f' (process {fields[4]})'
  return ''
