"""Reads PyTorch's files, and never runs what they hold."""

import os
import re
import warnings
import zipfile
from typing import Any

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import one_line, printable
from alexnet_jax.pretrained.tensors import Tensor


class _Inert:
  """Takes the place of an object that lies beside the weights."""

  def __new__(cls, *_, **__):
    return super().__new__(cls)

  def __setstate__(self, state: Any) -> None:
    pass


# Objects that training scripts save beside the weights. They are not needed, so
# nothing of them is made.
_BESIDE = (
  'argparse.Namespace',
  'types.SimpleNamespace',
  'pathlib.Path',
  'pathlib.PosixPath',
  'pathlib.WindowsPath',
  'pathlib._local.PosixPath',
  'pathlib._local.WindowsPath',
  'datetime.date',
  'datetime.datetime',
  'datetime.timedelta',
  'numpy.dtype',
  'numpy.ndarray',
  'numpy.core.multiarray.scalar',
  'numpy.core.multiarray._reconstruct',
  'numpy._core.multiarray.scalar',
  'numpy._core.multiarray._reconstruct',
)


def read(path: str, kind: str) -> Any:
  """Returns what a file holds.

  Args:
    path: the file's.
    kind: 'torch' or 'safetensors'; see `formats.kind_of`.

  Raises:
    UserError: the file is corrupt, or holds code; the message names it.
  """
  import_module('torch')
  try:
    if kind == 'safetensors':
      return import_module('safetensors.torch').load_file(path)
    return _load(path)
  except UserError:
    raise
  except Exception as error:  # A file may cause any exception.
    code = re.search(r'GLOBAL (\S+)', str(error))
    if code or 'TorchScript' in str(error):
      name = printable(code[1])[:200] if code else 'TorchScript'
      raise UserError(
        f'{path} holds code, which is never run: {name}. Save '
        'model.state_dict() alone'
      ) from error
    reason = one_line(str(error).strip().split('\n')[0][:160])
    raise UserError(
      f'{path} cannot be read as a dict of tensors: it is truncated or corrupt '
      f'({type(error).__name__}: {reason})'
    ) from error


def _load(path: str) -> Any:
  import torch

  # A file and not a path, because PyTorch looks at the end of a path. Strings
  # of Python 2 are bytes, and latin1 decodes any.
  with (
    open(path, 'rb') as file,
    warnings.catch_warnings(action='ignore'),
    torch.serialization.safe_globals([(_Inert, name) for name in _BESIDE]),
  ):
    if zipfile.is_zipfile(file):
      _check_zip(path)
    file.seek(0)
    return torch.load(
      file, map_location='cpu', weights_only=True, encoding='latin1'
    )


def _check_zip(path: str) -> None:
  """Refuses programs and zip bombs: PyTorch stores without compression."""
  with zipfile.ZipFile(path) as file:
    entries = file.infolist()
  if any(entry.filename.split('/')[1:2] == ['code'] for entry in entries):
    raise ValueError('TorchScript')
  expanded = sum(entry.file_size for entry in entries)
  if expanded > os.path.getsize(path):
    raise ValueError(f'it would expand to {expanded} bytes')


def to_tensor(tensor: Any, name: str, path: str) -> Tensor:
  """Returns PyTorch's tensor as one whose values are checked when read.

  Args:
    tensor: PyTorch's.
    name: its name, for error messages.
    path: the file's.

  Raises:
    UserError: it has no shape, because it is nested.
  """
  if tensor.is_nested:
    raise UserError(f'{path}: {name} is nested, expected a dense float tensor')

  def values() -> np.ndarray:
    import torch

    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    if (
      tensor.dtype not in floats
      or tensor.layout != torch.strided
      or tensor.is_meta
    ):
      raise UserError(
        f'{path}: {name} is {tensor.dtype}, expected a dense float tensor'
      )
    # An expanded tensor may claim any size.
    if tensor.numel() * tensor.element_size() > os.path.getsize(path):
      raise UserError(
        f'{path}: {name} claims the shape {tuple(tensor.shape)}, larger than '
        'the file'
      )
    return tensor.detach().float().resolve_neg().numpy()

  return Tensor(tuple(tensor.shape), values)


def import_module(name: str) -> Any:
  """Returns PyTorch or safetensors.

  Raises:
    UserError: it is not installed.
  """
  try:
    return __import__(name, fromlist=['_'])
  except ImportError as error:
    raise UserError(
      f'{name} is required but not installed: make venv EXTRAS=convert, or pip '
      'install torch safetensors'
    ) from error
