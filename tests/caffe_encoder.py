"""Writes Caffe's model files in the protobuf wire format, without protobuf.

The field numbers are those of BVLC Caffe's caffe.proto, and fields are written
in the order of their numbers, as protobuf does. With weights of the published
shapes, version 1 gives files of the published sizes: 243,862,414 bytes
(bvlc_alexnet) and 243,862,418 bytes (bvlc_reference_caffenet).
"""

import struct

import numpy as np

Chunks = list[bytes]

NET_NAMES = {'caffe': 'AlexNet', 'caffenet': 'CaffeNet'}
BLOCKS = {
  'caffe': 'conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2',
  'caffenet': 'conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2',
}
REST = 'conv3 relu3 conv4 relu4 conv5 relu5 pool5 '
REST += 'fc6 relu6 drop6 fc7 relu7 drop7 fc8'
# name: (pad, group, stride); the defaults 0 and 1 are not written, as in the
# published files
CONVOLUTIONS = {'conv1': (0, 1, 4), 'conv2': (2, 2, 1), 'conv3': (1, 1, 1)}
CONVOLUTIONS |= {'conv4': (1, 2, 1), 'conv5': (1, 2, 1)}
NON_ZERO_BIASES = ('conv2', 'conv4', 'conv5', 'fc6', 'fc7')
# layer name without its number: type, V1LayerParameter.LayerType, and the field
# of its parameters in V1LayerParameter and in LayerParameter (0: none)
KINDS = {
  'data': ('Data', 5, 11, 107),
  'conv': ('Convolution', 4, 10, 106),
  'relu': ('ReLU', 18, 0, 0),
  'norm': ('LRN', 15, 18, 118),
  'pool': ('Pooling', 17, 19, 121),
  'fc': ('InnerProduct', 14, 17, 117),
  'drop': ('Dropout', 6, 12, 108),
  'loss': ('SoftmaxWithLoss', 21, 0, 0),
}
# network: training data and mean file, as long as in the published files
SOURCES = {
  'caffe': 'ilsvrc12_train_leveldb',
  'caffenet': '/data/imagenet/ilsvrc12-leveldb',
}
MEANS = {
  'caffe': '../../data/ilsvrc12/imagenet_mean.binaryproto',
  'caffenet': '/data/imagenet/ilsvrc12mean.binaryproto',
}


def _varint(value: int) -> bytes:
  """Encodes a non-negative integer as a base 128 varint."""
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)


def _key(field: int, wire_type: int) -> bytes:
  """Encodes the key that precedes every field."""
  return _varint(field << 3 | wire_type)


def _uint(field: int, value: int) -> Chunks:
  """Encodes an integer, bool or enum field (wire type 0)."""
  return [_key(field, 0) + _varint(value)]


def _float(field: int, value: float) -> Chunks:
  """Encodes a float field (wire type 5)."""
  return [_key(field, 5) + struct.pack('<f', value)]


def _message(field: int, chunks: Chunks) -> Chunks:
  """Encodes a length-delimited field (wire type 2) of the joined chunks."""
  return [_key(field, 2) + _varint(sum(map(len, chunks))), *chunks]


def _string(field: int, value: str) -> Chunks:
  """Encodes a string field (wire type 2)."""
  return _message(field, [value.encode()])


def _floats(field: int, values: np.ndarray, packed: bool) -> Chunks:
  """Encodes repeated floats, packed or as one fixed32 field per value."""
  flat = np.asarray(values, '<f4').ravel()
  if packed:
    return _message(field, [flat.tobytes()])
  key = _key(field, 5)
  records = np.empty(flat.size, [('key', f'S{len(key)}'), ('value', '<f4')])
  records['key'] = key
  records['value'] = flat
  return [records.tobytes()]


def _blob(
  values: np.ndarray, shape: tuple[int, ...], legacy: bool, packed: bool
) -> Chunks:
  """Encodes a BlobProto; legacy shapes are padded with leading ones."""
  data = _floats(5, values, packed)
  if not legacy:
    return data + _message(7, _message(1, [_varint(dim) for dim in shape]))
  out = []
  for field, dim in enumerate((1,) * (4 - len(shape)) + shape, 1):
    out += _uint(field, dim)
  return out + data


def _fillers(network: str, name: str, field: int) -> Chunks:
  """Encodes weight_filler in `field` and bias_filler in the next field."""
  bias = {'caffe': 0.1, 'caffenet': 1.0}[network]
  std = 0.005 if name in ('fc6', 'fc7') else 0.01
  weight_filler = _string(1, 'gaussian') + _float(6, std)
  bias_filler = _string(1, 'constant')
  bias_filler += _float(2, bias if name in NON_ZERO_BIASES else 0.0)
  return _message(field, weight_filler) + _message(field + 1, bias_filler)


