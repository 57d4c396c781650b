"""Reads dicts of arrays that Python pickled, such as bvlc_alexnet.npy.

They are AlexNet's weights as TensorFlow takes them, which were converted from
Caffe's files: by layer, a list [weight, bias] (the University of Toronto's) or
a dict of `weights` and `biases` (caffe-tensorflow's).

A pickle is a program. `_Unpickler` runs it, but makes nothing of what it names:
the few names that arrays need stand for the classes below, which accept bytes,
a shape and a float type. All other names are refused.
"""

import functools
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any, NoReturn

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import one_line, printable
from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained.layouts import source_weight
from alexnet_jax.pretrained.tensors import Tensor


class _Dtype:
  """Stands for numpy.dtype: floats, or objects."""

  def __init__(self, name: str, *_: Any):
    if not isinstance(name, str) or not re.fullmatch(
      '[<>|=]?(f[248]|O8?)', name
    ):
      raise ValueError(f'an array of type {str(name)[:40]!r}')
    self.name, self.order = name.lstrip('<>|='), '='

  def __setstate__(self, state: Any) -> None:
    self.order = state[1] if state[1] in ('<', '>') else '='


class _Array:
  """Stands for numpy.ndarray, and for the function that makes one.

  Attributes:
    content: floats; or of an array of objects, a list.
  """

  def __init__(self, *_: Any):
    self.content: Any = None

  def __setstate__(self, state: Any) -> None:
    *_, shape, dtype, fortran, content = state
    if not isinstance(dtype, _Dtype):
      raise ValueError('an array without a type')
    if dtype.name.startswith('O'):
      self.content = content
      return
    if isinstance(content, str):  # Python 2's bytes.
      content = content.encode('latin1')
    flat = np.frombuffer(content, f'{dtype.order}{dtype.name}')
    self.content = flat.reshape(shape, order='F' if fortran else 'C')


class _Bytes(bytes):
  """Stands for _codecs.encode: bytes that protocol 2 writes as a string."""

  def __new__(cls, text: str, encoding: str = 'latin1', *_: Any):
    if encoding != 'latin1':
      raise ValueError(f'an encoding {encoding!r}')
    return super().__new__(cls, text, 'latin1')

  def __setstate__(self, state: Any) -> None:
    raise ValueError('bytes with a state')


# Classes alone, and each with a __setstate__: otherwise a pickle could set
# attributes of what it finds here.
_NAMES = {
  ('numpy', 'dtype'): _Dtype,
  ('numpy', 'ndarray'): _Array,
  ('numpy.core.multiarray', '_reconstruct'): _Array,
  ('numpy._core.multiarray', '_reconstruct'): _Array,
  ('_codecs', 'encode'): _Bytes,
}


class _Refused(Exception):
  """A pickle names something else; the message is the name."""


# Python's and not C's, whose memory depends on numbers in the file.
class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
  """Makes arrays, containers, strings and numbers."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns what stands for a name."""
    if (module, name) not in _NAMES:
      raise _Refused(f'{module}.{name}')
    return _NAMES[module, name]

  def persistent_load(self, pid: Any) -> NoReturn:
    """Refuses references to objects outside the file."""
    raise _Refused('a persistent id')


def read(path: str, kind: str) -> tuple[str | None, dict[str, Tensor]]:
  """Returns the network, if the file says which, and its tensors.

  Args:
    path: the file's.
    kind: 'numpy' (a .npy of one object), or 'pickle'.

  Returns:
    'caffe' for lists [weight, bias], which only bvlc_alexnet.npy has; and the
    tensors by name, such as `conv1.weight`, in the layout of Caffe.

  Raises:
    UserError: the file cannot be read, or holds something else.
  """
  layers = _load(path, kind)
  tensors: dict[str, Tensor] = {}
  for layer, pair in layers.items():
    name = printable(str(layer)[:200])
    if isinstance(pair, Mapping):
      arrays = [pair.get('weights'), pair.get('biases')]
    else:
      arrays = list(pair) if isinstance(pair, Sequence) else [pair]
    contents = [getattr(array, 'content', None) for array in arrays]
    found = [array for array in contents if isinstance(array, np.ndarray)]
    if len(found) != 2 or len(contents) != 2:
      raise UserError(f'{path}: {name} is not a weight and a bias')
    weight, bias = found
    axes = (3, 2, 0, 1) if weight.ndim == 4 else tuple(range(weight.ndim))[::-1]
    tensors[f'{name}.weight'] = Tensor(
      tuple(weight.shape[axis] for axis in axes),
      functools.partial(_weight, name, weight),
    )
    tensors[f'{name}.bias'] = Tensor(
      bias.shape, functools.partial(_floats, bias)
    )
  is_toronto = all(isinstance(pair, list) for pair in layers.values())
  return 'caffe' if is_toronto else None, tensors


def _load(path: str, kind: str) -> dict[Any, Any]:
  """Returns the dict of a file, whose arrays are `_Array`."""
  try:
    with open(path, 'rb') as file:
      if kind == 'numpy':
        _skip_header(file)
      loaded = _Unpickler(file, encoding='latin1').load()
  except _Refused as error:
    raise UserError(
      f'{path} holds code, which is never run: {printable(str(error))[:200]}. '
      'Give a file of arrays alone'
    ) from error
  except Exception as error:  # A file may cause any exception.
    raise UserError(
      f'{path} cannot be read as a dict of arrays: it is truncated or corrupt '
      f'({type(error).__name__}: {one_line(error)[:160]})'
    ) from error
  if isinstance(loaded, _Array) and isinstance(loaded.content, list):
    loaded = loaded.content[0] if len(loaded.content) == 1 else loaded
  if not isinstance(loaded, dict) or not loaded:
    raise UserError(f'{path} does not hold a dict of arrays by layer')
  return loaded


def _skip_header(file: IO[bytes]) -> None:
  """Reads the header of a .npy file up to the pickle of an object."""
  read_header = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }[np.lib.format.read_magic(file)]
  shape, _, dtype = read_header(file)
  if dtype.kind != 'O':
    raise ValueError(f'an array {dtype} {shape}, not a dict of arrays')


def _weight(layer: str, kernel: np.ndarray) -> np.ndarray:
  return source_weight(ALEXNETS['caffe'], layer, _floats(kernel))


def _floats(array: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):
    return np.asarray(array, np.float32)
