"""Files and folders that the user names, local or gs://."""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import IO, Any

from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError


def write_file(path: str, write: Callable[[IO[bytes]], Any]) -> None:
  """Writes a local file that is either as before or whole, never half.

  Args:
    path: of the file.
    write: writes to an open file.
  """
  aside = pathlib.Path(path).with_name(f'.{pathlib.Path(path).name}.tmp')
  try:
    with aside.open('wb') as file:
      write(file)
    os.replace(aside, path)
  except (OSError, RuntimeError) as error:  # PyTorch's is a RuntimeError.
    raise StorageError(f'cannot write {path}: {error}') from error
  finally:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)


def absolute(directory: str) -> epath.Path:
  """A folder, local or `gs://`, with its whole path, as Orbax wants it.

  Raises:
    UserError: a bucket, and what Orbax reads buckets by is not installed.
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
  """Writes a file that is either as before or whole, never half."""
  aside = path.parent / f'.{path.name}.tmp'
  try:
    aside.write_text(text)
    aside.replace(path)
  except OSError as error:
    raise StorageError(f'cannot write {path}: {error}') from error
