"""Ablations of the paper's network, and the configs of its experiments."""

import importlib
import itertools

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import jax
import jax.numpy as jnp
import numpy as np
import parity
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch.utils.flop_counter import FlopCounterMode

from alexnet_jax.config.loading import flatten
from alexnet_jax.config.values import validate
from alexnet_jax.model import ALEXNETS, ARCHITECTURES, AlexNet
from alexnet_jax.model.ablations import ABLATIONS, ablated
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.model.conv import local_conv2d
from alexnet_jax.model.layer_types import LRN
from alexnet_jax.model.summary import layer_table
from configs.paper import base

DATA = ('imagenet', 'imagenette', 'imagenette227', 'imagenette127', 'cifar10',
        'digits')  # fmt: skip
# What each config in configs/paper changes in its base.
CHANGES = {
  'base': {},
  'no_lrn': {'model.ablations': ('no_lrn',)},
  'no_overlap': {'model.ablations': ('no_overlap',)},
  'no_groups': {'model.ablations': ('no_groups',)},
  'one_column': {'model.ablations': ('one_column',)},
  'tanh': {'model.ablations': ('tanh',)},
  'no_lighting': {'data.lighting': 'none'},
  'no_crops': {'data.train_crop': 'center', 'data.flip': False},
  'no_dropout': {'model.dropout_rate': 0.0},
  'ten_crops': {'eval.crops': 10},
}
# The paper's network and its ablations as arguments of `in_torch`.
PAPER = {'lrn': True, 'window': 3, 'act': F.relu, 'groups': (1, 2, 1, 2, 2)}
IN_TORCH = {
  'no_lrn': {'lrn': False},
  'no_overlap': {'window': 2},
  'no_groups': {'groups': (1,) * 5},
  'one_column': {'groups': (1,) * 5},
  'tanh': {'act': torch.tanh},
}
# Kernels and biases of conv1 .. fc8 at 227 pixels, computed by hand.
ONE_COLUMN = (
  (48 * 3 * 121 + 48)
  + (128 * 48 * 25 + 128)
  + (192 * 128 * 9 + 192)
  + (192 * 192 * 9 + 192)
  + (256 * 192 * 9 + 256)
  + (9216 * 4096 + 4096)
  + (4096 * 4096 + 4096)
  + (4096 * 1000 + 1000)
)
PARAMETERS = {
  'no_lrn': 60_965_224,
  'no_overlap': 60_965_224,
  'tanh': 60_965_224,
  'no_groups': 60_965_224 + 256 * 48 * 25 + 384 * 192 * 9 + 256 * 192 * 9,
  'one_column': ONE_COLUMN,
}


def in_torch(weights, images, lrn, window, act, groups):
  """Computes the logits of section 3.5's network in PyTorch."""

  def conv(name, x, stride=1, padding=0, group=1):
    kernel = torch.from_numpy(weights[name]['kernel'].transpose(3, 2, 0, 1))
    bias = torch.from_numpy(weights[name]['bias'])
    return act(F.conv2d(x, kernel, bias, stride, padding, 1, group))

  def norm(x):
    # PyTorch divides alpha by the window.
    return F.local_response_norm(x, 5, 5e-4, 0.75, 2.0) if lrn else x

  def pool(x):
    return F.max_pool2d(x, window, 2)

  def dense(name, x):
    leaves = weights[name]
    return x @ torch.from_numpy(leaves['kernel']) + torch.from_numpy(
      leaves['bias']
    )

  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  x = pool(norm(conv('conv1', x, 4, group=groups[0])))
  x = pool(norm(conv('conv2', x, padding=2, group=groups[1])))
  x = conv('conv3', x, padding=1, group=groups[2])
  x = conv('conv4', x, padding=1, group=groups[3])
  x = pool(conv('conv5', x, padding=1, group=groups[4]))
  x = x.permute(0, 2, 3, 1).flatten(1)
  x = act(dense('fc7', act(dense('fc6', x))))
  return dense('fc8', x).numpy()


def weights_of(model, size, seed):
  """Returns He's initial weights, so that LRN's sums are as large as its k."""
  rng = np.random.default_rng(seed)
  shapes = abstract_params(model, size)
  return jax.tree.map(
    lambda leaf: rng.normal(
      0,
      np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 1,
      leaf.shape,
    ),
    shapes,
  )


@pytest.mark.parametrize('name', [None, *ABLATIONS])
def test_an_ablated_network_equals_its_reference(name):
  architecture = ablated(ALEXNETS['paper'], [name] if name else [])
  # 99 pixels: maps of 23, 11, 5 and 2 pixels, with and without overlap.
  weights = weights_of(AlexNet(architecture, 10), 99, seed=3)
  images = np.random.default_rng(4).normal(0, 60, (2, 99, 99, 3))
  change = IN_TORCH.get(name, {})
  with FlopCounterMode(display=False) as counter:
    expected = in_torch(weights, images, **{**PAPER, **change})
  per_image = counter.get_total_flops() / 2 / len(images)
  totals = layer_table(architecture, 10, 99)[-1]
  assert totals.endswith(f' {per_image / 1e6:.1f} M')
  with jax.enable_x64(True):
    model = AlexNet(architecture, 10, dtype=jnp.float64)
    logits = jax.jit(model.apply)({'params': weights}, jnp.asarray(images))
  assert parity._error(np.asarray(logits), expected) < 1e-11
  if change and 'groups' not in change:
    # The paper's network gives other logits with the same weights.
    logits = in_torch(weights, images, **PAPER)
    assert parity._error(logits, expected) > 1e-3


