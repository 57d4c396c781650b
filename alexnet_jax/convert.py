"""Published weights in, ours out: `python -m alexnet_jax.convert SOURCE DEST`.

SOURCE is a torchvision state dict (.pth or .safetensors), a Caffe network
(.caffemodel), or a workdir. DEST is then a new workdir, which `main
--mode=eval`, `predict` and `--config.init_from` take; or, of a workdir, a
torchvision state dict. docs/networks.md has the commands for published files.

Exit status: 0 done; 2 the files do not go, and nothing was written; 3 storage.
"""

import contextlib
import functools
import json
import math
import os
import pathlib
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from alexnet_jax import pretrained
from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import absolute, write_file, write_text
from alexnet_jax.data import imagenet
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import ALEXNETS, Architecture
from alexnet_jax.pretrained import caffe_model
from alexnet_jax.pretrained.layouts import (
  Params,
  from_params,
  source_shapes,
  to_params,
)
from alexnet_jax.runs import checkpoint

# torchvision/models/alexnet.py.
_TORCHVISION_NAMES = {
  'conv1': 'features.0',
  'conv2': 'features.3',
  'conv3': 'features.6',
  'conv4': 'features.8',
  'conv5': 'features.10',
  'fc6': 'classifier.1',
  'fc7': 'classifier.4',
  'fc8': 'classifier.6',
}
_TORCH_SUFFIXES = ('.pth', '.pt', '.safetensors')


class Tensor(NamedTuple):
  """A tensor of a file: its shape, and its numbers when asked for.

  A shape is checked before it is believed: a file may claim any.
  """

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


# ---- Files in. ---------------------------------------------------------------


def read_torchvision(path: str) -> dict[str, Tensor]:
  """Tensors of a state dict by name; nothing in the file is ever run.

  Raises:
    UserError: it cannot be read as tensors alone.
  """
  torch = _import('torch')
  try:
    if pathlib.Path(path).suffix == '.safetensors':
      loaded = _import('safetensors.torch').load_file(path)
    else:
      _check_zip(path)
      with warnings.catch_warnings(action='ignore'):
        loaded = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # Whatever is raised by what a file may hold.
    reason = str(error).strip().split('\n')[0][:160]
    raise UserError(
      f'{path} cannot be read as a dict of tensors (cut short, or it holds '
      f'code, which is not run): {type(error).__name__}: {reason}'
    ) from error
  for wrapper in ('state_dict', 'model'):  # Of training scripts.
    if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
      loaded = loaded[wrapper]
  if not isinstance(loaded, Mapping) or not loaded:
    raise UserError(f'{path} holds a {type(loaded).__name__}, no state dict')
  tensors: dict[str, Tensor] = {}
  for full_name, tensor in loaded.items():
    # Of networks, or their `features` alone, that ran on several GPUs.
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
        f'{path}: {name} is {kind}, a dense float tensor expected'
      )
    # An expanded one may claim any size.
    if tensor.numel() * tensor.element_size() > os.path.getsize(path):
      raise UserError(
        f'{path}: {name} claims the shape {tuple(tensor.shape)}, more than the '
        'file holds'
      )
    tensors[name] = Tensor(
      tuple(tensor.shape), functools.partial(_as_numpy, tensor)
    )
  return tensors


def _check_zip(path: str) -> None:
  """PyTorch stores without compressing: what swells is no file of its."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as file:
      swollen = sum(entry.file_size for entry in file.infolist())
    if swollen > os.path.getsize(path):
      raise ValueError(f'it would swell to {swollen} bytes')


def _as_numpy(tensor: Any) -> np.ndarray:
  return tensor.detach().float().resolve_neg().numpy()


def read_caffe(path: str) -> tuple[str | None, dict[str, Tensor]]:
  """Which of the two networks a caffemodel holds, and its tensors by name.

  The two have the same shapes; what follows conv1 tells them apart. None where
  a file holds no layers but those with weights.
  """
  tensors: dict[str, Tensor] = {}
  network, current = None, ''
  for layer in caffe_model.read_layers(path):
    current = layer.name if layer.blobs else current
    if current == 'conv1' and network is None:
      network = {'LRN': 'caffe', 'Pooling': 'caffenet'}.get(layer.type)
    names = ('weight', 'bias', *map(str, range(2, len(layer.blobs))))
    for name, blob in zip(names, layer.blobs, strict=False):
      shape = caffe_model.shape_of(blob)
      if min(shape, default=0) < 1 or math.prod(shape) != caffe_model.count(
        blob
      ):
        raise UserError(
          f'{path}: {layer.name}.{name} claims the shape {shape}, but holds '
          f'{caffe_model.count(blob)} numbers'
        )
      if f'{layer.name}.{name}' in tensors:
        raise UserError(f'{path} has the tensor {layer.name}.{name} twice')
      tensors[f'{layer.name}.{name}'] = Tensor(
        shape,
        functools.partial(caffe_model.to_array, blob, shape),
      )
  return network, tensors


def check_tensors(
  path: str,
  architecture: Architecture,
  tensors: Mapping[str, Tensor],
  names: Mapping[str, str],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Weight and bias by layer, if they are all there and nothing else is.

  Args:
    path: of the file, for errors.
    architecture: the network that they should be of.
    tensors: of the file.
    names: what the file calls each layer.

  Raises:
    UserError: the first tensor that differs, with the two shapes.
  """
  head = tensors.get(f'{names[architecture.layer_names[-1]]}.weight')
  num_classes = (head.shape[0] if head and head.shape else 0) or 1000
  expected = {}
  for layer, shapes in source_shapes(architecture, num_classes).items():
    for kind, shape in zip(('weight', 'bias'), shapes, strict=True):
      expected[f'{names[layer]}.{kind}'] = shape
  for name in (*expected, *tensors):
    found = tensors[name].shape if name in tensors else 'absent'
    wanted = expected.get(name, 'none')
    if found != wanted:
      raise UserError(
        f'{path} is not of the network {architecture.name!r}: tensor {name} '
        f'is {found}, {wanted} expected'
      )
  arrays = {name: tensors[name].read() for name in expected}
  for name, array in arrays.items():
    if not np.isfinite(array).all():
      raise UserError(f'{path}: {name} holds numbers that are not finite')
  return {
    layer: (arrays[f'{names[layer]}.weight'], arrays[f'{names[layer]}.bias'])
    for layer in architecture.layer_names
  }


