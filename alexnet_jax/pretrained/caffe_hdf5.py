"""Reads Caffe's HDF5 snapshots, .caffemodel.h5."""

import functools
import os
from typing import Any

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import one_line, printable
from alexnet_jax.pretrained.tensors import Shape, Tensor

_KINDS = {'0': 'weight', '1': 'bias'}


def read(path: str) -> dict[str, Tensor]:
  """Returns the tensors of a snapshot by name, such as `conv1.weight`.

  Its datasets are `data/LAYER/0`, the weight, and `data/LAYER/1`, the bias.

  Raises:
    UserError: the file cannot be read, or is no snapshot of Caffe's.
  """
  import h5py

  try:
    with h5py.File(path, 'r') as file:
      layers = _child(file, 'data')
      if not isinstance(layers, h5py.Group):
        raise ValueError("no group 'data'")
      return {
        f'{printable(layer[:200])}.{_KINDS.get(number, number)}': _tensor(
          path, f'data/{layer}/{number}', blob
        )
        for layer in layers
        for number, blob in _blobs(layers, layer)
      }
  except UserError:
    raise
  except Exception as error:  # A file may cause any exception.
    raise UserError(
      f'{path} is HDF5, but truncated or not a .caffemodel.h5: '
      f'{one_line(error)[:160]}'
    ) from error


def _blobs(layers: Any, name: str) -> list[tuple[str, Any]]:
  layer = _child(layers, name)
  return [(number, _child(layer, number)) for number in layer]


def _child(group: Any, name: str) -> Any:
  """Returns a member of a group; links might lead to other files."""
  import h5py

  if not isinstance(group.get(name, getlink=True), h5py.HardLink):
    raise ValueError(f'{group.name}/{name} is missing, or a link')
  return group[name]


def _tensor(path: str, name: str, blob: Any) -> Tensor:
  import h5py

  if (
    not isinstance(blob, h5py.Dataset)
    or blob.dtype.kind != 'f'
    or blob.is_virtual
    or blob.external
  ):
    raise ValueError(f'{name} does not hold floats')
  if blob.nbytes > os.path.getsize(path):
    raise ValueError(f'{name} claims the shape {blob.shape}')
  shape = _shape(blob.shape)
  return Tensor(shape, functools.partial(_values, path, name, shape))


def _shape(shape: Shape) -> Shape:
  """A blob's shape; those of old networks have four dimensions.

  Example:
    >>> _shape((1, 1, 10, 4096)), _shape((1, 1, 1, 10)), _shape((96, 3, 11, 11))
    ((10, 4096), (10,), (96, 3, 11, 11))
  """
  if len(shape) == 4 and shape[:2] == (1, 1):
    return shape[3:] if shape[2] == 1 else shape[2:]
  return shape


def _values(path: str, name: str, shape: Shape) -> np.ndarray:
  import h5py

  with h5py.File(path, 'r') as file, np.errstate(over='ignore'):
    return np.asarray(file[name][()], np.float32).reshape(shape)
