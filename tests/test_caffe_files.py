"""Caffe's weights: protobuf, HDF5 and dicts of NumPy arrays."""

import io
import pickle

import caffe_encoder
import h5py
import numpy as np
import pytest
from converting import Malicious, python2_npy, refuse

from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained import (
  caffe,
  caffe_protobuf,
  conversion,
  formats,
  numpy_pickle,
)
from alexnet_jax.pretrained.layouts import source_shapes, to_params

CLASSES = 10


@pytest.fixture(scope='module')
def weights():
  """Weights of `caffe` in Caffe's layout; most repeat a few values."""
  rng = np.random.default_rng(0)
  values = rng.standard_normal(4096 * 9216, np.float32)
  return {
    layer: (values[: np.prod(weight)].reshape(weight), values[: bias[0]])
    for layer, (weight, bias) in source_shapes(
      ALEXNETS['caffe'], CLASSES
    ).items()
  }


def check_same(found, weights):
  expected = to_params(ALEXNETS['caffe'], weights, bgr=True)
  assert set(found) == set(expected)
  for layer, leaves in expected.items():
    for kind, array in leaves.items():
      np.testing.assert_array_equal(found[layer][kind], array)


def renamed(weights, name):
  return {name if k == 'fc8' else k: v for k, v in weights.items()}


def write_hdf5(path, weights, shape_of=np.shape):
  """A snapshot as Caffe writes it: layers without blobs are empty groups."""
  with h5py.File(path, 'w') as file:
    file.create_group('data/relu1')
    for layer, arrays in weights.items():
      for i, array in enumerate(arrays):
        file[f'data/{layer}/{i}'] = np.reshape(array, shape_of(array))


def test_hdf5(tmp_path, weights):
  path = tmp_path / 'net.caffemodel.h5'
  write_hdf5(path, renamed(weights, 'fc8_flickr'))
  refuse(tmp_path, path, match='add --architecture=caffe or')
  converted = conversion.read(
    str(path), conversion.Options(architecture='caffenet')
  )
  assert converted.network == 'caffenet'
  assert converted.notes[0] == 'last layer: fc8_flickr, 10 outputs'
  check_same(converted.params, weights)


def test_old_hdf5(tmp_path):
  """Of networks whose blobs had four dimensions."""
  path = tmp_path / 'net'
  write_hdf5(
    path,
    {'fc8': (np.ones((10, 4096)), np.ones(10))},
    lambda a: (1,) * (4 - a.ndim) + a.shape,
  )
  tensors = caffe.read(str(path), formats.kind_of(str(path)), 'caffe').tensors
  assert {name: tensor.shape for name, tensor in tensors.items()} == {
    'fc8.weight': (10, 4096),
    'fc8.bias': (10,),
  }
  assert tensors['fc8.weight'].read().shape == (10, 4096)


def test_wrong_hdf5(tmp_path, little):
  path = tmp_path / 'net.h5'
  caffe_is = '--architecture=caffe'
  write_hdf5(path, little)
  refuse(tmp_path, path, caffe_is, match='conv1.weight: expected')
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  refuse(tmp_path, path, caffe_is, match='truncated')

  def with_member(make):
    with h5py.File(path, 'w') as file:
      make(file)

  cases = (
    (lambda f: f.create_group('model_weights'), 'data is missing'),
    (lambda f: f.create_dataset('data', data=[1.0]), "no group 'data'"),
    (
      lambda f: f.create_dataset('data/conv1/0', data=[1]),
      'data/conv1/0 does not hold floats',
    ),
    (
      lambda f: f.create_dataset(
        'data/conv1/0', (10**9, 9), 'f4', chunks=(9, 9)
      ),
      'claims the shape',
    ),
    (
      lambda f: f.create_group('data').update(
        {'conv1': h5py.ExternalLink('other.h5', '/data')}
      ),
      'or a link',
    ),
    (
      lambda f: f.create_dataset(
        'data/conv1/0', (9,), 'f4', external=[('other.bin', 0, 36)]
      ),
      'does not hold floats',
    ),
  )
  for make, match in cases:
    with_member(make)
    refuse(tmp_path, path, caffe_is, match=match)


def as_tensorflow(weights):
  """By layer, weight and bias as TensorFlow takes them, colors still BGR."""
  result = {}
  for layer, (weight, bias) in weights.items():
    if layer == 'fc6':
      # Rows of the maps, columns, channels.
      maps = weight.reshape(-1, 256, 6, 6).transpose(2, 3, 1, 0)
      kernel = maps.reshape(9216, 4096)
    else:
      kernel = np.moveaxis(weight, (0, 1), (-1, -2))
    result[layer] = [np.ascontiguousarray(kernel), bias]
  return result