def _import(name: str) -> Any:
  try:
    return __import__(name, fromlist=['_'])
  except ImportError as error:
    raise UserError(
      f'{name} is needed and not installed: make venv EXTRAS=convert, or pip '
      "install 'alexnet_jax[convert]'"
    ) from error


# ---- Commands. ---------------------------------------------------------------


def to_workdir(
  source: str, dest: epath.Path, architecture: str | None, mean: str | None
) -> Params:
  """Converts a file to a workdir; see the module's docstring."""
  if os.path.islink(dest) or (
    dest.exists() and (not dest.is_dir() or any(dest.iterdir()))
  ):
    raise UserError(f'{dest} is there already: name a new folder')
  if pathlib.Path(source).suffix == '.caffemodel':
    found, tensors = read_caffe(source)
    name = _which_caffe(source, found, architecture)
    names = {layer: layer for layer in ALEXNETS[name].layer_names}
    image = caffe_model.read_mean(mean) if mean else None
    preprocessing = _caffe_preprocessing(image)
  else:
    name, names = 'torchvision', _TORCHVISION_NAMES
    if architecture not in (None, name):
      raise UserError(
        f'{source} is a state dict: of torchvision, not of {architecture} '
        '(--architecture)'
      )
    if mean:
      raise UserError(f'--mean={mean} is for .caffemodel files')
    tensors = read_torchvision(source)
    preprocessing = _torchvision_preprocessing()
  network = ALEXNETS[name]
  weights = check_tensors(source, network, tensors, names)
  params = to_params(network, weights, bgr=name != 'torchvision')
  num_classes = len(params[network.layer_names[-1]]['bias'])
  if num_classes == len(imagenet.synsets()):
    preprocessing['class_names'] = tuple(imagenet.synsets())
  _write_workdir(
    dest,
    params,
    {
      'model': {'name': name, 'num_classes': num_classes},
      'converted_from': pathlib.Path(source).name,
    },
    Preprocessing(**preprocessing),
  )
  print(
    f'{name}, {num_classes} classes, params_digest '
    f'{checkpoint.params_digest(params)}'
  )
  if 'caffe' in name and not mean:
    print(
      f'without --mean: the mean colour {imagenet.CAFFE_MEAN} is subtracted; '
      'the published errors take the mean image (imagenet_mean.binaryproto)'
    )
  print(f'converted: {dest}')
  return params


def _which_caffe(source: str, found: str | None, asked: str | None) -> str:
  if asked not in (None, 'caffe', 'caffenet'):
    raise UserError(
      f'{source} is a caffemodel: of caffe or caffenet, not of {asked} '
      '(--architecture)'
    )
  if found and asked and found != asked:
    raise UserError(
      f'{source} holds {found}, by the order of its layers, not {asked} '
      '(--architecture)'
    )
  name = found or asked
  if name is None:
    raise UserError(
      f'{source} does not tell which network its weights are of: add '
      '--architecture=caffe or --architecture=caffenet'
    )
  return name


def _caffe_preprocessing(mean_image: np.ndarray | None) -> dict[str, Any]:
  mean = imagenet.CAFFE_MEAN if mean_image is None else mean_image
  return {
    **_preprocessing('caffe'),
    'resize': 'warp',
    'mean': np.asarray(mean, np.float64),
    'mean_crop': 'same',
    'std': np.ones(3),
  }


