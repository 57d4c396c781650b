"""Each recipe's learning rates, at every step, are those of its authors.

The numbers are typed from the sources that the configs name.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.config.saved import num_train_steps
from alexnet_jax.config.values import validate
from alexnet_jax.data.preprocessing import Preprocessing, at_epoch
from alexnet_jax.learning import optimizer
from alexnet_jax.model import ARCHITECTURES

IMAGENET = 1_281_167
LAYERS = [f'conv{i}' for i in range(1, 6)] + ['fc6', 'fc7', 'fc8']


def load(name, *argument):
  config = importlib.import_module(f'configs.{name}').get_config(*argument)
  validate(config)
  return config


def rates_over(config):
  """Returns each parameter's learning rate and weight decay, `[steps]`."""
  steps_per_epoch = IMAGENET // config.batch_size
  total = num_train_steps(config, steps_per_epoch)
  rates = optimizer.rates_of(config.optimizer, steps_per_epoch, total)
  params = {layer: {'kernel': 0, 'bias': 0} for layer in LAYERS}
  layers = ARCHITECTURES[config.model.name].layer_names
  assert list(layers) == LAYERS
  at = rates(params, jnp.arange(total), 1.0)
  at = jax.tree.map(lambda x: np.broadcast_to(x, total), at)
  return at.learning_rate, at.weight_decay, steps_per_epoch


def piecewise(total, *pieces):
  """Returns an array of values by step, from `(first step, value)` pairs."""
  values = np.empty(total)
  for first, value in pieces:
    values[round(first) :] = value
  return values


def assert_rates(actual, kernels, biases, conv1=None):
  conv1 = conv1 or (kernels, biases)
  for layer in LAYERS:
    expected = conv1 if layer == 'conv1' else (kernels, biases)
    for kind, values in zip(('kernel', 'bias'), expected, strict=True):
      np.testing.assert_allclose(actual[layer][kind], values, rtol=1e-5)


def assert_decay(actual, kernels, biases):
  for layer in LAYERS:
    assert set(actual[layer]['kernel']) == {kernels}
    assert set(actual[layer]['bias']) == {biases}


def test_krizhevsky2012_is_trained_as_in_its_notebook():
  config = load('imagenet_krizhevsky2012')
  rate, decay, epoch = rates_over(config)
  assert epoch == 10_009
  total = 91 * epoch
  kernels = piecewise(
    total, (0, 0.01), (25 * epoch, 1e-3), (51 * epoch, 1e-4), (79 * epoch, 1e-5)
  )
  biases = np.full(total, 0.02)
  conv1_kernel = piecewise(
    total,
    (0, 0.01),
    (25 * epoch, 1e-3),
    (51 * epoch, 1e-4),
    (67 * epoch, 1e-5),
    (72 * epoch, 0),
  )
  conv1_bias = piecewise(total, (0, 0.02), (72 * epoch, 0))
  assert_rates(rate, kernels, biases, (conv1_kernel, conv1_bias))
  assert_decay(decay, 5e-4, 0)
  assert config.batch_size == 128
  assert config.optimizer.momentum == 0.9
  assert config.optimizer.rate_in_velocity
  assert config.data.lighting == 'sqrt_eigenvalue'
  assert config.data.lighting_std == 0.1
  lit = [at_epoch(preprocessing_of(config), i).lighting for i in range(91)]
  assert lit == ['sqrt_eigenvalue'] * 67 + ['none'] * 24


def preprocessing_of(config):
  return Preprocessing(
    dataset='imagenet2012/5.1.0',
    class_names=(),
    resize=config.data.resize,
    resize_size=config.data.resize_size,
    crop_size=config.data.crop_size,
    mean=np.zeros(3),
    mean_crop=config.data.mean_crop,
    std=np.ones(3),
    flip=config.data.flip,
    lighting=config.data.lighting,
    lighting_std=config.data.lighting_std,
    lighting_epochs=config.data.lighting_epochs,
    lighting_rescale=config.data.lighting_rescale,
    train_crop=config.data.train_crop,
  )


def test_owt_is_trained_as_in_cuda_convnet2():
  config = load('imagenet_owt')
  rate, decay, epoch = rates_over(config)
  total = 90 * epoch
  quarter = np.arange(total) * 4 // total
  kernels = 0.01 * 250.0 ** (-quarter / 3)
  assert kernels[-1] == pytest.approx(0.00004)
  biases = np.where(np.arange(total) < total / 2, 0.02, 0.002)
  assert_rates(rate, kernels, biases)
  assert_decay(decay, 5e-4, 0)
  assert config.batch_size == 128
  assert config.optimizer.rate_in_velocity


