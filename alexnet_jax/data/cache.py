"""A copy of a set's files on this machine (`config.data.cache_dir`)."""

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
from alexnet_jax.data.dataset import Dataset


def cached(dataset: Dataset, splits: Sequence[str], folder: str) -> Dataset:
  """The same set, its files copied to a folder of this machine.

  Whole files, so that the order does not change, and so that it may be memory
  (/dev/shm) or a disk, shared by processes and found again after a restart. A
  file that is there is not copied again.

  Args:
    dataset: a prepared set.
    splits: whose files are copied.
    folder: where to.

  Raises:
    UserError: they do not fit there; nothing was copied.
    StorageError: the folder cannot be written.
  """
  source = epath.Path(dataset.builder.data_path)
  folder = os.path.abspath(os.path.expanduser(folder))
  target = epath.Path(folder) / dataset.full_name
  shards = dataset.files(splits)
  stored = {os.fspath(p) for s in dataset.builder.info.splits.values()
            for p in s.filepaths}  # fmt: skip
  try:
    small = [p for p in source.iterdir() if os.fspath(p) not in stored]
    missing = {
      path: path.stat().length
      for path in (*shards, *small)
      if not path.is_dir() and not _is_copy(target / path.name, path)
    }
    target.mkdir(parents=True, exist_ok=True)
    for path in target.glob('.*'):  # Of copies that were killed.
      if path.stat().mtime < time.time() - 3600:
        path.unlink()
    needed, free = sum(missing.values()), shutil.disk_usage(target).free
    if needed > free:
      raise UserError(
        f'data.cache_dir {folder} has {_gigabytes(free)} free, and '
        f'{_gigabytes(needed)} are to be copied there ({len(shards)} files of '
        f'{", ".join(splits)}): name another folder, or none'
      )
    with tqdm(
      total=needed, unit='B', unit_scale=True, disable=None,
      desc=f'copying {_gigabytes(needed)} to {folder}',
    ) as bar:  # fmt: skip
      for path, size in missing.items():
        # Another process may be copying the same.
        aside = target / f'.{path.name}.{uuid.uuid4().hex}'
        try:
          path.copy(aside)
          aside.replace(target / path.name)
        finally:
          aside.unlink(missing_ok=True)
        bar.update(size)
  except OSError as error:
    raise StorageError(f'cannot copy to {target}: {error}') from error
  return dataclasses.replace(
    dataset, builder=tfds.builder_from_directory(target)
  )


def _is_copy(path: epath.Path, of: epath.Path) -> bool:
  if not path.exists():
    return False
  copy, original = path.stat(), of.stat()
  return copy.length == original.length and copy.mtime >= original.mtime


def _gigabytes(size: int) -> str:
  return f'{size / 1e9:.1f} GB' if size >= 1e8 else f'{size / 1e6:.1f} MB'