def _torchvision_preprocessing() -> dict[str, Any]:
  return {
    **_preprocessing('torchvision'),
    'resize': 'short_side',
    'mean': np.asarray(imagenet.TORCHVISION_MEAN),
    'mean_crop': 'center',
    'std': np.asarray(imagenet.TORCHVISION_STD),
  }


def _preprocessing(name: str) -> dict[str, Any]:
  return {
    'dataset': None,
    'class_names': (),
    'resize_size': 256,
    'crop_size': ALEXNETS[name].input_size,
    'flip': True,
    'lighting': 'none',
    'lighting_std': 0.1,
  }


def _write_workdir(dest, params, config, preprocessing) -> None:
  """All of it or nothing: made aside, then renamed."""
  aside = dest.parent / f'.{dest.name}.tmp'
  try:
    if aside.exists():
      aside.rmtree()
    aside.mkdir(parents=True)
    checkpoint.save_params(aside, params)
    write_text(aside / 'config.json', json.dumps(config, indent=2))
    write_text(aside / 'preprocessing.json', preprocessing.to_json())
    if dest.exists():
      dest.rmdir()
    aside.rename(dest)
  except OSError as error:
    raise StorageError(f'cannot write {dest}: {error}') from error
  finally:
    with contextlib.suppress(OSError):
      if aside.exists():
        aside.rmtree()


def to_torchvision(source: epath.Path, dest: str, step: str) -> Params:
  """Converts a workdir's parameters to a torchvision state dict."""
  if pathlib.Path(dest).suffix not in _TORCH_SUFFIXES:
    raise UserError(
      f'{dest}: a state dict ends in one of {", ".join(_TORCH_SUFFIXES)}'
    )
  if not pathlib.Path(dest).absolute().parent.is_dir():
    raise UserError(f'no folder for {dest}')
  torch = _import('torch')
  network = pretrained.load(source, step)
  architecture, params = network.model.architecture, network.params
  if architecture.name != 'torchvision':
    raise UserError(
      f'{source} holds the network {architecture.name!r}: only torchvision '
      'goes into a torchvision state dict'
    )
  if network.dropout_scaling != 'train':
    raise UserError(
      f'{source} scales at test time (model.dropout_scaling), torchvision in '
      'training: the same weights would be another network'
    )
  weights = from_params(architecture, params)
  expected = source_shapes(architecture, network.model.num_classes)
  for layer, (weight, _) in weights.items():
    if weight.shape != expected[layer][0]:
      raise UserError(
        f'{source} was trained on crops of {network.preprocessing.crop_size} '
        f'pixels: {_TORCHVISION_NAMES[layer]}.weight is {weight.shape}, '
        f'{expected[layer][0]} expected'
      )
  state = {
    f'{_TORCHVISION_NAMES[layer]}.{kind}': torch.from_numpy(array.copy())
    for layer, pair in weights.items()
    for kind, array in zip(('weight', 'bias'), pair, strict=True)
  }
  if pathlib.Path(dest).suffix == '.safetensors':
    encoded = _import('safetensors.torch').save(state)
    write_file(dest, lambda file: file.write(encoded))
  else:
    write_file(dest, lambda file: torch.save(state, file))
  print(
    f'step {network.step}, params_digest {checkpoint.params_digest(params)}\n'
    f'converted: {dest}'
  )
  return params


def main(argv: list[str]) -> None:
  """Converts as the arguments say."""
  parser = Parser('convert', __doc__)
  parser.add_argument('source', metavar='SOURCE')
  parser.add_argument('dest', metavar='DEST')
  parser.add_argument(
    '--architecture',
    choices=sorted(ALEXNETS),
    help='caffe or caffenet, where a caffemodel does not tell',
  )
  parser.add_argument(
    '--mean',
    metavar='FILE',
    help="Caffe's mean image: imagenet_mean.binaryproto, or .npy",
  )
  parser.add_argument(
    '--step', default='best', help='of a workdir: best, latest or a number'
  )
  flags = parser.parse_args(argv)
  source = absolute(flags.source)
  if not source.exists():
    raise UserError(f'no file or folder {flags.source!r} (SOURCE)')
  if source.is_dir():
    if flags.mean or flags.architecture:
      raise UserError('--mean and --architecture are for files, not workdirs')
    to_torchvision(source, flags.dest, flags.step)
  elif source.suffix in (*_TORCH_SUFFIXES, '.tar', '.caffemodel'):
    to_workdir(
      str(source),
      absolute(flags.dest),
      flags.architecture,
      flags.mean,
    )
  else:
    raise UserError(
      f'{flags.source}: a workdir, or a file that ends in .caffemodel, .tar '
      f'or one of {", ".join(_TORCH_SUFFIXES)}'
    )


if __name__ == '__main__':
  run(main, sys.argv[1:])
