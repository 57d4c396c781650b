"""Files and folders that the user names, local or on gs://."""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import IO, Any

from etils import epath

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


def write_text(path: epath.Path, text: str) -> None:
  """Writes a text file, local or on gs://, atomically.

  Raises:
    StorageError: it cannot be written; the old file is unchanged.
  """
  temporary = path.parent / f'.{path.name}.tmp'
  try:
    temporary.write_text(text)
    temporary.replace(path)
  except OSError as error:
    raise StorageError(f'cannot write {path}: {error}') from error


def write_file(path: str, write: Callable[[IO[bytes]], Any]) -> None:
  """Writes a local binary file atomically.

  Args:
    path: the path of the file.
    write: called with a file that is open for writing.

  Raises:
    StorageError: it cannot be written; the old file is unchanged.
  """
  temporary = pathlib.Path(path).with_name(f'.{pathlib.Path(path).name}.tmp')
  try:
    with temporary.open('wb') as file:
      write(file)
    os.replace(temporary, path)
  except (OSError, RuntimeError) as error:  # PyTorch's is a RuntimeError.
    raise StorageError(f'cannot write {path}: {error}') from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
