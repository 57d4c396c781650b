"""Reads Caffe's protobuf files.

Only the fields of caffe.proto that hold weights are read, for both generations
of layers: V1 (`layers`, until 2014; the published AlexNets are such files) and
V2 (`layer`). All other fields are skipped.
"""

import functools
import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import (
  descriptor_pb2,
  descriptor_pool,
  message,
  message_factory,
)

from alexnet_jax.cli.errors import UserError
from alexnet_jax.pretrained.tensors import Tensor

# Message: field: its number and its type, a scalar type or a message.
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
# What a file should be, for messages.
_MEANINGS = {
  'NetParameter': 'a file of weights in a known format: PyTorch (zip or '
  'pickle), safetensors, Caffe (protobuf or HDF5) or NumPy',
  'BlobProto': 'a mean image of Caffe (BlobProto)',
}
# Protobuf's limit for a message.
_MAX_BYTES = 2**31 - 1


class Layer(NamedTuple):
  """A layer of a network.

  Attributes:
    name: such as `conv1`.
    type: such as `LRN`; for V1 layers other than LRN and pooling, a number.
    blobs: its weight and bias as messages; see `to_tensor`.
  """

  name: str
  type: str
  blobs: list[Any]


def read_layers(path: str) -> list[Layer]:
  """Returns the layers of a .caffemodel, in order.

  Raises:
    UserError: the file cannot be read, is no .caffemodel or has no layers.
  """
  net = parse('NetParameter', path)
  layers = [
    Layer(layer.name, _V1_TYPES.get(layer.type, str(layer.type)), layer.blobs)
    for layer in net.layers
  ]
  layers += [Layer(layer.name, layer.type, layer.blobs) for layer in net.layer]
  if not layers:
    raise UserError(
      f'{path} is not {_MEANINGS["NetParameter"]}: it has no layers'
    )
  return layers


def to_tensor(blob: Any, name: str) -> Tensor:
  """Returns a blob as a tensor.

  Args:
    blob: a BlobProto message.
    name: the blob's, for error messages.

  Raises:
    UserError: the blob's shape is not that of the values that it holds.
  """
  shape = _shape(blob)
  values = blob.data or blob.double_data
  if min(shape, default=0) < 1 or math.prod(shape) != len(values):
    raise UserError(
      f'{name} claims the shape {shape}, but holds {len(values)} values'
    )
  return Tensor(
    shape,
    lambda: np.fromiter(values, np.float32, len(values)).reshape(shape),
  )


def _shape(blob: Any) -> tuple[int, ...]:
  """A blob's shape; old ones (`[1, 1, out, in]`) without leading ones."""
  old = ('num', 'channels', 'height', 'width')
  # As in Caffe, the old fields take precedence.
  if any(blob.HasField(field) for field in old):
    return without_leading_ones(getattr(blob, field) for field in old)
  return tuple(blob.shape.dim)


def without_leading_ones(shape: Iterable[int]) -> tuple[int, ...]:
  """Returns a shape without its leading ones.

  Example:
    >>> without_leading_ones((1, 3, 256, 256))
    (3, 256, 256)
  """
  dims = list(shape)
  while len(dims) > 1 and dims[0] == 1:
    dims.pop(0)
  return tuple(dims)


def parse(name: str, path: str) -> Any:
  """Returns the message of a file.

  Args:
    name: the message's type, such as `NetParameter`.
    path: the file's.

  Raises:
    UserError: the file cannot be read, or is no such message.
  """
  try:
    if pathlib.Path(path).stat().st_size > _MAX_BYTES:
      raise UserError(f'{path} exceeds the size of a protobuf message (2 GiB)')
    parsed = _messages()[name]()
    parsed.ParseFromString(pathlib.Path(path).read_bytes())
  except OSError as error:
    raise UserError(f'cannot read {path}: {error}') from error
  except message.DecodeError as error:
    raise UserError(f'{path} is truncated, or not {_MEANINGS[name]}') from error
  return parsed


@functools.cache
def _messages() -> dict[str, Any]:
  """Returns the message classes by name."""
  package = 'alexnet_jax_caffe'
  file = descriptor_pb2.FileDescriptorProto(
    name=f'{package}.proto', package=package, syntax='proto2'
  )
  kinds = descriptor_pb2.FieldDescriptorProto
  for message_name, fields in _SCHEMA.items():
    described = file.message_type.add(name=message_name)
    for name, (number, kind) in fields.items():
      label = 'REPEATED' if name in _REPEATED else 'OPTIONAL'
      field = described.field.add(
        name=name, number=number, label=f'LABEL_{label}'
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
