import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.conv import to_blocks
from alexnet_jax.model.layer_types import (
  LRN,
  Activation,
  Architecture,
  AvgPool,
  Conv,
  Dense,
  Dropout,
  MaxPool,
  SpatialLRN,
)
from alexnet_jax.model.summary import layer_table

# With 1000 classes.
PARAMETERS = {
  'paper': 60_965_224,
  'krizhevsky2012': 60_965_224,
  'owt': 61_100_840,
  'caffe': 60_965_224,
  'caffenet': 60_965_224,
  'torchvision': 61_100_840,
}


def abstract(model, size):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']


@pytest.mark.parametrize('name', PARAMETERS)
def test_shapes(name):
  architecture = ARCHITECTURES[name]
  model = AlexNet(architecture)
  params = abstract(model, architecture.input_size)
  assert sum(x.size for x in jax.tree.leaves(params)) == PARAMETERS[name]
  assert list(params) == [
    *(f'conv{i}' for i in range(1, 6)),
    'fc6',
    'fc7',
    'fc8',
  ]
  assert all(set(layer) == {'kernel', 'bias'} for layer in params.values())
  assert architecture.spatial_size(architecture.input_size) == 6
  conv2 = params['conv2']['kernel'].shape
  assert conv2 == (
    (5, 5, 48, 256) if PARAMETERS[name] < 61e6 else (5, 5, 64, 192)
  )


@pytest.mark.parametrize('name', PARAMETERS)
def test_smallest_input(name):
  architecture = ARCHITECTURES[name]
  model = AlexNet(architecture, num_classes=10)
  size = architecture.min_input_size
  # torchvision's maps are averaged to 6 x 6, whatever their size.
  inputs = 9216 if name == 'torchvision' else 256
  assert abstract(model, size)['fc6']['kernel'].shape == (inputs, 4096)
  with pytest.raises(ValueError, match=f'at least {size}x{size}'):
    abstract(model, size - 1)


# Standard deviations of weights and values of biases, conv1..fc8.
INITIAL = {
  'paper': ([0.01] * 8, [0, 1, 0, 1, 1, 1, 1, 0]),
  'krizhevsky2012': (
    [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01],
    [0, 1, 0, 1, 1, 1, 1, 0],
  ),
  'owt': (
    [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01],
    [0, 1, 0, 1, 1, 1, 1, -7],
  ),
  'caffe': (
    [0.01] * 5 + [0.005, 0.005, 0.01],
    [0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0],
  ),
  'caffenet': ([0.01] * 5 + [0.005, 0.005, 0.01], [0, 1, 0, 1, 1, 1, 1, 0]),
}


@pytest.mark.parametrize('name', PARAMETERS)
def test_initialization(name):
  architecture = ARCHITECTURES[name]
  model = AlexNet(architecture, num_classes=100)
  size = architecture.min_input_size
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
  for i, layer in enumerate(params['params'].values()):
    kernel, bias = np.asarray(layer['kernel']), np.asarray(layer['bias'])
    if name == 'torchvision':
      bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
      for values in (kernel, bias):
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.25)
    else:
      stds, biases = INITIAL[name]
      np.testing.assert_allclose(kernel.std(), stds[i], rtol=0.02)
      np.testing.assert_allclose(bias, biases[i], rtol=1e-6)
    assert kernel.dtype == bias.dtype == np.float32


# The operations after conv1, conv2, conv5, fc6 and fc7 (A activation, L LRN, S
# spatial LRN, P pool, M mean, D dropout), and k, alpha * 5 and groups of LRN.
LETTERS = {
  Activation: 'A', LRN: 'L', SpatialLRN: 'S', MaxPool: 'P', AvgPool: 'M',
  Dropout: 'D',
}  # fmt: skip
BLOCKS = {
  'paper': ('ALP', 'ALP', 'AP', 'AD', 'AD', (2, 5e-4, 1)),
  'krizhevsky2012': ('LPA', 'ALSP', 'PA', 'AD', 'AD', (2, 1e-4, 2)),
  'owt': ('LPA', 'ALP', 'PA', 'AD', 'AD', (2, 1e-4, 1)),
  'caffe': ('ALP', 'ALP', 'AP', 'AD', 'AD', (1, 1e-4, 1)),
  'caffenet': ('APL', 'APL', 'AP', 'AD', 'AD', (1, 1e-4, 1)),
  'torchvision': ('AP', 'AP', 'APMD', 'AD', 'A', None),
}


