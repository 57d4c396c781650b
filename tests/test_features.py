"""Features of any layer, and images of other sizes, compared with PyTorch."""

import dataclasses
import pathlib
import re

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import jax
import jax.numpy as jnp
import numpy as np
import parity
import torch
import torch_alexnets
from test_alexnet import small
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from alexnet_jax.model import ALEXNETS, ARCHITECTURES, AlexNet
from alexnet_jax.model.layer_types import AvgPool
from alexnet_jax.model.pool import average_pool

CLASSES = 10


# `make test-long` has those whose operations are in the order of others.
@pytest.fixture(
  scope='module',
  params=[
    pytest.param(
      name, marks=[pytest.mark.long] if name in ('owt', 'caffe') else []
    )
    for name in ALEXNETS
  ],
)
def networks(request):
  """A network of ours and the reference, with the same random weights."""
  name = request.param
  with torch.device('meta'):  # Not initialized: the weights are drawn here.
    reference = torch_alexnets.build(name, CLASSES)
  reference = reference.to_empty(device='cpu')
  rng = np.random.default_rng(0)
  weights = {}
  with torch.no_grad():
    for layer, shape in shapes_of(name).items():
      # Values keep their spread from layer to layer (He).
      kernel = rng.standard_normal(shape, np.float32)
      kernel *= np.sqrt(2 / np.prod(shape[:-1]), dtype=np.float32)
      bias = rng.standard_normal(shape[-1], np.float32)
      weights[layer] = leaves = {'kernel': kernel, 'bias': bias}
      maps = (6, 6, 256) if layer == 'fc6' else None
      kernel = np.ascontiguousarray(parity.to_torch(leaves['kernel'], maps))
      getattr(reference, layer).weight.copy_(torch.from_numpy(kernel))
      getattr(reference, layer).bias.copy_(torch.from_numpy(leaves['bias']))
  return AlexNet(ARCHITECTURES[name], CLASSES), {'params': weights}, reference


def shapes_of(name):
  size = ARCHITECTURES[name].input_size
  model = AlexNet(ARCHITECTURES[name], CLASSES)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, size, size, 3))
  )
  return {k: v['kernel'].shape for k, v in shapes['params'].items()}


class Recorder(TorchFunctionMode):
  """Records what each of PyTorch's functions returns, under our names."""

  def __init__(self):
    super().__init__()
    self.found = {}
    self._number = 0

  def __torch_function__(self, function, types, args=(), kwargs=None):
    result = function(*args, **(kwargs or {}))
    kind = getattr(function, '__name__', '')
    if kind in ('conv2d', 'linear'):
      self._number += 1
      layer = f'{"conv" if kind == "conv2d" else "fc"}{self._number}'
      self.found[f'{layer}/linear'] = self.found[layer] = result
    elif kind == 'relu':
      layer = f'{"conv" if self._number < 6 else "fc"}{self._number}'
      self.found[layer] = result
    else:
      ours = {
        '_max_pool2d': 'pool', 'max_pool2d': 'pool',
        'boolean_dispatch': 'pool', 'adaptive_avg_pool2d': 'avgpool',
        # The columns are normalized one by one, and then put together. The
        # division is that of the spatial normalization.
        'local_response_norm': 'lrn', 'cat': 'lrn', '__truediv__': 'lrn',
        'div': 'lrn', 'true_divide': 'lrn',
      }  # fmt: skip
      if kind in ours:
        self.found[f'{ours[kind]}{self._number}'] = result
    return result


def channels_last(x):
  return x.movedim(1, -1).numpy() if x.ndim == 4 else x.numpy()


def test_every_layer_equals_pytorchs(networks):
  model, variables, reference = networks
  architecture = model.architecture
  size = architecture.input_size
  images = np.random.default_rng(1).normal(0, 60, (2, size, size, 3))
  images = images.astype(np.float32)
  recorder = Recorder()
  with torch.no_grad(), recorder:
    reference(torch.from_numpy(images).permute(0, 3, 1, 2))
  names = architecture.feature_names
  dropouts = {name for name in names if 'dropout' in name}
  assert set(recorder.found) == set(names) - dropouts
  apply = jax.jit(model.apply, static_argnames=('method', 'layers'))
  found = apply(variables, images, method='features', layers=names)
  assert set(found) == set(names)
  for name, expected in recorder.found.items():
    expected = channels_last(expected)
    np.testing.assert_allclose(
      found[name], expected, atol=1e-5 * np.abs(expected).max(), err_msg=name
    )
  # In evaluation, dropout changes nothing.
  for name in dropouts - {'dropout5'}:
    np.testing.assert_array_equal(found[name], found[f'fc{name[-1]}'])
  default = apply(variables, images, method='features')
  np.testing.assert_array_equal(default, found['fc7'])


@pytest.mark.parametrize('networks', ['torchvision'], indirect=True)
@pytest.mark.parametrize(('height', 'width'), [
  (63, 63), (96, 96), (160, 160), (227, 227), (320, 320), (231, 100),
])  # fmt: skip
def test_torchvision_takes_other_sizes(networks, height, width):
  model, variables, reference = networks
  images = np.random.default_rng(1).normal(0, 60, (1, height, width, 3))
  images = images.astype(np.float32)
  with torch.no_grad():
    expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
  found = jax.jit(model.apply)(variables, images)
  np.testing.assert_allclose(
    found, expected, atol=1e-5 * np.abs(expected).max()
  )


