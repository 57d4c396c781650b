"""Converts a file of weights to a network, or to a workdir."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import write_text
from alexnet_jax.data import imagenet
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import ALEXNETS, Architecture
from alexnet_jax.pretrained import caffe, formats, published, torchvision
from alexnet_jax.pretrained.layouts import Params, to_params
from alexnet_jax.pretrained.tensors import Weights, check_tensors
from alexnet_jax.runs.params import save_params

# The fields of `Preprocessing` that all published networks share.
IMAGENET: dict[str, Any] = {
  'dataset': None,
  'resize_size': 256,
  'flip': True,
  'lighting': 'none',
  'lighting_std': 0.1,
}


# Pixels; more are a mistake.
_MAX_CROP = 4096


class Options(NamedTuple):
  """What a file of weights does not say; None: the default.

  Attributes:
    architecture: 'caffe', 'caffenet' or 'torchvision'; needed for files of
      Caffe's weights that do not have all layers.
    key: keys that lead to the state dict, joined by dots; needed if a file has
      several networks.
    class_names: in the order of the outputs. Default: ImageNet's synsets for a
      published file, otherwise unknown.
    mean: three grey levels, RGB, or the path of Caffe's mean image. Default:
      the mean color of ImageNet, as the network's authors give it.
    std: three grey levels, RGB.
    crop_size: side of the network's input, in pixels.
  """

  architecture: str | None = None
  key: str | None = None
  class_names: Sequence[str] | None = None
  mean: str | Sequence[float] | None = None
  std: Sequence[float] | None = None
  crop_size: int | None = None


DEFAULT = Options()


class Converted(NamedTuple):
  """A network from a file of weights.

  Attributes:
    network: its name, such as `torchvision`.
    params: its parameters, float32.
    preprocessing: how an image becomes its input.
    config: the content of a workdir's config.json.
    notes: what was chosen and what is not known, as lines for the user.
  """

  network: str
  params: Params
  preprocessing: Preprocessing
  config: dict[str, Any]
  notes: tuple[str, ...]


def read(source: str, options: Options = DEFAULT) -> Converted:
  """Reads a file of weights, whose format is found by its content.

  Args:
    source: the path of a local file: a state dict of torchvision's AlexNet
      (PyTorch or safetensors), or one of Caffe's two networks (protobuf, HDF5
      or a NumPy dict of arrays).
    options: what the file does not say.

  Raises:
    UserError: the file cannot be read, or the weights do not fit the network.

  Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'page.html')
    >>> _ = path.write_text('<html>not found</html>')
    >>> try:
    ...   read(str(path))
    ... except UserError as error:
    ...   print(str(error).partition('page.html ')[2][:40])
    is truncated, or not a file of weights i
  """
  weights = _read_weights(source, options)
  network = ALEXNETS[weights.network]
  is_caffe = network.name != 'torchvision'
  layers = {layer: layer for layer in network.layer_names}
  names = layers if is_caffe else torchvision.NAMES
  # Before the values are read, which takes longer.
  preprocessing = _preprocessing(network, options)
  checked = check_tensors(weights.place, network, weights.tensors, names)
  params = to_params(network, checked, bgr=is_caffe)
  num_classes = len(params[network.layer_names[-1]]['bias'])
  class_names = _class_names(source, num_classes, options)
  notes = [*weights.notes]
  if not class_names:
    notes.append(
      'the file does not name its classes: convert it with --class_names=FILE'
    )
  if is_caffe and options.mean is None:
    notes.append(
      f'without --mean, the mean color {imagenet.CAFFE_MEAN} is subtracted; '
      'the published errors need the mean image (imagenet_mean.binaryproto)'
    )
  return Converted(
    network.name,
    params,
    dataclasses.replace(preprocessing, class_names=class_names),
    {
      'model': {'name': network.name, 'num_classes': num_classes},
      'converted_from': pathlib.Path(source).name,
    },
    tuple(notes),
  )


def _read_weights(source: str, options: Options) -> Weights:
  """Reads the tensors, and refuses options that are for other formats."""
  kind = formats.kind_of(source)
  asked = options.architecture
  if kind in ('torch', 'safetensors'):
    if asked not in (None, 'torchvision'):
      raise UserError(
        f'{source} is a state dict: it holds torchvision, not {asked} '
        '(--architecture)'
      )
    if isinstance(options.mean, str):
      raise UserError(
        f"--mean={options.mean} is for Caffe's networks: a state dict takes "
        'R,G,B'
      )
    return torchvision.read(source, kind, options.key)
  if options.key is not None:
    raise UserError(f'--key={options.key} is for state dicts, not for {source}')
  return caffe.read(source, kind, asked)


def _class_names(
  source: str, num_classes: int, options: Options
) -> tuple[str, ...]:
  """The names of the outputs, or none if they are not known."""
  synsets = tuple(imagenet.synsets())
  if options.class_names is None:
    known = num_classes == len(synsets) and published.is_published(source)
    return synsets if known else ()
  names = tuple(options.class_names)
  if len(names) != num_classes:
    raise UserError(
      f'{len(names)} class names (--class_names), but {source} has '
      f'{num_classes} outputs'
    )
  if '' in names or len(set(names)) < len(names):
    twice = next(name for name in names if not name or names.count(name) > 1)
    raise UserError(
      f'the class name {twice!r} (--class_names) is empty or there twice'
    )
  return names


def _preprocessing(network: Architecture, options: Options) -> Preprocessing:
  """How an image becomes the network's input; without class names."""
  is_caffe = network.name != 'torchvision'
  fields = dict(caffe.PREPROCESSING if is_caffe else torchvision.PREPROCESSING)
  if isinstance(options.mean, str):
    fields['mean'] = caffe.read_mean(options.mean)
  elif options.mean is not None:
    fields['mean'] = np.asarray(options.mean, np.float64)
  if options.std is not None:
    fields['std'] = np.asarray(options.std, np.float64)
  crop_size = network.input_size
  if options.crop_size is not None:
    crop_size = options.crop_size
    _check_crop_size(network, crop_size)
  resize_size = IMAGENET['resize_size']
  if not is_caffe and crop_size not in (224, 227):
    resize_size = round(crop_size * 256 / 224)
  try:
    return Preprocessing(
      **{**IMAGENET, 'resize_size': resize_size},
      **fields,
      crop_size=crop_size,
      class_names=(),
    )
  except ValueError as error:
    raise UserError(f'mean, std or crop_size is not valid: {error}') from error


