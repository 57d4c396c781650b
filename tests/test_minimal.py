"""examples/alexnet_minimal.py against the package: logits, steps, training."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from alexnet_jax.learning import optimizer, placement, steps
from alexnet_jax.model import ARCHITECTURES, AlexNet
from configs import imagenet

PATH = pathlib.Path(__file__).parent.parent / 'examples/alexnet_minimal.py'
SIZE = 67  # The smallest.


@pytest.fixture(scope='module')
def minimal():
  spec = importlib.util.spec_from_file_location('alexnet_minimal', PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def state():
  """The state of a real run before its first step."""
  return steps.create_train_state(
    AlexNet(ARCHITECTURES['paper'], num_classes=10),
    optimizer.paper_sgd(),
    optimizer.plateau_decay(imagenet.get_config().optimizer),
    SIZE,
    seed=0,
  )


def batches(number):
  rng = np.random.default_rng(0)
  for _ in range(number):
    # Smooth ones: noise would be the same to all kernels.
    images = rng.normal(size=(4, 5, 5, 3)).astype(np.float32) * 60
    images = jax.image.resize(images, (4, SIZE, SIZE, 3), 'linear')
    yield np.asarray(images), rng.integers(0, 10, 4).astype(np.int32)


def assert_near(found, expected):
  """All within 5e-6 of the largest number in each array."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    np.testing.assert_allclose(x, y, rtol=0, atol=5e-6 * np.abs(y).max())


def test_it_is_one_page():
  source = PATH.read_text()
  assert len(source.splitlines()) <= 150
  assert 'alexnet_jax' not in source


@pytest.fixture(scope='module')
def trained(state):
  """Parameters with which every part of the network changes the logits."""
  rng = np.random.default_rng(1)

  def draw(x):
    std = 0.1 if x.ndim == 1 else (0.6 / x[..., 0].size) ** 0.5
    return rng.normal(size=x.shape).astype(np.float32) * std

  return jax.tree.map(draw, state.params)


def test_logits(minimal, trained):
  ((images, _),) = batches(1)
  model = AlexNet(ARCHITECTURES['paper'], num_classes=10)
  expected = jax.jit(model.apply)({'params': trained}, images)
  found = jax.jit(minimal.AlexNet(10).apply)({'params': trained}, images)
  # The images have different logits.
  assert np.std(expected, axis=0).min() > 0.01 * np.abs(expected).max()
  assert_near(found, expected)


def test_initial_parameters(minimal, state):
  params = minimal.AlexNet(10).init(
    jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32)
  )['params']
  assert_near(params, state.params)


def test_three_steps_of_training(minimal, state, trained):
  """The real step, with its dropout, momentum and weight decay."""
  config = imagenet.get_config()
  rate = config.optimizer.learning_rate
  model = AlexNet(ARCHITECTURES['paper'], num_classes=10)
  key = jax.random.key(1)
  step = steps.p_train_step(
    placement.place(model, state, devices=jax.devices()[:1]),
    donate=False,
    model=model,
    tx=optimizer.paper_sgd(config.optimizer.momentum),
    rates=optimizer.rates_of(config.optimizer, 100, 100),
    dropout_key=key,
  )
  params, velocity = trained, minimal.sgd(rate).init(trained)
  real = state.replace(params=trained)
  for i, (images, labels) in enumerate(batches(3)):
    real = step(real, {'image': images[None], 'label': labels[None]})
    # The real key has the step and the device.
    of_step = jax.random.fold_in(jax.random.fold_in(key, i), 0)
    params, velocity, _ = minimal.train_step(
      minimal.AlexNet(10), params, velocity, images, labels, rate, of_step
    )
  assert_near(params, real.params)


def test_it_trains(minimal, monkeypatch, capsys):
  """Its loop, on 20 small images, for five epochs."""
  digits = minimal.digits
  for name, value in (('SIZE', 72), ('CROP', 67), ('BATCH', 4), ('EPOCHS', 5)):
    monkeypatch.setattr(minimal, name, value)
  # So small that nothing is learned: the plateau rule divides it by 10.
  monkeypatch.setattr(minimal, 'LEARNING_RATE', 1e-9)
  monkeypatch.setattr(minimal, 'digits', lambda: [x[:20] for x in digits()])
  minimal.main()
  lines = capsys.readouterr().out.splitlines()
  found = [line.split('learning rate ')[1].split(',')[0] for line in lines]
  assert found == ['1e-09'] * 4 + ['1e-10']
