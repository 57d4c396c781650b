"""What each guard stops, warns of or refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.cli.errors import TrainingStopped, UserError
from alexnet_jax.learning import health, optimizer, steps
from alexnet_jax.learning.placement import place
from alexnet_jax.model import AlexNet, Architecture
from alexnet_jax.model.build import abstract_params
from alexnet_jax.model.layer_types import Activation, Conv, Dense, MaxPool
from alexnet_jax.runs import guards
from configs import digits

NARROW = Architecture(
  name='narrow',
  input_size=23,
  layers=(
    Conv(8, 5, stride=2, weight_std=0.1, then=(Activation(), MaxPool())),
    Conv(8, 3, weight_std=0.1, then=(MaxPool(2, 1), Activation())),
    Dense(16, weight_std=0.1, then=(Activation(),)),
    Dense(weight_std=0.1),
  ),
)
MODEL = AlexNet(NARROW, num_classes=10)


def settings(**changes):
  config = digits.get_config()
  config.update_from_flattened_dict(changes)
  return config


def batch(images=None):
  rng = np.random.default_rng(0)
  if images is None:
    images = rng.normal(0, 50, (8, 23, 23, 3))
  return {
    'image': jnp.asarray(images, jnp.float32).reshape(1, 8, 23, 23, 3),
    'label': jnp.arange(8, dtype=jnp.int32)[None],
  }


@pytest.fixture
def state():
  plateau = optimizer.plateau_decay(digits.get_config().optimizer)
  return steps.create_train_state(MODEL, optimizer.paper_sgd(), plateau, 23, 0)


def p_step(config, state):
  return steps.p_train_step(
    place(MODEL, state, devices=jax.devices()[:1]),
    donate=False,
    model=MODEL,
    tx=optimizer.paper_sgd(),
    rates=optimizer.rates_of(config.optimizer, 10, 100),
    dropout_key=jax.random.key(0),
  )


def test_a_loss_that_is_not_finite_names_its_step(state):
  config = settings()
  step = p_step(config, state)
  state = step(state, batch())
  guards.check_finite(config, state, 1)
  images = np.zeros((8, 23, 23, 3))
  images[3, 4, 5] = np.inf
  state = step(state, batch(images))
  # The check may come later, but it names the first such step.
  state = step(step(state, batch()), batch())
  with pytest.raises(TrainingStopped, match=r'step 2 is NaN .* of step 1 is'):
    guards.check_finite(config, state, 1)
  guards.check_finite(settings(**{'guards.not_finite': 'off'}), state, 1)


def test_a_gradient_that_is_not_finite_with_a_finite_loss(state):
  # Kernels of 0 remove the pixels from the loss, not from the gradient.
  state.params['conv1']['kernel'] *= 0
  state.params['conv1']['bias'] += 1
  state.params['fc4']['kernel'] *= 1e4
  state = p_step(settings(), state)(state, batch(np.full((8, 23, 23, 3), 3e38)))
  assert math.isfinite(state.sums['loss'])
  with pytest.raises(TrainingStopped, match='gradient of step 1 is NaN'):
    guards.check_finite(settings(), state, None)


def test_parameters_that_overflow_are_not_saved(state):
  # A step may overflow although its loss and gradient are finite.
  state = state.replace(step=state.step + 7)
  guards.check_finite(settings(), state, None)
  state.params['fc3']['kernel'] *= np.inf
  with pytest.raises(TrainingStopped, match='at step 7 some parameters are'):
    guards.check_finite(settings(), state, None)


@pytest.mark.parametrize(
  ('step', 'loss', 'changes', 'expected'),
  [
    (100, math.log(10), {}, True),
    (100, math.log(10) + 0.04, {}, True),
    (100, math.log(10) - 0.06, {}, False),
    (100, math.log(1000), {}, True),
    (99, math.log(10), {}, False),
    (100, 0.1, {}, False),
    (100, math.log(10) - 0.06, {'guards.stall_margin': 0.1}, True),
    (100, math.log(10), {'guards.stall': 'off'}, False),
    (100, math.log(10), {'guards.stall': 'stop'}, True),
    (100, math.nan, {}, False),
  ],
)
def test_when_a_loss_counts_as_stalled(step, loss, changes, expected):
  config = settings(**{'guards.stall_steps': 100, **changes})
  # A network of 1000 outputs on a dataset of 10 classes.
  assert guards.stalled(config, step, loss, (10, 1000)) is expected


def test_the_layer_that_died_is_named(state):
  config = settings()
  one = jax.tree.map(lambda x: x[0], batch())
  after = p_step(config, state)(state, batch())
  alive = health.layer_health(state.params, after.params, one, model=MODEL)
  assert list(alive) == ['conv1', 'conv2', 'fc3', 'fc4']
  assert all(alive[name]['dead'] < 0.5 for name in ('conv1', 'conv2', 'fc3'))
  assert math.isnan(alive['fc4']['dead'])
  # The first layer, computed independently.
  _, out = MODEL.apply(
    {'params': state.params},
    one['image'],
    capture_intermediates=True,
    mutable=['intermediates'],
  )
  x = np.maximum(out['intermediates']['conv1']['__call__'][0], 0)
  assert alive['conv1']['activation'] == pytest.approx(
    np.sqrt((x**2).mean()), rel=1e-5
  )
  before, now = (t['conv1']['kernel'] for t in (state.params, after.params))
  assert alive['conv1']['update'] == pytest.approx(
    np.linalg.norm(now - before) / np.linalg.norm(before), rel=1e-4
  )

  state.params['conv2']['bias'] -= 1e6
  after = p_step(config, state)(state, batch())
  dead = health.layer_health(state.params, after.params, one, model=MODEL)
  assert dead['conv1']['dead'] < 0.5
  assert dead['conv2']['dead'] == 1
  assert dead['conv2']['activation'] == 0
  lines = guards.health_lines(dead)
  assert 'conv2 is the first layer with over half of its units' in lines[-1]
  [of_conv2] = [line for line in lines if line.split()[0] == 'conv2'][:1]
  assert '100.0%' in of_conv2


PARAMETERS = abstract_params(MODEL, 23)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'optimizer.learning_rate': 0.0}, 'is 0 from step 0 on'),
    ({'optimizer.frozen_layers': NARROW.layer_names}, 'is 0 from step 0 on'),
    (
      {
        'optimizer.rules': (
          {'params': '*', 'from_epoch': 3, 'learning_rate': 0.0},
        )
      },
      'is 0 from step 30 on',
    ),
    ({'guards.min_epoch_steps': 11}, 'an epoch has 10 steps, at least 11'),
  ],
)
def test_a_training_that_learns_nothing_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    guards.check_before(settings(**changes), PARAMETERS, 10, 100)
  changes = {
    **changes,
    'guards.zero_learning_rate': 'off',
    'guards.min_epoch_steps': 10,
  }
  guards.check_before(settings(**changes), PARAMETERS, 10, 100)


def test_a_learning_rate_of_zero_for_some_layers_is_allowed():
  changes = {
    'optimizer.learning_rate': 0.0,
    'optimizer.rules': ({'params': 'fc4/*', 'learning_rate': 0.1},),
  }
  guards.check_before(settings(**changes), PARAMETERS, 10, 100)
