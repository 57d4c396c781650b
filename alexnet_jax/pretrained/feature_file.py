"""Features of many images as a NumPy file, without keeping them in memory."""

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from alexnet_jax.cli.files import write_file
from alexnet_jax.cli.terminal import escaped


class FeatureFile:
  """Collects features on disk, then writes them all or nothing.

  FILE.npz holds an array for each layer, float32, and `paths` [N]. FILE.npy
  holds the array of a single layer, and FILE.txt the paths, one a line. Both
  may be on gs://.

  Example:
    >>> folder = tempfile.mkdtemp()
    >>> file = FeatureFile(f'{folder}/features.npz')
    >>> file.add('a.jpg', {'conv5': np.zeros((13, 13, 256), np.float32)})
    >>> file.write()
    >>> file.close()
    >>> np.load(f'{folder}/features.npz')['conv5'].shape
    (1, 13, 13, 256)
  """

  def __init__(self, path: str):
    self._path = path
    self._files = contextlib.ExitStack()
    self._rows: dict[str, IO[bytes]] = {}
    self._shapes: dict[str, tuple[int, ...]] = {}
    self._paths: list[str] = []

  def add(self, path: str, features: Mapping[str, np.ndarray]) -> None:
    """Appends the features of an image, by layer."""
    for name, array in features.items():
      if name not in self._rows:
        self._rows[name] = self._open()
        self._shapes[name] = array.shape
      self._rows[name].write(array.astype('<f4').tobytes())
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
    (layer,) = self._rows
    write_file(self._path, lambda file: self._write_array(layer, file))

  def close(self) -> None:
    """Frees the rows on disk."""
    self._files.close()

  def _open(self) -> IO[bytes]:
    folder = None
    if '://' not in self._path:
      folder = os.path.dirname(os.path.abspath(self._path))
    return self._files.enter_context(tempfile.TemporaryFile(dir=folder))

  def _write_npz(self, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, 'w') as archive:
      for layer in self._rows:
        with archive.open(f'{layer}.npy', 'w', force_zip64=True) as part:
          self._write_array(layer, part)
      with archive.open('paths.npy', 'w', force_zip64=True) as part:
        np.lib.format.write_array(part, np.array(self._paths, dtype=np.str_))

  def _write_array(self, layer: str, file: IO[bytes]) -> None:
    header: dict[str, Any] = {
      'descr': '<f4',
      'fortran_order': False,
      'shape': (len(self._paths), *self._shapes[layer]),
    }
    np.lib.format.write_array_header_1_0(file, header)
    self._rows[layer].seek(0)
    shutil.copyfileobj(self._rows[layer], file, 2**20)