def _params(
  network: str, name: str, arrays: list[np.ndarray], v1: bool
) -> Chunks:
  """Encodes the content of a layer's parameter message."""
  kind = name.rstrip('0123456789')
  if kind == 'data' and v1:  # source, mean_file, batch_size, crop_size, mirror
    out = _string(1, SOURCES[network]) + _string(3, MEANS[network])
    return out + _uint(4, 256) + _uint(5, 227) + _uint(6, 1)
  if kind == 'data':  # source, batch_size, backend (LMDB)
    return _string(1, SOURCES[network]) + _uint(4, 256) + _uint(8, 1)
  if kind == 'conv':
    pad, group, stride = CONVOLUTIONS[name]
    out = _uint(1, arrays[0].shape[0])
    out += _uint(3, pad) if pad else []
    out += _uint(4, arrays[0].shape[2])
    out += _uint(5, group) if group > 1 else []
    out += _uint(6, stride) if stride > 1 else []
    return out + _fillers(network, name, 7)
  if kind == 'fc':
    return _uint(1, arrays[0].shape[0]) + _fillers(network, name, 3)
  if kind == 'norm':  # local_size, alpha, beta
    return _uint(1, 5) + _float(2, 1e-4) + _float(3, 0.75)
  if kind == 'pool':  # pool (MAX), kernel_size, stride
    return _uint(1, 0) + _uint(2, 3) + _uint(3, 2)
  return _float(1, 0.5)  # dropout_ratio


def _layer(
  network: str,
  name: str,
  bottoms: list[str],
  tops: list[str],
  arrays: list[np.ndarray],
  v1: bool,
  packed: bool,
) -> Chunks:
  """Encodes a V1LayerParameter or LayerParameter."""
  kind, v1_type, *params = KINDS[name.rstrip('0123456789')]
  links = [c for bottom in bottoms for c in _string(2 if v1 else 3, bottom)]
  links += [c for top in tops for c in _string(3 if v1 else 4, top)]
  blobs = []
  for array in arrays:
    blobs += _message(6 if v1 else 7, _blob(array, array.shape, v1, packed))
  if v1:
    out = links + _string(4, name) + _uint(5, v1_type) + blobs
    if arrays:  # blobs_lr and weight_decay
      out += _float(7, 1) + _float(7, 2) + _float(8, 1) + _float(8, 0)
  else:
    out = _string(1, name) + _string(2, kind) + links
    if arrays:  # param: lr_mult and decay_mult
      out += _message(6, _float(3, 1) + _float(4, 1))
      out += _message(6, _float(3, 2) + _float(4, 0))
    out += blobs
    out += _message(8, _uint(1, 0)) if name == 'data' else []  # include TRAIN
    out += _uint(10, 0)  # phase TRAIN
    if name == 'data':  # transform_param: mirror, crop_size, mean_file
      transform = _uint(2, 1) + _uint(3, 227) + _string(4, MEANS[network])
      out += _message(100, transform)
  if field := params[0 if v1 else 1]:
    out += _message(field, _params(network, name, arrays, v1))
  return out


def caffemodel(
  network: str,
  weights: dict[str, tuple[np.ndarray, np.ndarray]],
  version: int = 1,
  packed: bool = True,
  include_data_layers: bool = True,
) -> bytes:
  """Encodes the NetParameter of a training net, as Caffe's solver saves it.

  Version 1 is the published files': V1LayerParameter, blobs of four dimensions,
  a loss without a top. Version 2 is that of later Caffe releases:
  LayerParameter, BlobShape, the phase in every layer. The arrays in `weights`
  have Caffe's layout.
  """
  if network not in NET_NAMES or version not in (1, 2):
    raise ValueError(f'no network {network!r} of version {version!r}')
  v1, bottoms = version == 1, []
  net = _string(1, NET_NAMES[network])
  for name in f'data {BLOCKS[network]} {REST} loss'.split():
    tops = bottoms if name.startswith(('relu', 'drop')) else [name]
    if name == 'data':
      tops = ['data', 'label']
    elif name == 'loss':
      bottoms, tops = [*bottoms, 'label'], [] if v1 else tops
    if include_data_layers or name not in ('data', 'loss'):
      arrays = weights[name] if name.startswith(('conv', 'fc')) else ()
      arrays = [np.asarray(array) for array in arrays]
      layer = _layer(network, name, bottoms, tops, arrays, v1, packed)
      net += _message(2 if v1 else 100, layer)
    bottoms = tops[:1]
  return b''.join(net)


def binaryproto(mean_bgr: np.ndarray, legacy: bool = True) -> bytes:
  """Encodes a mean image [channels, height, width] as a BlobProto, num 1."""
  mean_bgr = np.asarray(mean_bgr)
  shape = (1, *mean_bgr.shape)
  if len(shape) != 4:
    raise ValueError(f'a mean image of shape {mean_bgr.shape}')
  return b''.join(_blob(mean_bgr, shape, legacy, packed=True))
