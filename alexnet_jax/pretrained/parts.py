"""The part of a file that has been downloaded so far.

The part of NAME is NAME.part. NAME.part.version holds the ETag or date of the
version that it is a part of. The kernel holds a lock on the part and drops it
when the process ends, even by SIGKILL.
"""

import contextlib
import errno
import os
import pathlib
import urllib.request
import uuid
from collections.abc import Iterator
from typing import IO

from alexnet_jax.cli.terminal import note

try:
  import fcntl
except ImportError:  # Not on Unix.
  fcntl = None  # type: ignore[assignment]

# What flock fails with on a file system without locks.
_NO_LOCKS = errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK


class Part:
  """A file's bytes that have arrived, and the version that they are of.

  Args:
    path: of the part, not of the complete file.
    file: opened there for appending, unbuffered.
  """

  def __init__(self, path: pathlib.Path, file: IO[bytes]):
    self.path = path
    self._file = file
    self._version_file = path.with_name(f'{path.name}.version')
    self._version = ''
    with contextlib.suppress(FileNotFoundError):
      self._version = self._version_file.read_text('latin-1')

  @property
  def size(self) -> int:
    """The number of bytes that have arrived."""
    return os.fstat(self._file.fileno()).st_size

  def request(self, url: str) -> urllib.request.Request:
    """Returns the request for the bytes that are missing."""
    request = urllib.request.Request(url, headers={'User-Agent': 'alexnet_jax'})
    if self.size and self._version and self._version.isprintable():
      request.add_header('Range', f'bytes={self.size}-')
      # The server sends all of the file if it has changed.
      request.add_header('If-Range', self._version)
    return request

  def restart(self, version: str = '') -> None:
    """Empties it.

    Args:
      version: the ETag or date of what will be appended; without one it cannot
        be resumed.
    """
    self._file.truncate(0)
    self._version = version
    self._version_file.write_text(version, 'latin-1')

  def append(self, data: bytes) -> None:
    """Writes bytes at its end."""
    while data:
      data = data[self._file.write(data) :]

  def move(self, path: pathlib.Path) -> None:
    """Moves it to its final path."""
    os.fsync(self._file.fileno())
    self._version_file.unlink(missing_ok=True)
    os.replace(self.path, path)

  def remove(self) -> None:
    """Removes it, unless it was moved."""
    # Another process may have made a new one at this path.
    if _is_at(self._file, self.path):
      self._version_file.unlink(missing_ok=True)
      self.path.unlink()


def _is_at(file: IO[bytes], path: pathlib.Path) -> bool:
  """Whether an open file is still the one at a path."""
  with contextlib.suppress(FileNotFoundError):
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  return False


@contextlib.contextmanager
def open_part(path: pathlib.Path) -> Iterator[Part]:
  """Yields the part of a file once no other process writes it.

  It stays afterwards if it has bytes to resume and the storage did not fail.
  Where there are no locks, each process has a part of its own, which does not
  stay.

  Args:
    path: of the complete file; its folder exists.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'file')
    ...   with open_part(path) as part:
    ...     part.append(b'all')
    ...     part.move(path)
    ...   path.read_bytes(), os.listdir(folder)
    (b'all', ['file'])
  """
  part_path = path.with_name(f'{path.name}.part')
  file = _locked(part_path)
  can_stay = file is not None
  if file is None:
    part_path = path.with_name(f'{path.name}.{uuid.uuid4().hex[:8]}.part')
    file = part_path.open('ab', 0)
  with file:
    part = Part(part_path, file)
    try:
      yield part
    except OSError:
      can_stay = False
      raise
    finally:
      if not (can_stay and part.size):
        part.remove()


def _locked(path: pathlib.Path) -> IO[bytes] | None:
  """Returns an open file that this process has locked; None without locks."""
  if fcntl is None:
    return None
  while True:
    file = path.open('ab', 0)
    try:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        note(f'waiting for another process, which downloads {path.stem}')
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
      file.close()
      if error.errno not in _NO_LOCKS:
        raise
      path.unlink(missing_ok=True)
      return None
    if _is_at(file, path):
      return file
    file.close()  # The other process has moved or removed it.