@pytest.mark.parametrize('name', ['caffe', 'caffenet'])
def test_caffes_networks_are_trained_as_in_their_solvers(name):
  config = load(f'imagenet_{name}')
  rate, decay, epoch = rates_over(config)
  assert config.model.name == name
  assert epoch == 5004
  total = 450_000
  kernels = 0.01 * 0.1 ** (np.arange(total) // 100_000)
  assert_rates(rate, kernels, 2 * kernels)
  assert_decay(decay, 5e-4, 0)
  assert config.batch_size == 256
  assert config.optimizer.momentum == 0.9
  assert config.optimizer.rate_in_velocity
  assert (config.data.resize, config.data.mean) == ('warp', 'image')
  assert config.data.mean_crop == 'same'
  assert config.data.lighting == 'none'


def test_torchvision_is_trained_as_in_its_reference_script():
  config = load('imagenet_torchvision')
  rate, decay, epoch = rates_over(config)
  total = 90 * epoch
  rates = 0.01 * 0.1 ** (np.arange(total) // (30 * epoch))
  assert_rates(rate, rates, rates)
  assert_decay(decay, 1e-4, 1e-4)
  assert config.batch_size == 8 * 32
  assert config.optimizer.momentum == 0.9
  assert not config.optimizer.rate_in_velocity
  assert config.data.train_crop == 'random_resized'
  np.testing.assert_allclose(
    np.array(config.data.mean) / 255, (0.485, 0.456, 0.406)
  )
  np.testing.assert_allclose(
    np.array(config.data.std) / 255, (0.229, 0.224, 0.225)
  )


@pytest.mark.parametrize(
  ('argument', 'factor'), [([], 8), (['linear'], 8), (['sqrt'], 8**0.5)]
)
def test_owt_with_batches_of_1024(argument, factor):
  config = load('imagenet_1024', *argument)
  rate, decay, epoch = rates_over(config)
  assert config.batch_size == 1024
  assert epoch == 1251
  total, warmup = 90 * epoch, 5 * epoch
  step = np.arange(total)
  kernels = factor * 0.01 * 250.0 ** (-(step * 4 // total) / 3)
  kernels[:warmup] = 0.01 * (1 + (factor - 1) * step[:warmup] / warmup)
  biases = factor * np.where(step < total / 2, 0.02, 0.002)
  biases[:warmup] = 0.02
  assert_rates(rate, kernels, biases)
  assert_decay(decay, 5e-4, 0)
  owt = load('imagenet_owt')
  for part in ('model', 'data', 'eval'):
    assert config[part].to_dict() == owt[part].to_dict()
  assert config.optimizer.momentum == 0.9
  assert config.optimizer.lars_coefficient == 0
  assert config.optimizer.rate_in_velocity


@pytest.mark.parametrize(
  ('name', 'batch', 'highest', 'warmup', 'total'),
  [
    ('imagenet_lars_8k', 8192, 10, 600, 15_600),
    ('imagenet_lars_32k', 32_768, 32, 400, 4000),
  ],
)
def test_lars_is_trained_as_in_its_solvers(name, batch, highest, warmup, total):
  config = load(name)
  rate, decay, epoch = rates_over(config)
  assert config.batch_size == batch
  assert epoch == {8192: 156, 32_768: 39}[batch]
  step = np.arange(total)
  rates = highest * (1 - step / total) ** 2
  rates[:warmup] = 1 + (highest - 1) * step[:warmup] / warmup
  assert_rates(rate, rates, rates)
  assert_decay(decay, 5e-4, 5e-4)
  assert config.model.name == 'alexnet_bn'
  assert config.optimizer.lars_coefficient == 0.001
  assert config.optimizer.momentum == 0.9
  assert config.optimizer.rate_in_velocity
  assert (config.data.resize, config.data.mean) == ('warp', 'image')
  assert (config.data.mean_crop, config.data.lighting) == ('same', 'none')
  assert [1 / std for std in config.data.std] == [0.00390625] * 3


def test_the_papers_learning_rate_drops_at_most_three_times():
  config = load('imagenet')
  rate, decay, epoch = rates_over(config)
  rates = np.full(90 * epoch, 0.01)
  assert_rates(rate, rates, rates)
  assert_decay(decay, 5e-4, 5e-4)
  assert config.optimizer.schedule == 'plateau'
  assert config.optimizer.plateau_max_drops == 3


@pytest.mark.parametrize(
  ('name', 'crop_size', 'scaling'),
  [
    ('imagenet', 227, 'test'),
    ('imagenet_krizhevsky2012', 224, 'test'),
    ('imagenet_owt', 224, 'test'),
    ('imagenet_caffe', 227, 'train'),
    ('imagenet_caffenet', 227, 'train'),
    ('imagenet_torchvision', 224, 'train'),
    ('imagenet_1024', 224, 'test'),
    ('imagenet_lars_8k', 227, 'train'),
    ('imagenet_lars_32k', 227, 'train'),
  ],
)
def test_inputs_and_dropout(name, crop_size, scaling):
  config = load(name)
  architecture = ARCHITECTURES[config.model.name]
  assert config.data.crop_size == architecture.input_size == crop_size
  assert config.model.dropout_scaling == scaling


@pytest.mark.parametrize(
  ('recipe', 'batch', 'first', 'highest', 'network'),
  [
    ('owt', 64, 0.01, 0.01, 'owt'),
    ('linear', 1024, 0.01, 0.16, 'owt'),
    ('sqrt', 1024, 0.01, 0.04, 'owt'),
    ('bn', 64, 0.02, 0.02, 'alexnet_bn'),
    ('lars', 1024, 1, 40, 'alexnet_bn'),
  ],
)
def test_small_recipes_of_large_batches(recipe, batch, first, highest, network):
  config = load('large_batch', f'{recipe}-imagenette')
  assert config.batch_size == batch
  rate = optimizer.learning_rate_schedule(config.optimizer, 9, 270)
  rates = [float(rate(step)) for step in (0, 45, 269)]
  assert rates == pytest.approx(
    [first, highest * (225 / 270) ** 2, highest / 270**2]
  )
  narrow, full = ARCHITECTURES[config.model.name], ARCHITECTURES[network]
  for name, layer in narrow.named_layers:
    features = dict(full.named_layers)[name].features
    if features is not None:
      by = 4 if name.startswith('conv') else 8
      assert layer.features == features // by