@pytest.mark.parametrize('name', PARAMETERS)
def test_order_and_constants(name):
  layers = ARCHITECTURES[name].layers
  letters = [
    ''.join(LETTERS[type(op)] for op in layer.then) for layer in layers
  ]
  conv1, conv2, conv5, fc6, fc7, lrn = BLOCKS[name]
  assert letters == [conv1, conv2, 'A', 'A', conv5, fc6, fc7, '']
  for op in (op for layer in layers for op in layer.then):
    match op:
      case LRN():
        assert (op.size, op.beta) == (5, 0.75)
        assert (op.k, pytest.approx(op.alpha * 5), op.groups) == lrn
      case SpatialLRN():
        assert (op.size, op.k, op.beta) == (5, 1, 0.75)
        assert op.alpha * 25 == pytest.approx(0.001)
      case MaxPool():
        assert (op.window, op.stride) == (3, 2)
      case Dropout():
        assert op.rate == 0.5
  halves = 2 if PARAMETERS[name] < 61e6 else 1
  groups = [layer.groups for layer in layers[:5]]
  assert groups == [1, halves, 1, halves, halves]
  first = {'krizhevsky2012': (0, 3), 'owt': (0, 3), 'torchvision': (2, 2)}
  padding = [layer.padding for layer in layers[:5]]
  assert padding == [first.get(name, (0, 0)), (2, 2), *[(1, 1)] * 3]


# Figure 2 and section 3.5, with multiply-adds computed by hand: those of conv1
# are 55 * 55 * 96 * 11 * 11 * 3.
PAPER_TABLE = """
layer  output     pooled  kernel stride groups  followed by         parameters mult-adds
conv1  55x55x96   27x27   11x11       4      1  ReLU, LRN, pool 3/2     34,944   105.4 M
conv2  27x27x256  13x13   5x5         1      2  ReLU, LRN, pool 3/2    307,456   223.9 M
conv3  13x13x384          3x3         1      1  ReLU                   885,120   149.5 M
conv4  13x13x384          3x3         1      2  ReLU                   663,936   112.1 M
conv5  13x13x256  6x6     3x3         1      2  ReLU, pool 3/2         442,624    74.8 M
fc6    4096                                     ReLU, dropout 0.5   37,752,832    37.7 M
fc7    4096                                     ReLU, dropout 0.5   16,781,312    16.8 M
fc8    1000                                                          4,097,000     4.1 M
total                                                               60,965,224   724.4 M
"""  # noqa: E501


def test_the_table_of_layers_can_be_read_beside_the_paper():
  lines = layer_table(ARCHITECTURES['paper'], 1000, 227)
  assert lines == PAPER_TABLE.strip().splitlines()


# Multiply-adds of networks that tests/torch_alexnets.py does not have: for each
# layer, positions x inputs of a kernel x features.
CIFAR10_PRODUCTS = {
  'cifar10_relu': (
    32**2 * 75 * 32 + 15**2 * 800 * 32 + 7**2 * 800 * 64 + 3**2 * 64 * 10
  ),
  'cifar10_local': (
    24**2 * 75 * 64
    + 11**2 * 1600 * 64
    + 5**2 * (576 * 32 + 288 * 32)
    + 5**2 * 32 * 10
  ),
}


@pytest.mark.parametrize('name', [*PARAMETERS, *CIFAR10_PRODUCTS])
def test_numbers_of_the_table_of_layers(name):
  """Parameters are the model's; multiply-adds are those PyTorch counts."""
  architecture = ARCHITECTURES[name]
  size = architecture.input_size
  heading, *rows, totals = layer_table(architecture, 10, size)
  params = abstract(AlexNet(architecture, num_classes=10), size)
  for row, (layer, leaves) in zip(rows, params.items(), strict=True):
    assert row.startswith(f'{layer} ')
    parameters = sum(leaf.size for leaf in leaves.values())
    assert row.split()[-3] == f'{parameters:,}'
    end = heading.index('parameters') + len('parameters')
    assert row[:end].endswith(f' {parameters:,}')
  parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert totals.split()[:2] == ['total', f'{parameters:,}']
  if name in CIFAR10_PRODUCTS:
    counted = {'Global': CIFAR10_PRODUCTS[name]}
  else:
    counted = torch_products(name, size)
    for row, layer in zip(rows, params, strict=True):
      assert row.endswith(f' {counted[layer] / 1e6:.1f} M')
  assert totals.endswith(f' {counted["Global"] / 1e6:.1f} M')


