"""Exported ONNX models in ONNX Runtime, compared with the networks."""

import dataclasses
import types

import pytest

pytest.importorskip(
  'onnxruntime', reason='NEEDS ONNX RUNTIME: make venv EXTRAS=test'
)

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime

from alexnet_jax import export
from alexnet_jax.cli.errors import UserError
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.ablations import ablated
from alexnet_jax.model.build import abstract_params
from alexnet_jax.model.layer_types import (
  LRN,
  AvgPool,
  Conv,
  Dense,
  SpatialLRN,
)
from alexnet_jax.pretrained import Pretrained, load
from alexnet_jax.pretrained.onnx_export import Graph, average_pool, to_onnx

NETWORKS = ('paper', 'krizhevsky2012', 'owt', 'caffe', 'caffenet',
            'torchvision', 'alexnet_bn', 'cifar10_relu',
            'cifar10_local')  # fmt: skip


def narrow(architecture):
  """The network with 64 units in fc6 and fc7, whose parameters are most."""
  return dataclasses.replace(
    architecture,
    layers=tuple(
      dataclasses.replace(layer, features=64)
      if isinstance(layer, Dense) and layer.features
      else layer
      for layer in architecture.layers
    ),
  )


def random_network(architecture, size=None, **options):
  """A network of ten classes, in which every layer, and LRN, matters."""
  size = size or architecture.input_size
  model = AlexNet(architecture, num_classes=10, **options)
  rng = np.random.default_rng(0)
  params = {}
  for name, shapes in abstract_params(model, size).items():
    if 'variance' in shapes:
      channels = shapes['variance'].shape
      params[name] = {
        'mean': rng.normal(0, 50, channels).astype(np.float32),
        'variance': rng.uniform(100, 900, channels).astype(np.float32),
      }
      continue
    kernel = shapes['kernel'].shape
    # The others: [rows, columns, in, out], and locally connected ones.
    shared = name.startswith('fc') or shapes['bias'].ndim == 1
    fan_in = np.prod(kernel[:-1]) if shared else kernel[-2]
    params[name] = {
      'kernel': rng.standard_normal(kernel, np.float32)
      * np.float32(np.sqrt(2 / fan_in)),
      'bias': rng.standard_normal(shapes['bias'].shape, np.float32),
    }
  preprocessing = types.SimpleNamespace(crop_size=size)
  return Pretrained(model, params, preprocessing, 0, 0, 'train')


def random_images(size):
  rng = np.random.default_rng(1)
  return rng.normal(0, 60, (3, size, size, 3)).astype(np.float32)


def outputs(exported, images):
  """Logits and probabilities in ONNX Runtime, one image at a time and all."""
  onnx.checker.check_model(exported, full_check=True)
  session = onnxruntime.InferenceSession(exported)
  one, _ = session.run(None, {'images': images[:1]})
  logits, probabilities = session.run(None, {'images': images})
  np.testing.assert_allclose(one, logits[:1], rtol=1e-5, atol=1e-5)
  return logits, probabilities


def check(network):
  """Compares both layouts with the network; returns the NHWC file."""
  images = random_images(network.preprocessing.crop_size)
  expected = jax.jit(network.model.apply)({'params': network.params}, images)
  exported = to_onnx(network)
  for file, given in (
    (exported, images),
    (to_onnx(network, 'NCHW'), images.transpose(0, 3, 1, 2)),
  ):
    logits, probabilities = outputs(file, given)
    assert logits.dtype == np.float32
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < 1e-5
    np.testing.assert_allclose(
      probabilities, jax.nn.softmax(logits), rtol=1e-4, atol=1e-6
    )
  return exported


@pytest.mark.parametrize('name', NETWORKS)
def test_onnx_runtime_agrees(name):
  check(random_network(narrow(ARCHITECTURES[name])))


@pytest.mark.long
def test_a_network_of_full_width_agrees():
  check(random_network(ARCHITECTURES['paper']))


def test_another_crop_size():
  """At 195 pixels maps are 5 x 5; torchvision averages its own to 6 x 6."""
  for name, side in (('owt', 5), ('torchvision', 6)):
    network = random_network(narrow(ARCHITECTURES[name]), size=195)
    assert network.params['fc6']['kernel'].shape == (side * side * 256, 64)
    check(network)


@pytest.mark.parametrize(
  ('name', 'ablations', 'dropout'),
  [
    ('paper', ['tanh', 'no_overlap'], {'scale_at': 'test', 'rate': 0.25}),
    ('krizhevsky2012', ['one_column'], {}),
    ('torchvision', ['no_groups'], {'scale_at': 'test'}),
  ],
)
def test_changed_networks(name, ablations, dropout):
  changed = ablated(narrow(ARCHITECTURES[name]), ablations)
  check(random_network(changed.with_dropout(**dropout), size=99))


