"""Caffe's binary files: a network's layers with their weights, a mean image.

The few fields of caffe.proto that weights take, of both generations of layers
(V1: `layers`, until 2014, as the published AlexNets; V2: `layer`). Everything
else in a file is skipped.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from google.protobuf import (
  descriptor_pb2,
  descriptor_pool,
  message,
  message_factory,
)

from alexnet_jax.cli.errors import UserError

# Field of message: number, and type: a scalar's or another message's name.
_SCHEMA = {
  'BlobShape': {'dim': (1, 'int64')},
  'BlobProto': {
    'num': (1, 'int32'),
    'channels': (2, 'int32'),
    'height': (3, 'int32'),
    'width': (4, 'int32'),
    'data': (5, 'float'),
    'shape': (7, 'BlobShape'),
    'double_data': (8, 'double'),
  },
  'V1LayerParameter': {
    'name': (4, 'string'),
    'type': (5, 'int32'),
    'blobs': (6, 'BlobProto'),
  },
  'LayerParameter': {
    'name': (1, 'string'),
    'type': (2, 'string'),
    'blobs': (7, 'BlobProto'),
  },
  'NetParameter': {
    'name': (1, 'string'),
    'layers': (2, 'V1LayerParameter'),
    'layer': (100, 'LayerParameter'),
  },
}
_REPEATED = ('dim', 'data', 'double_data', 'blobs', 'layers', 'layer')
_V1_TYPES = {15: 'LRN', 17: 'Pooling'}
# Of protobuf: no message is larger.
_MAX_BYTES = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer of a network.

  Attributes:
    name: such as `conv1`.
    type: such as `LRN` (of V1, only those that tell two networks apart).
    blobs: its weights and bias, as messages; `to_array` reads one.
  """

  name: str
  type: str
  blobs: list[Any]


def read_layers(path: str) -> list[Layer]:
  """The layers of a .caffemodel, in order.

  Raises:
    UserError: it is no such file.
  """
  net = _parse('NetParameter', path)
  layers = [
    Layer(layer.name, _V1_TYPES.get(layer.type, str(layer.type)), layer.blobs)
    for layer in net.layers
  ]
  layers += [Layer(layer.name, layer.type, layer.blobs) for layer in net.layer]
  if not layers:
    raise UserError(f'{path} is no caffemodel: it has no layers')
  return layers


def shape_of(blob: Any) -> tuple[int, ...]:
  """A blob's shape; of old ones (`[1, 1, out, in]`) without leading ones."""
  old = ('num', 'channels', 'height', 'width')
  # As Caffe does: the old fields count where there are any.
  if any(blob.HasField(field) for field in old):
    return _without_ones(getattr(blob, field) for field in old)
  return tuple(blob.shape.dim)


def _without_ones(shape: Iterable[int]) -> tuple[int, ...]:
  dims = list(shape)
  while len(dims) > 1 and dims[0] == 1:
    dims.pop(0)
  return tuple(dims)


def count(blob: Any) -> int:
  """How many numbers a blob holds, whatever shape it claims."""
  return len(blob.data) or len(blob.double_data)


def to_array(blob: Any, shape: tuple[int, ...]) -> np.ndarray:
  """A blob's numbers, float32, of a shape of so many."""
  numbers = blob.data or blob.double_data
  return np.fromiter(numbers, np.float32, len(numbers)).reshape(shape)


def read_mean(path: str) -> np.ndarray:
  """A mean image, .binaryproto or .npy, as float32 `[H, W, 3]` RGB.

  Caffe's are `[3, 256, 256]` BGR.
  """
  if pathlib.Path(path).suffix == '.npy':
    try:
      # Mapped: a header may claim any size.
      mean = np.load(path, allow_pickle=False, mmap_mode='r')
    except Exception as error:  # Whatever is raised by what a file may hold.
      raise UserError(f'{path} (--mean) is no NumPy array: {error}') from error
    if not isinstance(mean, np.ndarray):
      mean.close()
      raise UserError(f'{path} (--mean) holds several arrays')
  else:
    blob = _parse('BlobProto', path)
    shape = _without_ones(shape_of(blob))
    if min(shape, default=0) < 1 or math.prod(shape) != count(blob):
      raise UserError(
        f'{path} (--mean): its shape is {shape}, but it holds {count(blob)} '
        'numbers'
      )
    mean = to_array(blob, shape)
  if mean.shape != (3, 256, 256) or mean.dtype.kind != 'f':
    raise UserError(
      f'{path} (--mean) is {mean.dtype} {mean.shape}, float (3, 256, 256) '
      'expected: imagenet_mean.binaryproto or ilsvrc_2012_mean.npy'
    )
  with np.errstate(over='ignore'):
    mean = np.asarray(mean.transpose(1, 2, 0)[..., ::-1], np.float32)
  if not np.isfinite(mean).all():
    raise UserError(f'{path} (--mean) holds numbers that are not finite')
  return mean


def _parse(name: str, path: str) -> Any:
  try:
    if pathlib.Path(path).stat().st_size > _MAX_BYTES:
      raise UserError(f'{path} is larger than any protobuf message (2 GiB)')
    parsed = _messages()[name]()
    parsed.ParseFromString(pathlib.Path(path).read_bytes())
  except OSError as error:
    raise UserError(f'cannot read {path}: {error}') from error
  except message.DecodeError as error:
    raise UserError(
      f'{path} is no Caffe {name}, or it is cut short: {error}'
    ) from error
  return parsed


@functools.cache
def _messages() -> dict[str, Any]:
  """Message classes by name."""
  package = 'alexnet_jax_caffe'
  file = descriptor_pb2.FileDescriptorProto(
    name=f'{package}.proto', package=package, syntax='proto2'
  )
  kinds = descriptor_pb2.FieldDescriptorProto
  for message_name, fields in _SCHEMA.items():
    described = file.message_type.add(name=message_name)
    for name, (number, kind) in fields.items():
      field = described.field.add(
        name=name,
        number=number,
        label=(
          kinds.LABEL_REPEATED if name in _REPEATED else kinds.LABEL_OPTIONAL
        ),
      )
      if kind in _SCHEMA:
        field.type = kinds.TYPE_MESSAGE
        field.type_name = f'.{package}.{kind}'
      else:
        field.type = getattr(kinds, f'TYPE_{kind.upper()}')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(
      pool.FindMessageTypeByName(f'{package}.{name}')
    )
    for name in _SCHEMA
  }