def torch_products(name, size):
  """Returns the multiply-adds that PyTorch counts, by layer."""
  torch = pytest.importorskip('torch')
  import torch_alexnets
  from torch.utils.flop_counter import FlopCounterMode

  with torch.device('meta'), FlopCounterMode(display=False) as counter:
    model = torch_alexnets.build(name, num_classes=10)
    model(torch.empty(1, 3, size, size))
  return {
    layer.split('.')[-1]: sum(flops.values()) / 2
    for layer, flops in counter.get_flop_counts().items()
  }


@pytest.mark.parametrize('size', [64, 227, 512])
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_the_table_of_layers_lines_up(name, size):
  for activation in ('relu', 'tanh'):
    architecture = dataclasses.replace(
      ARCHITECTURES[name], activation=activation
    )
    lines = layer_table(architecture, 1000, size)
    assert {len(line) for line in lines[1:]} == {len(lines[0])}
    assert len(lines[0]) <= 110
    assert ('tanh' in lines[1]) == (activation == 'tanh')


def apply(model, variables, images, **options):
  """Calls `model.apply`, compiled: op by op it would be many times slower."""
  run = jax.jit(model.apply, static_argnames=('train', 'method'))
  return run(variables, images, **options)


def small(name, **changes):
  """Returns a narrow, fast network with the same operations."""
  architecture = ARCHITECTURES[name]
  layers = tuple(
    dataclasses.replace(
      layer,
      features=layer.features and layer.features // 32 * 2,
      weight_std=0.1,
    )
    for layer in architecture.layers
  )
  return dataclasses.replace(architecture, layers=layers, **changes)


# test_parity.py compares the numbers with PyTorch.
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_logits_and_features(dtype):
  model = AlexNet(small('paper'), num_classes=7, dtype=dtype)
  images = jax.random.normal(jax.random.key(1), (3, 67, 70, 3)) * 50
  variables = jax.jit(model.init)(jax.random.key(0), images)
  logits = apply(model, variables, images)
  assert logits.shape == (3, 7)
  assert logits.dtype == jnp.float32
  features = apply(model, variables, images, method='features')
  assert features.shape == (3, 256)
  assert features.dtype == dtype
  assert (features >= 0).all()
  # fc8 of the features gives the logits, without dropout in both.
  fc8 = variables['params']['fc8']
  expected = features.astype(jnp.float32) @ fc8['kernel'] + fc8['bias']
  np.testing.assert_allclose(
    logits, expected, rtol=1e-4 if dtype == jnp.float32 else 0.1, atol=0.05
  )


def test_bfloat16_stays_near_float32():
  images = jax.random.normal(jax.random.key(1), (4, 67, 67, 3)) * 50
  model = AlexNet(small('paper'), num_classes=7)
  variables = jax.jit(model.init)(jax.random.key(0), images)
  exact = apply(model, variables, images)
  rounded = apply(model.clone(dtype=jnp.bfloat16), variables, images)
  np.testing.assert_allclose(
    rounded, exact, atol=0.03 * float(jnp.abs(exact).max())
  )


def test_dropout_is_on_in_training_only():
  images = jax.random.normal(jax.random.key(1), (2, 67, 67, 3)) * 50
  model = AlexNet(small('paper'), num_classes=7)
  variables = jax.jit(model.init)(jax.random.key(0), images)

  def train(model, key):
    rngs = {'dropout': jax.random.key(key)}
    return apply(model, variables, images, train=True, rngs=rngs)

  assert not np.allclose(train(model, 0), train(model, 1))
  model = model.clone(architecture=model.architecture.with_dropout(rate=0.0))
  np.testing.assert_array_equal(
    train(model, 0), apply(model, variables, images)
  )


