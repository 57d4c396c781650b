"""Reads and writes state dicts of torchvision's AlexNet."""

import functools
import os
import pathlib
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.data import imagenet
from alexnet_jax.pretrained.layouts import from_params, source_shapes
from alexnet_jax.pretrained.loading import Pretrained, load
from alexnet_jax.pretrained.tensors import Tensor

SUFFIXES = ('.pth', '.pt', '.safetensors')

# Layer: its name in torchvision/models/alexnet.py.
NAMES = {
  'conv1': 'features.0',
  'conv2': 'features.3',
  'conv3': 'features.6',
  'conv4': 'features.8',
  'conv5': 'features.10',
  'fc6': 'classifier.1',
  'fc7': 'classifier.4',
  'fc8': 'classifier.6',
}

# The fields of `Preprocessing` that torchvision's weights need.
PREPROCESSING = {
  'resize': 'short_side',
  'mean': np.asarray(imagenet.TORCHVISION_MEAN),
  'mean_crop': 'center',
  'std': np.asarray(imagenet.TORCHVISION_STD),
}


def read(path: str) -> dict[str, Tensor]:
  """Reads the tensors of a state dict by name, and never runs code of the file.

  Raises:
    UserError: the file is not a dict of dense float tensors.
  """
  torch = _import('torch')
  try:
    if pathlib.Path(path).suffix == '.safetensors':
      loaded = _import('safetensors.torch').load_file(path)
    else:
      _check_zip(path)
      with warnings.catch_warnings(action='ignore'):
        loaded = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # A file may cause any exception.
    reason = str(error).strip().split('\n')[0][:160]
    raise UserError(
      f'{path} cannot be read as a dict of tensors: it is truncated, or holds '
      f'code, which is never run ({type(error).__name__}: {reason})'
    ) from error
  for wrapper in ('state_dict', 'model'):  # Training scripts add these.
    if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
      loaded = loaded[wrapper]
  if not isinstance(loaded, Mapping) or not loaded:
    raise UserError(
      f'{path} holds a {type(loaded).__name__}, expected a state dict'
    )
  tensors: dict[str, Tensor] = {}
  for full_name, tensor in loaded.items():
    # DataParallel adds `module.` to the network or to its `features`.
    name = str(full_name)[:200].replace('module.', '')
    if name in tensors:
      raise UserError(f'{path} has the tensor {name} twice')
    if (
      not isinstance(tensor, torch.Tensor)
      or tensor.dtype
      not in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
      or tensor.layout != torch.strided
      or tensor.is_nested
      or tensor.is_meta
    ):
      kind = getattr(tensor, 'dtype', type(tensor).__name__)
      raise UserError(
        f'{path}: {name} is {kind}, expected a dense float tensor'
      )
    # An expanded tensor may claim any size.
    if tensor.numel() * tensor.element_size() > os.path.getsize(path):
      raise UserError(
        f'{path}: {name} claims the shape {tuple(tensor.shape)}, larger than '
        'the file'
      )
    tensors[name] = Tensor(
      tuple(tensor.shape), functools.partial(_as_numpy, tensor)
    )
  return tensors


def _check_zip(path: str) -> None:
  """Refuses a zip bomb: PyTorch stores without compression."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as file:
      expanded = sum(entry.file_size for entry in file.infolist())
    if expanded > os.path.getsize(path):
      raise ValueError(f'it would expand to {expanded} bytes')


def _as_numpy(tensor: Any) -> np.ndarray:
  return tensor.detach().float().resolve_neg().numpy()


def write(path: str, workdir: epath.Path, step: str = 'best') -> Pretrained:
  """Writes a workdir's parameters as a state dict, bit for bit.

  Args:
    path: the new file's, which ends in one of `SUFFIXES`.
    workdir: a run or converted weights of the network `torchvision`.
    step: as for `load`.

  Returns:
    The network that was written.

  Raises:
    UserError: the network is not torchvision's, or not at its input size.
    StorageError: the file cannot be written.
  """
  torch = _import('torch')
  network = load(workdir, step)
  architecture = network.model.architecture
  if architecture.name != 'torchvision':
    raise UserError(
      f'{workdir} holds the network {architecture.name!r}: only torchvision '
      'can become a torchvision state dict'
    )
  if network.dropout_scaling != 'train':
    raise UserError(
      f'{workdir} scales at test time (model.dropout_scaling), but torchvision '
      'scales in training: the same weights would give another network'
    )
  weights = from_params(architecture, network.params)
  expected = source_shapes(architecture, network.model.num_classes)
  for layer, (weight, _) in weights.items():
    if weight.shape != expected[layer][0]:
      raise UserError(
        f'{workdir} was trained on crops of {network.preprocessing.crop_size} '
        f'pixels: {NAMES[layer]}.weight is {weight.shape}, expected '
        f'{expected[layer][0]}'
      )
  state = {
    f'{NAMES[layer]}.{kind}': torch.from_numpy(array.copy())
    for layer, pair in weights.items()
    for kind, array in zip(('weight', 'bias'), pair, strict=True)
  }
  if pathlib.Path(path).suffix == '.safetensors':
    encoded = _import('safetensors.torch').save(state)
    write_file(path, lambda file: file.write(encoded))
  else:
    write_file(path, lambda file: torch.save(state, file))
  return network


def _import(name: str) -> Any:
  try:
    return __import__(name, fromlist=['_'])
  except ImportError as error:
    raise UserError(
      f'{name} is required but not installed: make venv EXTRAS=convert, or pip '
      'install torch safetensors'
    ) from error
