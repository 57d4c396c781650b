"""Features of many images as a NumPy file, without keeping them in memory."""

import os
import shutil
import tempfile
import zipfile
from typing import IO, Any

import numpy as np

from alexnet_jax.cli.files import write_file
from alexnet_jax.cli.terminal import escaped


class FeatureFile:
  """Collects rows on disk, then writes them all or nothing.

  FILE.npz holds the arrays `features` [N, D], float32, and `paths` [N].
  FILE.npy holds the features alone, and FILE.txt the paths, one a line. Both
  may be on gs://.

  Example:
    >>> folder = tempfile.mkdtemp()
    >>> file = FeatureFile(f'{folder}/features.npy')
    >>> file.add('a.jpg', np.zeros(4096, np.float32))
    >>> file.write()
    >>> file.close()
    >>> np.load(f'{folder}/features.npy').shape
    (1, 4096)
  """

  def __init__(self, path: str):
    self._path = path
    folder = None if '://' in path else os.path.dirname(os.path.abspath(path))
    self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    self._columns = 0
    self._paths: list[str] = []

  def add(self, path: str, features: np.ndarray) -> None:
    """Appends the features of an image, `[D]`."""
    self._rows.write(features.astype('<f4').tobytes())
    self._columns = len(features)
    self._paths.append(path)

  def write(self) -> None:
    """Writes the file.

    Raises:
      StorageError: it cannot be written.
    """
    if self._path.endswith('.npz'):
      write_file(self._path, self._write_npz)
      return
    text = ''.join(f'{escaped(path)}\n' for path in self._paths)
    names = f'{self._path.removesuffix(".npy")}.txt'
    write_file(names, lambda file: file.write(text.encode()))
    write_file(self._path, self._write_features)

  def close(self) -> None:
    """Frees the rows on disk."""
    self._rows.close()

  def _write_npz(self, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, 'w') as archive:
      with archive.open('features.npy', 'w', force_zip64=True) as part:
        self._write_features(part)
      with archive.open('paths.npy', 'w', force_zip64=True) as part:
        np.lib.format.write_array(part, np.array(self._paths, dtype=np.str_))

  def _write_features(self, file: IO[bytes]) -> None:
    header: dict[str, Any] = {
      'descr': '<f4',
      'fortran_order': False,
      'shape': (len(self._paths), self._columns),
    }
    np.lib.format.write_array_header_1_0(file, header)
    self._rows.seek(0)
    shutil.copyfileobj(self._rows, file, 2**20)