def test_dropout_scales_in_training_or_at_test_time():
  images = jax.random.normal(jax.random.key(1), (2, 67, 67, 3)) * 50
  inverted = AlexNet(small('paper').with_dropout(rate=0.25), num_classes=7)
  variables = jax.jit(inverted.init)(jax.random.key(0), images)
  papers = inverted.clone(
    architecture=inverted.architecture.with_dropout(scale_at='test')
  )
  # The same network, with 3/4 of the kernels of the layers after dropout.
  scaled = dict(variables['params'])
  for layer in ('fc7', 'fc8'):
    scaled[layer] = {
      'kernel': 0.75 * scaled[layer]['kernel'],
      'bias': scaled[layer]['bias'],
    }
  for train in (False, True):
    actual, expected = (
      apply(
        model,
        {'params': params},
        images,
        train=train,
        rngs={'dropout': jax.random.key(2)},
      )
      for model, params in (
        (papers, variables['params']),
        (inverted, scaled),
      )
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)
  # The features are fc7's output before dropout scales it.
  hidden = apply(papers, variables, images, method='features')
  fc8 = variables['params']['fc8']
  logits = apply(papers, variables, images)
  np.testing.assert_allclose(
    logits, 0.75 * hidden @ fc8['kernel'] + fc8['bias'], rtol=1e-4, atol=1e-3
  )


def test_tanh_and_a_network_with_other_layers():
  # Four layers as in Figure 1: three convolutions and one dense layer.
  pool = MaxPool(3, 2)
  base = small('paper', activation='tanh')
  act = base.layers[0].then[0]
  layers = tuple(
    Conv(8, kernel=5, padding=(2, 2), then=(act, pool)) for _ in '123'
  )
  four = dataclasses.replace(base, name='four', layers=(*layers, Dense()))
  model = AlexNet(four, num_classes=10)
  images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3)) * 50
  variables = jax.jit(model.init)(jax.random.key(0), images)
  assert list(variables['params']) == ['conv1', 'conv2', 'conv3', 'fc4']
  features = apply(model, variables, images, method='features')
  assert float(jnp.abs(features).max()) <= 1
  assert float(features.min()) < 0
  with pytest.raises(ValueError, match='relu or tanh'):
    dataclasses.replace(base, activation='gelu')
  with pytest.raises(ValueError, match='convolutions first'):
    dataclasses.replace(base, layers=base.layers[::-1])


@pytest.mark.parametrize('name', ['paper', 'krizhevsky2012', 'torchvision'])
def test_blocks_of_pixels_give_the_same_logits(name):
  """Blocks are another input of conv1; the parameters are the same."""
  architecture = ARCHITECTURES[name].with_dropout(rate=0.0)
  model = AlexNet(architecture, num_classes=10)
  size = architecture.min_input_size
  images = np.random.default_rng(0).normal(size=(2, size, size, 3)) * 50
  images = images.astype(np.float32)
  blocks = to_blocks(images, architecture.input_blocks(size))
  assert blocks.shape[-1] == 48
  variables = jax.jit(model.init)(jax.random.key(0), images)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
    jnp.shape, jax.eval_shape(model.init, jax.random.key(0), blocks)
  )
  logits = jax.jit(model.apply)
  expected = logits(variables, images)
  np.testing.assert_allclose(
    logits(variables, blocks), expected, atol=1e-5 * np.abs(expected).max()
  )
  with pytest.raises(ValueError, match=f'at least {size}x{size}'):
    jax.eval_shape(model.apply, variables, blocks[:, 1:])


@pytest.mark.long
def test_convolutions_can_process_a_batch_in_parts():
  layers = (
    Conv(8, kernel=11, stride=4, then=(Activation(), LRN(), MaxPool())),
    Conv(8, groups=2, then=(Activation(),)),
    Dense(),
  )
  model = AlexNet(Architecture('small', 35, layers), num_classes=3)
  images = np.random.default_rng(0).normal(size=(6, 35, 35, 3)) * 50
  variables = jax.jit(model.init)(jax.random.key(0), images)

  def loss(params, model):
    return (model.apply({'params': params}, images) ** 2).sum()

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  expected = gradient(variables['params'], model)
  logits = jax.jit(model.apply)(variables, images)
  for size in (2, 3, 4, 6):  # 4 does not divide 6: not split.
    parts = model.clone(conv_batch=size)
    _, seen = parts.apply(variables, images, capture_intermediates=True)
    number = len(seen['intermediates']['conv1']['__call__'])
    assert number == (1 if 6 % size else 6 // size)
    np.testing.assert_allclose(
      jax.jit(parts.apply)(variables, images), logits, rtol=1e-5
    )
    for a, b in zip(
      jax.tree.leaves(gradient(variables['params'], parts)),
      jax.tree.leaves(expected),
      strict=True,
    ):
      np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