@pytest.mark.parametrize('shape', [(1, 1), (2, 5), (6, 6), (7, 9), (12, 31)])
def test_average_pooling_equals_pytorchs(shape):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *shape, 3)).astype(np.float32)
  cotangent = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
  found, vjp = jax.vjp(lambda x: average_pool(x, AvgPool(6)), x)
  theirs = torch.from_numpy(x).movedim(-1, 1).requires_grad_()
  expected = F.adaptive_avg_pool2d(theirs, 6)
  expected.backward(torch.from_numpy(cotangent).movedim(-1, 1))
  np.testing.assert_allclose(found, expected.detach().movedim(1, -1), atol=1e-6)
  np.testing.assert_allclose(
    vjp(cotangent)[0], theirs.grad.movedim(1, -1), atol=1e-6
  )


def test_at_its_own_size_average_pooling_does_nothing():
  model = AlexNet(small('torchvision'), num_classes=3)
  images = np.random.default_rng(0).normal(0, 60, (1, 224, 224, 3))
  params = jax.jit(model.init)(jax.random.key(0), images)
  without = model.clone(
    architecture=model.architecture.with_ops(
      lambda op: None if isinstance(op, AvgPool) else op
    )
  )
  texts = [
    jax.jit(m.apply).lower(params, images).as_text() for m in (model, without)
  ]
  assert texts[0] == texts[1]


@pytest.fixture(scope='module')
def narrow():
  model = AlexNet(small('krizhevsky2012'), num_classes=3)
  images = np.random.default_rng(0).normal(0, 60, (4, 70, 70, 3))
  images = images.astype(np.float32)
  return model, jax.jit(model.init)(jax.random.key(0), images), images


def test_features_in_parts_and_in_bfloat16(narrow):
  model, variables, images = narrow
  layers = ('conv2/linear', 'lrn2', 'pool5', 'fc6', 'fc8')
  apply = jax.jit(model.apply, static_argnames=('method', 'layers'))
  expected = apply(variables, images, method='features', layers=layers)
  parts = model.clone(conv_batch=2)
  found = jax.jit(parts.apply, static_argnames=('method', 'layers'))(
    variables, images, method='features', layers=layers
  )
  rounded = jax.eval_shape(
    lambda: model.clone(dtype=jnp.bfloat16).apply(
      variables, images, method='features', layers=layers
    )
  )
  for name in layers:
    np.testing.assert_allclose(
      found[name], expected[name], atol=1e-5 * np.abs(expected[name]).max()
    )
    assert expected[name].dtype == np.float32
    assert rounded[name].dtype == jnp.bfloat16
  np.testing.assert_allclose(
    expected['fc8'], apply(variables, images), rtol=1e-5
  )


def test_early_layers_take_images_that_are_too_small_for_all(narrow):
  model, variables, _ = narrow
  images = np.ones((1, 30, 41, 3), np.float32)
  apply = jax.jit(model.apply, static_argnames=('method', 'layers'))
  found = apply(variables, images, method='features', layers=('conv2',))
  assert found['conv2'].shape[:3] == (1, 2, 4)
  # One name need not be a tuple.
  again = apply(variables, images, method='features', layers='conv2')
  np.testing.assert_array_equal(found['conv2'], again['conv2'])
  with pytest.raises(ValueError, match=r'30x41 pixels .* needs at least 64x64'):
    model.apply(variables, images, method='features', layers=['conv1', 'fc6'])


def test_layers_that_are_not_there(narrow):
  model, variables, images = narrow
  for wrong in ('conv9', 'lrn3', 'logits', 'pool1/linear'):
    with pytest.raises(
      ValueError, match=rf"no layer '{wrong}' .* which has conv1, lrn1, pool1"
    ):
      model.apply(variables, images, method='features', layers=['conv1', wrong])
  with pytest.raises(ValueError, match='name at least one layer'):
    model.apply(variables, images, method='features', layers=())


def test_a_layer_without_an_activation():
  """conv3 is then its linear output, and an ablation keeps its names."""
  base = small('caffe')
  linear = dataclasses.replace(base.layers[2], then=())
  changed = dataclasses.replace(
    base, layers=(*base.layers[:2], linear, *base.layers[3:])
  )
  model = AlexNet(changed, num_classes=3)
  images = np.random.default_rng(0).normal(0, 60, (1, 67, 67, 3))
  variables = jax.jit(model.init)(jax.random.key(0), images)
  apply = jax.jit(model.apply, static_argnames=('method', 'layers'))
  layers = ('conv3', 'conv3/linear')
  found = apply(variables, images, method='features', layers=layers)
  np.testing.assert_array_equal(found['conv3'], found['conv3/linear'])
  assert found['conv3'].min() < 0


def test_the_documented_names_and_shapes():
  """The table of docs/features.md, and torchvision's order of its nodes."""
  text = (pathlib.Path(__file__).parent.parent / 'docs/features.md').read_text()
  rows = re.findall(
    r'^\| `([a-z]+\d(?:/linear)?)` \| ([^|]*) \| `?([a-z.0-9]*)`? \|',
    text,
    re.M,
  )
  model = AlexNet(ARCHITECTURES['torchvision'])
  names = model.architecture.feature_names
  assert tuple(row[0] for row in rows) == names
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  found = jax.eval_shape(
    lambda v, x: model.apply(v, x, method='features', layers=names),
    variables, images,
  )  # fmt: skip
  shapes = {name: ' x '.join(map(str, found[name].shape[1:])) for name in names}
  assert {row[0]: row[1] for row in rows} == shapes
  nodes = [row[2] for row in rows if row[2]]
  assert list(dict.fromkeys(nodes)) == [
    *(f'features.{i}' for i in range(13)),
    'avgpool',
    *(f'classifier.{i}' for i in range(7)),
  ]