def test_bvlc_alexnet_npy(tmp_path, weights):
  path = tmp_path / 'bvlc_alexnet.npy'
  path.write_bytes(python2_npy(as_tensorflow(weights)))
  converted = conversion.read(str(path))
  assert converted.network == 'caffe'
  check_same(converted.params, weights)


def test_a_dict_of_dicts(tmp_path, weights):
  """As caffe-tensorflow writes them, here by today's NumPy."""
  layers = {
    layer: {'weights': kernel, 'biases': bias.astype('>f8')}
    for layer, (kernel, bias) in as_tensorflow(weights).items()
  }
  np.save(tmp_path / 'caffenet.npy', layers, allow_pickle=True)
  path = str(tmp_path / 'caffenet.npy')
  refuse(tmp_path, path, match='add --architecture=caffe or')
  converted = conversion.read(path, conversion.Options('caffenet'))
  check_same(converted.params, weights)


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4])
def test_arrays_are_numpys(tmp_path, protocol):
  """NumPy's own unpickling is the reference."""
  arrays = [
    np.arange(6, dtype='f2').reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(3, 2)),
  ]
  path = tmp_path / 'in.pkl'
  path.write_bytes(pickle.dumps({'fc8': arrays}, protocol))
  network, tensors = numpy_pickle.read(str(path), formats.kind_of(str(path)))
  assert network == 'caffe'
  np.testing.assert_array_equal(tensors['fc8.weight'].read(), arrays[0].T)
  np.testing.assert_array_equal(tensors['fc8.bias'].read(), arrays[1])


class Calls:
  """Pickled as a call of a function with arguments."""

  def __init__(self, function, *args):
    self.args = function, args

  def __reduce__(self):
    return self.args


GLOBAL = b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n'
DTYPE = b'\x80\x02cnumpy\ndtype\n'


