"""Copies a dataset's files to this machine (`config.data.cache_dir`)."""

import dataclasses
import os
import shutil
import time
import uuid
from collections.abc import Sequence

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.data.builders import only_known_features
from alexnet_jax.data.dataset import Dataset


def cached(dataset: Dataset, splits: Sequence[str], folder: str) -> Dataset:
  """Copies the files of some splits and returns the dataset that reads them.

  The folder may be in memory (/dev/shm) or on a disk. The processes of a
  machine share the copy, and the next run reuses the files that are complete.
  The order of the examples does not change.

  Args:
    dataset: a prepared dataset.
    splits: the splits whose files are copied.
    folder: a local folder.

  Raises:
    UserError: the files do not fit; nothing was copied.
    StorageError: the folder cannot be written.
  """
  source = epath.Path(dataset.builder.data_path)
  if '://' in folder:
    raise UserError(f'data.cache_dir={folder} must be a local folder')
  folder = os.path.abspath(os.path.expanduser(folder))
  target = epath.Path(folder) / dataset.full_name
  shards = dataset.files(splits)
  all_shards = {os.fspath(p) for s in dataset.builder.info.splits.values()
                for p in s.filepaths}  # fmt: skip
  try:
    metadata = [p for p in source.iterdir() if os.fspath(p) not in all_shards]
    missing = {
      path: path.stat().length
      for path in (*shards, *metadata)
      if not path.is_dir() and not _is_copy(target / path.name, path)
    }
    target.mkdir(parents=True, exist_ok=True)
    for path in target.glob('.*'):  # Leftovers of interrupted copies.
      if path.stat().mtime < time.time() - 3600:
        path.unlink()
    needed, free = sum(missing.values()), shutil.disk_usage(target).free
    if needed > free:
      raise UserError(
        f'data.cache_dir {folder} has {_gigabytes(free)} free but needs '
        f'{_gigabytes(needed)} ({len(shards)} files of {", ".join(splits)}). '
        "Set another folder, or data.cache_dir='' to read without a copy"
      )
    with tqdm(
      total=needed, unit='B', unit_scale=True, disable=None,
      desc=f'copying {_gigabytes(needed)} to {folder}',
    ) as bar:  # fmt: skip
      for path, size in missing.items():
        # Another process may be copying the same file.
        temporary = target / f'.{path.name}.{uuid.uuid4().hex}'
        try:
          path.copy(temporary)
          temporary.replace(target / path.name)
        finally:
          temporary.unlink(missing_ok=True)
        bar.update(size)
  except OSError as error:
    raise StorageError(f'cannot copy to {target}: {error}') from error
  with only_known_features():
    builder = tfds.builder_from_directory(target)
  return dataclasses.replace(dataset, builder=builder)


def _is_copy(path: epath.Path, original: epath.Path) -> bool:
  if not path.exists():
    return False
  copy, source = path.stat(), original.stat()
  return copy.length == source.length and copy.mtime >= source.mtime


def _gigabytes(size: int) -> str:
  return f'{size / 1e9:.1f} GB' if size >= 1e8 else f'{size / 1e6:.1f} MB'
