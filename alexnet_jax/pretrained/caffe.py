"""Reads the weights and the mean image of Caffe's two AlexNets.

They are `caffe` (bvlc_alexnet) and `caffenet` (bvlc_reference_caffenet).
"""

import pathlib
from typing import Any

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet
from alexnet_jax.pretrained import caffe_protobuf
from alexnet_jax.pretrained.tensors import Tensor


def read(
  path: str, architecture: str | None = None
) -> tuple[str, dict[str, Tensor]]:
  """Reads a .caffemodel.

  Args:
    path: the file's.
    architecture: 'caffe' or 'caffenet', needed only if the file holds no
      layers but those with weights.

  Returns:
    'caffe' or 'caffenet', and the tensors by name, such as `conv1.weight`.

  Raises:
    UserError: the file cannot be read, or is not of this architecture.
  """
  tensors: dict[str, Tensor] = {}
  # The two have the same shapes: what follows conv1 identifies the network.
  network, current = None, ''
  for layer in caffe_protobuf.read_layers(path):
    current = layer.name if layer.blobs else current
    if current == 'conv1' and network is None:
      network = {'LRN': 'caffe', 'Pooling': 'caffenet'}.get(layer.type)
    kinds = ('weight', 'bias', *map(str, range(2, len(layer.blobs))))
    for kind, blob in zip(kinds, layer.blobs, strict=False):
      name = f'{layer.name}.{kind}'
      tensor = caffe_protobuf.to_tensor(blob, f'{path}: {name}')
      if name in tensors:
        raise UserError(f'{path} has the tensor {name} twice')
      tensors[name] = tensor
  return _choose(path, network, architecture), tensors


def _choose(path: str, found: str | None, asked: str | None) -> str:
  """The network of a file, by the order of its layers or as the user says."""
  name = found or asked
  if name not in ('caffe', 'caffenet'):
    raise UserError(
      f'{path} does not say which network its weights belong to: add '
      '--architecture=caffe or --architecture=caffenet'
    )
  if asked not in (None, name):
    raise UserError(
      f'{path} holds {name}, by the order of its layers, not {asked}: omit '
      '--architecture'
    )
  return name


def preprocessing(mean: str | None) -> dict[str, Any]:
  """Returns the fields of `Preprocessing` that Caffe's networks need.

  Args:
    mean: path of the mean image; the mean color is subtracted if None.
  """
  return {
    'resize': 'warp',
    'mean': read_mean(mean) if mean else np.asarray(imagenet.CAFFE_MEAN),
    'mean_crop': 'same',
    'std': np.ones(3),
  }


def read_mean(path: str) -> np.ndarray:
  """Reads a mean image, .binaryproto or .npy.

  Args:
    path: the file's; Caffe's mean images are `[3, 256, 256]` BGR.

  Returns:
    float32 `[256, 256, 3]` RGB, in grey levels.

  Raises:
    UserError: the file cannot be read or holds something else.
  """
  if pathlib.Path(path).suffix == '.npy':
    try:
      # Mapped, because a header may claim any size.
      mean = np.load(path, allow_pickle=False, mmap_mode='r')
    except Exception as error:  # A file may cause any exception.
      raise UserError(
        f'{path} (--mean) is not a NumPy array: {error}'
      ) from error
    if not isinstance(mean, np.ndarray):
      mean.close()
      raise UserError(f'{path} (--mean) holds several arrays, not one')
  else:
    blob = caffe_protobuf.parse('BlobProto', path)
    mean = caffe_protobuf.to_tensor(blob, f'{path} (--mean)').read()
    mean = mean.reshape(caffe_protobuf.without_leading_ones(mean.shape))
  if mean.shape != (3, 256, 256) or mean.dtype.kind != 'f':
    raise UserError(
      f'{path} (--mean) is {mean.dtype} {mean.shape}, expected float '
      '(3, 256, 256): give imagenet_mean.binaryproto or ilsvrc_2012_mean.npy'
    )
  with np.errstate(over='ignore'):
    mean = np.asarray(mean.transpose(1, 2, 0)[..., ::-1], np.float32)
  if not np.isfinite(mean).all():
    raise UserError(f'{path} (--mean) holds values that are not finite')
  return mean