@pytest.mark.parametrize('name', ABLATIONS)
def test_parameters_and_maps(name):
  architecture = ablated(ALEXNETS['paper'], [name])
  shapes = abstract_params(AlexNet(architecture), 227)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]
  totals = layer_table(architecture, 1000, 227)[-1]
  assert totals.split()[1] == f'{PARAMETERS[name]:,}'
  assert architecture.spatial_size(227) == 6


def test_one_column_has_about_as_many_parameters():
  """As the paper says in footnote 2."""
  assert abs(ONE_COLUMN / 60_965_224 - 1) < 0.02


@pytest.mark.parametrize('name', ['no_groups', 'one_column'])
def test_lrn_spans_all_channels_of_one_column(name):
  """krizhevsky2012 normalizes its two columns separately."""
  layers = ablated(ALEXNETS['krizhevsky2012'], [name]).layers
  groups = [op.groups for layer in layers for op in layer.then
            if isinstance(op, LRN)]  # fmt: skip
  assert groups == [1, 1]


@pytest.mark.parametrize('network', ALEXNETS)
def test_every_network_accepts_every_ablation(network):
  for name in ABLATIONS:
    architecture = ablated(ALEXNETS[network], [name])
    abstract_params(AlexNet(architecture, 10), 227)
    if name == 'no_lrn':
      ops = list(
        itertools.chain(*(layer.then for layer in architecture.layers))
      )
      assert not [op for op in ops if 'LRN' in type(op).__name__]


@pytest.mark.parametrize('data', DATA)
@pytest.mark.parametrize('name', CHANGES)
def test_a_config_changes_one_thing_of_its_base(name, data):
  config = importlib.import_module(f'configs.paper.{name}').get_config(data)
  validate(config)
  before = flatten(base.get_config(data))
  changed = {
    field: value
    for field, value in flatten(config).items()
    if value != before[field]
  }
  expected = CHANGES[name].items()  # Digits are never mirrored.
  assert changed == {k: v for k, v in expected if v != before[k]}
  model = build_model(config.model)
  abstract_params(model, config.data.crop_size)


def test_the_base_on_imagenet_is_the_papers_setting():
  ours = flatten(base.get_config())
  papers = flatten(importlib.import_module('configs.imagenet').get_config())
  differing = {k for k in ours if ours[k] != papers[k]}
  assert differing == {'eval.train_split'}


def test_the_two_lines_of_figure_1_differ_in_their_activations():
  relu, tanh = (
    importlib.import_module(f'configs.paper.fig1_{name}').get_config()
    for name in ('relu', 'tanh')
  )
  for config in (relu, tanh):
    validate(config)
  before, after = flatten(relu), flatten(tanh)
  assert {k: after[k] for k in after if after[k] != before[k]} == {
    'model.ablations': ('tanh',),
    'num_epochs': tanh.num_epochs,
  }
  # "No regularization of any kind was employed."
  assert relu.optimizer.weight_decay == 0
  assert (relu.data.flip, relu.data.lighting) == (False, 'none')
  assert relu.data.crop_size == relu.data.resize_size == 32
  layers = ARCHITECTURES['cifar10_relu'].layers
  assert len(layers) == 4


def test_cifar10s_two_configs_differ_in_lrn_only():
  with_lrn, without = (
    importlib.import_module(f'configs.paper.cifar10_{name}').get_config()
    for name in ('lrn', 'no_lrn')
  )
  for config in (with_lrn, without):
    validate(config)
  before, after = flatten(with_lrn), flatten(without)
  assert {k: after[k] for k in after if after[k] != before[k]} == {
    'model.ablations': ('no_lrn',)
  }


def test_a_misspelled_ablation_is_an_error():
  config = base.get_config()
  for wrong in (('no_lrm',), 'no_lrn'):
    with config.unlocked():
      config.model = ConfigDict({**config.model.to_dict(), 'ablations': wrong})
    with pytest.raises(Exception, match='no_lrn, no_overlap'):
      validate(config)


def test_a_local_layer_has_a_kernel_for_each_position():
  rng = np.random.default_rng(5)
  x, kernel = rng.normal(size=(3, 6, 5, 4)), rng.normal(size=(6, 5, 36, 7))
  # PyTorch's unfold orders by channel, then by position in the window.
  windows = F.unfold(torch.from_numpy(x).permute(0, 3, 1, 2), 3, padding=1)
  windows = windows.reshape(3, 4, 9, 6, 5).permute(0, 3, 4, 2, 1)
  expected = torch.einsum(
    'nhwki,hwkio->nhwo',
    windows,
    torch.from_numpy(kernel.reshape(6, 5, 9, 4, 7)),
  )
  with jax.enable_x64(True):
    actual = local_conv2d(jnp.asarray(x), jnp.asarray(kernel), 3, (1, 1))
  np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_cifar10s_local_network():
  """Its shapes are those of layers-conv-local-11pct.cfg, on 24x24 crops."""
  model = AlexNet(ARCHITECTURES['cifar10_local'], 10)
  shapes = abstract_params(model, 24)
  assert jax.tree.map(lambda leaf: leaf.shape, shapes) == {
    'conv1': {'kernel': (5, 5, 3, 64), 'bias': (64,)},
    'conv2': {'kernel': (5, 5, 64, 64), 'bias': (64,)},
    # Pooling rounds down: 24, 11, 5.
    'conv3': {'kernel': (5, 5, 576, 32), 'bias': (5, 5, 32)},
    'conv4': {'kernel': (5, 5, 288, 32), 'bias': (5, 5, 32)},
    'fc5': {'kernel': (800, 10), 'bias': (10,)},
  }
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 24, 24, 3)))
  images = np.random.default_rng(0).normal(0, 60, (2, 24, 24, 3))
  assert np.isfinite(jax.jit(model.apply)(params, images)).all()