def test_pickles_that_are_not_arrays(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'in.npy'
  np.save(path, {'conv1': [Malicious()]}, allow_pickle=True)
  refuse(tmp_path, path, match='code, which is never run:.*getattr')
  for content, match in (
    ({'fc8': [np.array(['a'], object)] * 2}, 'fc8 is not a weight and a bias'),
    ({'fc8': [np.zeros(2)]}, 'fc8 is not a weight and a bias'),
    ({'fc8': 1}, 'fc8 is not a weight and a bias'),
    ({'fc8': [np.zeros(2, int)] * 2}, "an array of type 'i8'"),
    ({'fc8': [np.zeros(2, 'f4,f4')] * 2}, "an array of type 'V8'"),
    (Calls(np.frombuffer, b'1234'), 'never run: numpy.*frombuffer'),
    ([], 'does not hold a dict'),
  ):
    path.write_bytes(pickle.dumps(content, 4))
    refuse(tmp_path, path, match=match)
  np.save(path, np.zeros((3, 256, 256)))
  refuse(tmp_path, path, match='an array float64 .3, 256, 256., not a dict')
  for pickled, match in (
    # Attributes of what the names stand for cannot be set.
    (GLOBAL + b'}U\x01aK\x01sb.', 'TypeError'),
    (GLOBAL + b'N}U\x01aK\x01s\x86b.', 'TypeError'),
    (DTYPE + b'}U\x01aK\x01sb.', 'TypeError'),
    # Numbers for which C's unpickler would take all memory.
    (b'\x80\x02Nr\xff\xff\xff\xff.', 'does not hold a dict'),
    (b'\x80\x04\x8e' + b'\xff' * 7 + b'\x0f.', 'truncated or corrupt'),
    (b'\x80\x02K\x01Q.', 'never run: a persistent id'),
  ):
    path.write_bytes(pickled)
    refuse(tmp_path, path, match=match)
  complete = python2_npy({'fc8': [np.zeros((20, 30)), np.zeros(20)]})
  for size in (len(complete) - 1, len(complete) // 2, 9):
    path.write_bytes(complete[:size])
    refuse(tmp_path, path, match='truncated')


def test_a_renamed_last_layer(tmp_path, little):
  """The rest of the file does not fit, which is said of fc8's new name, too."""
  little['fc8'] = (np.zeros((20, 4096), np.float32), np.zeros(20, np.float32))
  tensors = {
    f'{layer}.{kind}': caffe.Tensor(array.shape, lambda: None)
    for layer, arrays in renamed(little, 'fc8_flickr').items()
    for kind, array in zip(('weight', 'bias'), arrays, strict=True)
  }
  found, notes = caffe.with_head(tensors)
  assert notes == ('last layer: fc8_flickr, 20 outputs',)
  assert found['fc8.weight'].shape == (20, 4096)
  # Two new layers, or one of another shape, are not taken.
  more = {**tensors, 'fc9.weight': tensors['fc7.weight']}
  assert caffe.with_head(more) == (more, ())
  other = {**tensors, 'fc8_flickr.weight': tensors['fc7.weight']}
  assert caffe.with_head(other) == (other, ())


def test_a_mean_image_in_numpys_format(tmp_path):
  mean_bgr = np.random.default_rng(2).uniform(90, 140, (3, 256, 256))
  np.save(tmp_path / 'mean.npy', mean_bgr)
  found = caffe.read_mean(str(tmp_path / 'mean.npy'))
  np.testing.assert_array_equal(
    found, mean_bgr.astype(np.float32).transpose(1, 2, 0)[..., ::-1]
  )


@pytest.fixture
def little():
  """Caffe layers of the right names, with only a few values each."""
  weights = {}
  for i in range(1, 9):
    name = f'conv{i}' if i < 6 else f'fc{i}'
    shape = (2, 2, 3, 3) if i < 6 else (2, 2)
    weights[name] = (np.zeros(shape, np.float32), np.zeros(2, np.float32))
  return weights


def test_wrong_caffe_shapes(tmp_path, little):
  source = tmp_path / 'in.caffemodel'
  source.write_bytes(caffe_encoder.caffemodel('caffe', little))
  refuse(
    tmp_path,
    source,
    match=r"'caffe': conv1.weight: expected \(96, 3, 11, 11\), found \(2, 2, 3",
  )
  refuse(
    tmp_path,
    source,
    '--architecture=caffenet',
    match='holds caffe, by the order of its layers, not caffenet',
  )
  refuse(tmp_path, source, '--architecture=torchvision', match='not torchvis')
  refuse(tmp_path, source, '--architecture=paper', match='invalid choice')


def test_absurd_sizes(tmp_path):
  messages = caffe_protobuf._messages()
  source = tmp_path / 'in.caffemodel'
  for dims in ((10**18,), (-96, 3, 11, 11), (96, 3, 11, 11), (2**40, 2**40)):
    net = messages['NetParameter']()
    layer = net.layer.add(name='conv1', type='Convolution')
    layer.blobs.add().shape.dim.extend(dims)
    source.write_bytes(net.SerializeToString())
    refuse(tmp_path, source, match='conv1.weight claims the shape .* holds 0')
  # A length of 2^62 bytes.
  source.write_bytes(b'\x12' + b'\xff' * 8 + b'\x3f' + b'abc')
  refuse(tmp_path, source, match='truncated')


def test_a_layer_twice(tmp_path):
  net = caffe_protobuf._messages()['NetParameter']()
  for layer in (net.layers.add(), net.layer.add()):
    layer.name = 'conv1'
    layer.blobs.add().shape.dim.append(1)
    layer.blobs[0].data.append(0)
  (tmp_path / 'in.caffemodel').write_bytes(net.SerializeToString())
  refuse(tmp_path, tmp_path / 'in.caffemodel', match=r'conv1.weight twice')


def test_weights_alone_need_the_architecture(tmp_path):
  net = caffe_protobuf._messages()['NetParameter']()
  blob = net.layer.add(name='conv1', type='Convolution').blobs.add()
  blob.shape.dim.append(1)
  blob.data.append(0)
  (tmp_path / 'in.caffemodel').write_bytes(net.SerializeToString())
  refuse(tmp_path, tmp_path / 'in.caffemodel', match='add --architecture=caffe')


def test_wrong_means(tmp_path, little):
  source = tmp_path / 'in.caffemodel'
  source.write_bytes(caffe_encoder.caffemodel('caffe', little))
  mean = tmp_path / 'mean.binaryproto'
  mean.write_bytes(caffe_encoder.binaryproto(np.zeros((3, 8, 8), np.float32)))
  refuse(tmp_path, source, f'--mean={mean}', match=r'\(3, 8, 8\)')
  refuse(tmp_path, source, '--mean=absent', match='absent')
  np.savez(tmp_path / 'mean.npz', a=np.zeros(1))
  (tmp_path / 'mean.npz').rename(tmp_path / 'several.npy')
  np.save(tmp_path / 'large.npy', np.full((3, 256, 256), 1e40))
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '<f8', 'fortran_order': False, 'shape': (10**12, 3)}
  )
  (tmp_path / 'claims.npy').write_bytes(header.getvalue())
  for name, match in (
    ('several', 'several arrays'),
    ('large', 'not finite'),
    ('claims', 'not a NumPy array'),
  ):
    path = tmp_path / f'{name}.npy'
    refuse(tmp_path, source, f'--mean={path}', match=match)
  np.save(tmp_path / 'mean.npy', np.array([Malicious()]), allow_pickle=True)
  refuse(
    tmp_path,
    source,
    f'--mean={tmp_path / "mean.npy"}',
    match='not a NumPy array',
  )
