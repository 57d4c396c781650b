"""What the tests of converted files share."""

import pathlib
import struct

import numpy as np
import pytest

from alexnet_jax import convert
from alexnet_jax.cli.errors import UserError
from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained import torchvision
from alexnet_jax.pretrained.layouts import source_shapes


class Malicious:
  """Would write a file where it is unpickled."""

  def __reduce__(self):
    return (pathlib.Path('pwned').touch, ())


def hollow_state_dict(num_classes):
  """torchvision's state dict, of tensors that take no memory."""
  import torch

  return {
    f'{torchvision.NAMES[layer]}.{kind}': torch.zeros(()).expand(shape)
    for layer, shapes in source_shapes(
      ALEXNETS['torchvision'], num_classes
    ).items()
    for kind, shape in zip(('weight', 'bias'), shapes, strict=True)
  }


def refuse(tmp_path, source, *more, match):
  """Converts a file, which must fail in one line and leave no files."""
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(UserError, match=match) as error:
    convert.main([str(source), str(tmp_path / 'converted'), *more])
  assert '\n' not in str(error.value)
  assert sorted(tmp_path.rglob('*')) == before
  assert not pathlib.Path('pwned').exists()


def python2_npy(layers):
  """A .npy as Python 2 and NumPy 1 write a dict of lists of float32 arrays.

  Written from the pickle protocol, without NumPy: strings are bytes there.
  """
  pairs = b''.join(
    _string(name) + b']' + b''.join(_array(a) + b'a' for a in arrays) + b's'
    for name, arrays in layers.items()
  )
  pickled = b'\x80\x02' + _state(b')', 'O8', b']}' + pairs + b'a') + b'.'
  header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
  return (
    b'\x93NUMPY\x01\x00' + struct.pack('<H', 118) + header + b'\n' + pickled
  )


def _string(text):
  return b'U' + bytes([len(text)]) + text.encode()


def _array(array):
  content = np.asarray(array, '<f4').tobytes()
  dims = b''.join(b'J' + struct.pack('<i', size) for size in array.shape)
  content = b'T' + struct.pack('<I', len(content)) + content
  return _state(b'(' + dims + b't', 'f4', content)


def _state(shape, dtype, content):
  """An array of this shape: `_reconstruct`, then its state."""
  new = (
    b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b'
  )
  order = '|' if dtype == 'O8' else '<'
  made = b'cnumpy\ndtype\n' + _string(dtype) + b'K\x00K\x01\x87R(K\x03'
  made += _string(order) + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
  return new + b'\x87R(K\x01' + shape + made + b'\x89' + content + b'tb'