def test_unusual_normalization():
  """An even patch, columns, and numbers that no network has."""
  architecture = dataclasses.replace(
    ARCHITECTURES['cifar10_relu'],
    layers=(
      Conv(12, kernel=4, stride=2, padding=(1, 3), then=(
        LRN(size=3, k=0.5, alpha=1e-2, beta=0.6, groups=3),
        SpatialLRN(size=4, k=1.5, alpha=1e-2, beta=0.7),
      )),
      Dense(),
    ),
  )  # fmt: skip
  check(random_network(architecture))


def test_normalization_matters_in_these_comparisons():
  network = random_network(narrow(ARCHITECTURES['krizhevsky2012']))
  images = random_images(224)
  logits, _ = outputs(to_onnx(network), images)
  arch = network.model.architecture
  for kind in (LRN, SpatialLRN):
    without = arch.with_ops(
      lambda op, kind=kind: None if isinstance(op, kind) else op
    )
    model = AlexNet(without, num_classes=10)
    others, _ = outputs(to_onnx(network._replace(model=model)), images)
    assert np.abs(logits - others).max() > 1e-2 * np.abs(logits).max()


def test_names():
  architecture = narrow(ARCHITECTURES['krizhevsky2012'])
  architecture = architecture.with_dropout(scale_at='test')
  graph = onnx.load_from_string(to_onnx(random_network(architecture))).graph
  assert graph.name == 'krizhevsky2012'
  names = [node.name for node in graph.node]
  assert [name for name in names if '/' not in name] == [
    'conv1', 'lrn1', 'pool1', 'relu1',
    'conv2', 'relu2', 'lrn2', 'lrn2_2', 'pool2',
    'conv3', 'relu3', 'conv4', 'relu4', 'conv5', 'pool5', 'relu5', 'flatten',
    'fc6', 'relu6', 'dropout6', 'fc7', 'relu7', 'dropout7', 'fc8',
    'probabilities',
  ]  # fmt: skip
  layers = [name for name in names if name.startswith(('conv', 'fc'))]
  assert {
    f'{name}/{part}' for name in layers for part in ('kernel', 'bias')
  } < {constant.name for constant in graph.initializer}


def test_bfloat16_is_exported_in_float32():
  architecture = ARCHITECTURES['cifar10_relu']
  network = random_network(architecture, dtype=jnp.bfloat16)
  assert to_onnx(network) == to_onnx(random_network(architecture))


def test_what_cannot_be_exported():
  network = random_network(ARCHITECTURES['cifar10_local'])
  even = network.model.architecture.with_ops(
    lambda op: LRN(size=4) if isinstance(op, LRN) else op
  )
  with pytest.raises(UserError, match='lrn1 is over 4 channels'):
    to_onnx(network._replace(model=AlexNet(even, num_classes=10)))
  large = np.broadcast_to(np.float32(0), (1 << 15, 1 << 15))
  with pytest.raises(UserError, match=r'take 4\.3 GB, but an ONNX file holds'):
    to_onnx(network._replace(params={'fc6': {'kernel': large}}))


@pytest.mark.parametrize(
  ('layout', 'shape'), [('NHWC', '64, 64, 3'), ('NCHW', '3, 64, 64')]
)
def test_the_command(small_network, tmp_path, capsys, layout, shape):
  file = tmp_path / 'net.onnx'
  export.main([str(file), f'--workdir={small_network}', f'--layout={layout}'])
  assert f'[batch, {shape}] -> [batch, 7]' in capsys.readouterr().out
  session = onnxruntime.InferenceSession(str(file))
  (images,) = session.get_inputs()
  assert str(images.shape) == f"['batch', {shape}]"
  assert [output.name for output in session.get_outputs()] == [
    'logits',
    'probabilities',
  ]
  given = random_images(64) / 60
  network = load(small_network)
  expected = jax.jit(network.model.apply)({'params': network.params}, given)
  if layout == 'NCHW':
    given = given.transpose(0, 3, 1, 2)
  logits, _ = session.run(None, {'images': given})
  error = np.abs(logits - expected).max() / np.abs(expected).max()
  assert error < 1e-5


@pytest.mark.parametrize('side', [2, 6, 7, 9, 13])
def test_adaptive_average_pooling_equals_pytorchs(side):
  torch = pytest.importorskip(
    'torch', reason='NEEDS PYTORCH: make venv EXTRAS=test'
  )
  graph = Graph()
  average_pool(graph, 'maps', 'pool', AvgPool(6), side)
  model = graph.model('test', {'maps': [3, side, side]}, {'pool': [3, 6, 6]})
  onnx.checker.check_model(model, full_check=True)
  maps = np.random.default_rng(0).normal(size=(2, 3, side, side))
  maps = maps.astype(np.float32)
  session = onnxruntime.InferenceSession(model.SerializeToString())
  (pooled,) = session.run(None, {'maps': maps})
  expected = torch.nn.AdaptiveAvgPool2d(6)(torch.tensor(maps))
  np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)
