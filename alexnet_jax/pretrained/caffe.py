"""Reads the weights and the mean image of Caffe's two AlexNets.

They are `caffe` (bvlc_alexnet) and `caffenet` (bvlc_reference_caffenet).
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet
from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained import caffe_hdf5, caffe_protobuf, numpy_pickle
from alexnet_jax.pretrained.tensors import Tensor, Weights

_LAYERS = ALEXNETS['caffe'].layer_names


def read(path: str, kind: str, architecture: str | None = None) -> Weights:
  """Reads the tensors of one of the two networks.

  Args:
    path: the file's.
    kind: 'protobuf' (a .caffemodel), 'hdf5' (Caffe's .caffemodel.h5), 'numpy'
      or 'pickle' (a dict of arrays, such as bvlc_alexnet.npy).
    architecture: 'caffe' or 'caffenet', needed only if the file does not say.

  Raises:
    UserError: the file cannot be read, or is not of this architecture.
  """
  found: str | None = None
  if kind == 'protobuf':
    found, tensors = _read_protobuf(path)
  elif kind == 'hdf5':
    tensors = caffe_hdf5.read(path)
  else:
    found, tensors = numpy_pickle.read(path, kind)
  network = _choose(path, found, architecture)
  tensors = {name: _of_one_output(name, t) for name, t in tensors.items()}
  tensors, notes = with_head(tensors)
  return Weights(path, network, tensors, notes)


def _of_one_output(name: str, tensor: Tensor) -> Tensor:
  """Returns a weight `[n]` as `[1, n]`: old blobs lose leading ones."""
  if not name.endswith('.weight') or len(tensor.shape) != 1:
    return tensor
  return Tensor((1, *tensor.shape), lambda: tensor.read()[None])


def _read_protobuf(path: str) -> tuple[str | None, dict[str, Tensor]]:
  """Reads a .caffemodel: the network, if it says which, and its tensors."""
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
  return network, tensors


def _choose(path: str, found: str | None, asked: str | None) -> str:
  """The network of a file, as the file or as the user says."""
  name = found or asked
  if name not in ('caffe', 'caffenet'):
    raise UserError(
      f'{path} does not say which network its weights belong to: add '
      '--architecture=caffe or --architecture=caffenet of alexnet_jax.convert'
    )
  if asked not in (None, name):
    raise UserError(
      f'{path} holds {name}, by the order of its layers, not {asked}: omit '
      '--architecture'
    )
  return name


def with_head(
  tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
  """Gives a fine-tuned network's last layer the name that it had before.

  Caffe's recipe for fine-tuning is to rename the layer that is to be learned
  anew.

  Args:
    tensors: of a file, by name.

  Returns:
    The tensors; and a line that says what was renamed, if anything was.

  Example:
    >>> values = lambda: np.zeros(0)
    >>> found, notes = with_head({
    ...   'fc8_flickr.weight': Tensor((20, 4096), values),
    ...   'fc8_flickr.bias': Tensor((20,), values)})
    >>> list(found), notes
    (['fc8.weight', 'fc8.bias'], ('last layer: fc8_flickr, 20 outputs',))
  """
  head, inputs = _LAYERS[-1], 4096
  others = {name.rpartition('.')[0] for name in tensors} - {*_LAYERS}
  if f'{head}.weight' in tensors or len(others) != 1:
    return dict(tensors), ()
  (other,) = others
  weight = tensors.get(f'{other}.weight')
  if not weight or len(weight.shape) != 2 or weight.shape[1] != inputs:
    return dict(tensors), ()
  renamed = {
    f'{head}.{name.rpartition(".")[2]}'
    if name.rpartition('.')[0] == other
    else name: tensor
    for name, tensor in tensors.items()
  }
  return renamed, (f'last layer: {other}, {weight.shape[0]} outputs',)


# The fields of `Preprocessing` that Caffe's networks need, with a mean color in
# place of the mean image.
PREPROCESSING: dict[str, Any] = {
  'resize': 'warp',
  'mean': np.asarray(imagenet.CAFFE_MEAN),
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