def _check_crop_size(network: Architecture, size: int) -> None:
  """Refuses images whose maps are not those that the first dense layer takes.

  torchvision's network averages its maps, so it takes any size that leaves any.
  """
  maps = network.spatial_size(size) if size > 0 else 0
  if network.name == 'torchvision':
    if not maps:
      raise UserError(
        f'--crop_size={size}: the network {network.name!r} takes at least '
        f'{network.min_input_size} pixels'
      )
    if size > _MAX_CROP:
      raise UserError(f'--crop_size={size} must be at most {_MAX_CROP}')
  elif (
    maps != network.spatial_size(network.input_size)
    or size > IMAGENET['resize_size']
  ):
    raise UserError(
      f'--crop_size={size}: the weights of {network.name!r} fit its fc6 at '
      f'{network.input_size} pixels'
    )


def check_new(dest: epath.Path) -> None:
  """Checks that a workdir can be made: the folder is new or empty.

  Raises:
    UserError: it is not.
  """
  if os.path.islink(dest) or (
    dest.exists() and (not dest.is_dir() or any(dest.iterdir()))
  ):
    raise UserError(f'{dest} already exists: give a new folder as DEST')


def to_workdir(
  source: str, dest: epath.Path, options: Options = DEFAULT
) -> Converted:
  """Converts a file of weights to a new workdir.

  Args:
    source: the path of a local file; see `read`.
    dest: the workdir; a new or an empty folder.
    options: what the file does not say.

  Raises:
    UserError: the file cannot be read, or the weights do not fit the network;
      nothing was written.
    StorageError: the workdir cannot be written.
  """
  check_new(dest)
  converted = read(source, options)
  write_workdir(
    dest, converted.params, converted.config, converted.preprocessing
  )
  return converted


def write_workdir(
  dest: epath.Path,
  params: Params,
  config: dict[str, Any],
  preprocessing: Preprocessing,
) -> None:
  """Writes a complete workdir, or nothing.

  Args:
    dest: the folder; new or empty.
    params: the network's parameters.
    config: the content of config.json: `model`, and any other fields.
    preprocessing: how an image becomes the network's input.

  Raises:
    StorageError: it cannot be written.
  """
  # Renamed at the end, so that no incomplete workdir is ever seen.
  aside = dest.parent / f'.{dest.name}.tmp'
  try:
    if aside.exists():
      aside.rmtree()
    aside.mkdir(parents=True)
    save_params(aside, params)
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
