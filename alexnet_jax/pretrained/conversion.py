"""Converts a file of published weights to a workdir."""

import contextlib
import json
import os
import pathlib
from typing import Any

from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import write_text
from alexnet_jax.data import imagenet
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained import caffe, torchvision
from alexnet_jax.pretrained.layouts import Params, to_params
from alexnet_jax.pretrained.tensors import check_tensors
from alexnet_jax.runs.params import save_params

# The fields of `Preprocessing` that all published networks share.
IMAGENET: dict[str, Any] = {
  'dataset': None,
  'resize_size': 256,
  'flip': True,
  'lighting': 'none',
  'lighting_std': 0.1,
}


def to_workdir(
  source: str,
  dest: epath.Path,
  architecture: str | None = None,
  mean: str | None = None,
) -> tuple[str, Params]:
  """Converts a file of published weights to a new workdir.

  Args:
    source: a .caffemodel, or a torchvision state dict.
    dest: the workdir; a new or an empty folder.
    architecture: 'caffe' or 'caffenet', for a .caffemodel that does not say.
    mean: path of Caffe's mean image; the mean color is subtracted if None.

  Returns:
    The network's name and its parameters.

  Raises:
    UserError: the weights do not fit the network; nothing was written.
    StorageError: the workdir cannot be written.
  """
  if os.path.islink(dest) or (
    dest.exists() and (not dest.is_dir() or any(dest.iterdir()))
  ):
    raise UserError(f'{dest} already exists: give a new folder as DEST')
  if pathlib.Path(source).suffix == '.caffemodel':
    name, tensors = caffe.read(source, architecture)
    names = {layer: layer for layer in ALEXNETS[name].layer_names}
    fields = caffe.preprocessing(mean)
  else:
    name, names = 'torchvision', torchvision.NAMES
    fields = torchvision.PREPROCESSING
    if architecture not in (None, name):
      raise UserError(
        f'{source} is a state dict: it holds torchvision, not {architecture} '
        '(--architecture)'
      )
    if mean:
      raise UserError(f'--mean={mean} applies to .caffemodel files only')
    tensors = torchvision.read(source)
  network = ALEXNETS[name]
  weights = check_tensors(source, network, tensors, names)
  params = to_params(network, weights, bgr=name != 'torchvision')
  num_classes = len(params[network.layer_names[-1]]['bias'])
  known = num_classes == len(imagenet.synsets())
  write_workdir(
    dest,
    params,
    {
      'model': {'name': name, 'num_classes': num_classes},
      'converted_from': pathlib.Path(source).name,
    },
    Preprocessing(
      **IMAGENET,
      **fields,
      crop_size=network.input_size,
      class_names=tuple(imagenet.synsets()) if known else (),
    ),
  )
  return name, params


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
