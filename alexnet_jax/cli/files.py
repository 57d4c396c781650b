"""Files and folders that the user names, local or on gs://."""

import contextlib
import errno
import importlib.util
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from etils import epath

from alexnet_jax.cli.command import quiet_imports
from alexnet_jax.cli.errors import StorageError, UserError


def absolute(directory: str) -> epath.Path:
  """Returns the absolute path of a local or `gs://` folder, as Orbax needs it.

  Raises:
    UserError: the path is on gs:// and google-cloud-storage is not installed.
  """
  if '://' in directory:
    try:
      found = importlib.util.find_spec('google.cloud.storage')
    except ModuleNotFoundError:
      found = None
    if directory.startswith('gs://') and not found:
      raise UserError(
        f'{directory} needs google-cloud-storage: make venv EXTRAS=tpu (or '
        'cuda), or pip install google-cloud-storage'
      )
    return epath.Path(directory)
  return epath.Path(os.path.abspath(os.path.expanduser(directory)))


def is_url(name: str) -> bool:
  """Whether a name is a URL to download from.

  Raises:
    UserError: it is a URL that cannot be read.

  Example:
    >>> is_url('https://example.org/alexnet.pth'), is_url('gs://bucket/run')
    (True, False)
  """
  scheme, separator, _ = name.partition('://')
  if separator and scheme.lower() not in ('http', 'https', 'gs'):
    raise UserError(
      f'{name}: expected a local path, gs:// or a URL with http:// or https://'
    )
  return bool(separator) and scheme.lower() != 'gs'


def folder_of(name: str, flag: str) -> pathlib.Path:
  """Returns the folder of a flag, local (relative, as typed) or on gs://.

  Raises:
    UserError: its bucket does not exist.

  Example:
    >>> folder_of('runs/digits', 'RUN').parts
    ('runs', 'digits')
  """
  if '://' not in name:
    return pathlib.Path(name)
  check_bucket(name, flag)
  return absolute(name)


def check_bucket(folder: Any, name: str) -> None:
  """Checks that the bucket of a folder exists, which libraries may wait for.

  Args:
    folder: local or on gs://.
    name: the flag or field that names the folder.

  Raises:
    UserError: there is no such bucket.

  Example:
    >>> check_bucket('/tmp/folder', 'data.data_dir')
  """
  scheme, _, path = os.fspath(folder).rpartition('://')
  if not scheme:
    return
  bucket = f'{scheme}://{path.split("/")[0]}'
  with quiet_imports():  # TensorFlow reads from gs://.
    exists = epath.Path(bucket).exists()
  if not exists:
    raise UserError(f'there is no bucket {bucket} ({name})')


@contextlib.contextmanager
def local_file(path: epath.Path) -> Iterator[str]:
  """Yields the path of a file, or of a local copy of it if it is on gs://."""
  if '://' not in os.fspath(path):
    yield os.fspath(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder, path.name)
    copy.write_bytes(path.read_bytes())
    yield str(copy)


def sync(path: Any) -> None:
  """Puts a file or folder on the disk: a power cut then leaves it as it is.

  A new name is on the disk when its folder is. Nothing happens on gs://, where
  what is written stays, and to a folder that the user may not read or whose
  file system does not sync folders.

  Args:
    path: local or on gs://.

  Raises:
    OSError: the disk failed.

  Example:
    >>> sync(tempfile.gettempdir())
  """
  if '://' in os.fspath(path):
    return
  try:
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
  except OSError as error:
    failed = error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT)
    if failed or not os.path.isdir(path):
      raise


def sync_all(folder: epath.Path) -> None:
  """Does the same for a folder and all that is in it.

  Raises:
    OSError: the disk failed.
  """
  if '://' in os.fspath(folder):
    return
  for path, _, names in os.walk(folder):
    for name in names:
      sync(os.path.join(path, name))
    sync(path)


def write_text(path: epath.Path, text: str) -> None:
  """Writes a text file, local or on gs://, atomically, and puts it on the disk.

  Raises:
    StorageError: it cannot be written; the old file is unchanged.
  """
  temporary = path.parent / f'.{path.name}.tmp'
  try:
    temporary.write_bytes(text.encode())
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
  except OSError as error:
    raise StorageError(f'cannot write {path}: {error}') from error


def write_file(path: Any, write: Callable[[IO[bytes]], Any]) -> None:
  """Writes a binary file, local or on gs://, as `write_text` does.

  Args:
    path: of the file, a string or a path.
    write: called with a file that is open for writing.

  Raises:
    StorageError: it cannot be written; the old file is unchanged.
  """
  if '://' in os.fspath(path):  # It appears there when it is complete.
    content = io.BytesIO()
    write(content)
    epath.Path(path).write_bytes(content.getvalue())
    return
  temporary = pathlib.Path(path).with_name(f'.{pathlib.Path(path).name}.tmp')
  try:
    with temporary.open('wb') as file:
      write(file)
    sync(temporary)
    os.replace(temporary, path)
    sync(temporary.parent)
  except (OSError, RuntimeError) as error:  # PyTorch's is a RuntimeError.
    raise StorageError(f'cannot write {path}: {error}') from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
