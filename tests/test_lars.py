"""LARS, and the learning rate schedules of large batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from test_learning import settings

from alexnet_jax.learning import optimizer
from alexnet_jax.learning.optimizer import learning_rate_schedule, paper_sgd

ETA = 0.02


def trees(seed, number):
  """Returns trees of random parameters."""
  rng = np.random.default_rng(seed)
  shapes = {
    'conv1': {'kernel': (3, 3, 2, 4), 'bias': (4,)},
    'fc2': {'kernel': (5, 6), 'bias': (6,)},
  }
  is_shape = {'is_leaf': lambda x: isinstance(x, tuple)}
  return [
    jax.tree.map(lambda shape: rng.normal(size=shape), shapes, **is_shape)
    for _ in range(number)
  ]


def by_hand(w, all_grads, rate, decay, momentum, in_velocity):
  """Returns a parameter after each step, as in the paper's algorithm."""
  v, path = np.zeros_like(w), []
  for g in all_grads:
    norm_w = np.sqrt((w**2).sum())
    norm_g = np.sqrt((g**2).sum())
    local = 1.0
    if norm_w > 0 and norm_g > 0:
      local = ETA * norm_w / (norm_g + decay * norm_w)
    step = rate * local
    if in_velocity:
      v = momentum * v + step * (g + decay * w)
      w = w - v
    else:
      v = momentum * v + g + decay * w
      w = w - step * v
    path.append(w)
  return path


@pytest.mark.parametrize('in_velocity', [True, False])
@pytest.mark.parametrize(
  ('momentum', 'decay'), [(0.9, 0.05), (0.0, 0.05), (0.9, 0.0)]
)
def test_lars_equals_a_loop(momentum, decay, in_velocity):
  with jax.enable_x64(True):
    (params,) = trees(0, 1)
    all_grads = trees(1, 6)
    # The norms of one parameter and of one gradient are 0.
    params['fc2']['kernel'] *= 0
    all_grads[0]['conv1']['bias'] *= 0
    config = settings(
      learning_rate=0.5,
      weight_decay=decay,
      rules=(
        {'params': 'fc2/bias', 'learning_rate': 0.0},
        {'params': 'conv1/bias', 'multiplier': 2.0, 'weight_decay': 0.0},
      ),
    )
    rates = optimizer.rates_of(config, 10, 60)
    tx = paper_sgd(momentum, in_velocity, lars_coefficient=ETA)
    state, found = tx.init(params), params
    path = []
    for step, grads in enumerate(all_grads):
      updates, state = tx.update(grads, state, found, rates=rates(found, step))
      found = optax.apply_updates(found, updates)
      path.append(found)
  for layer, kinds in params.items():
    for kind, w in kinds.items():
      mine = 0.5, decay
      if kind == 'bias':
        mine = {'conv1': (1.0, 0.0), 'fc2': (0.0, decay)}[layer]
      grads = [g[layer][kind] for g in all_grads]
      expected = by_hand(w, grads, *mine, momentum, in_velocity)
      for step, value in enumerate(expected):
        np.testing.assert_allclose(
          path[step][layer][kind], value, rtol=1e-6, atol=1e-9
        )


def test_the_size_of_a_gradient_does_not_matter_without_decay():
  (params,), (grads,) = trees(0, 1), trees(1, 1)
  rates = optimizer.rates_of(settings(weight_decay=0.0), 1, 1)(params, 0)
  moves = [
    paper_sgd(lars_coefficient=ETA).update(
      jax.tree.map(lambda g, by=by: jnp.float32(by * g), grads),
      paper_sgd().init(params),
      params,
      rates=rates,
    )[0]
    for by in (1, 1000)
  ]
  for w, one, other in zip(
    *map(jax.tree.leaves, (params, *moves)), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5)
    # By eta times the learning rate, relative to the parameter.
    assert np.linalg.norm(one) == pytest.approx(
      ETA * 0.1 * np.linalg.norm(w), rel=1e-5
    )


@pytest.mark.parametrize('together', [True, False])
def test_parts_of_parameters_need_the_sums_of_all_devices(together):
  (params,), (grads,) = trees(0, 1), trees(1, 1)
  rates = optimizer.rates_of(settings(), 1, 1)(params, 0)
  tx = paper_sgd(lars_coefficient=ETA)

  def squares(tree):
    return jax.lax.psum(optimizer.squares(tree), 'batch')

  options = {'squares': squares} if together else {}

  def update(params, grads):
    return tx.update(grads, tx.init(params), params, rates=rates, **options)[0]

  halves = jax.tree.map(lambda x: P(*[None] * (x.ndim - 1), 'batch'), params)
  moves = jax.shard_map(
    update,
    mesh=Mesh(np.array(jax.devices()[:2]), ('batch',)),
    in_specs=(halves, halves),
    out_specs=halves,
    check_vma=False,
  )(params, grads)
  expected, _ = tx.update(grads, tx.init(params), params, rates=rates)
  for one, other in zip(
    jax.tree.leaves(moves), jax.tree.leaves(expected), strict=True
  ):
    assert np.allclose(one, other, rtol=1e-5, atol=0) == together


def test_warmup_from_a_learning_rate_and_polynomial_decay():
  schedule = learning_rate_schedule(
    settings(
      learning_rate=10.0,
      warmup_epochs=0.4,
      warmup_learning_rate=1.0,
      schedule='polynomial',
      polynomial_power=2.0,
    ),
    10,
    20,
  )
  expected = [1, 3.25, 5.5, 7.75, 10 * 0.8**2, 10 * 0.75**2]
  found = [float(schedule(step)) for step in range(20)]
  np.testing.assert_allclose(found[:6], expected, rtol=1e-6)
  assert found[10] == pytest.approx(2.5)
  assert found[19] == pytest.approx(10 * 0.05**2)
  assert float(schedule(20)) == float(schedule(25)) == 0
  np.testing.assert_allclose(schedule(np.arange(20)), found, rtol=1e-6)


def test_warmup_from_0_multiplies_a_polynomial():
  schedule = learning_rate_schedule(
    settings(
      learning_rate=8.0,
      warmup_epochs=1,
      schedule='polynomial',
      polynomial_power=1.0,
    ),
    4,
    8,
  )
  expected = [8 / 4, 7 * 2 / 4, 6 * 3 / 4, 5, 4, 3, 2, 1]
  np.testing.assert_allclose(schedule(np.arange(8)), expected, rtol=1e-6)


def test_warmup_from_a_learning_rate_before_steps():
  schedule = learning_rate_schedule(
    settings(
      schedule='step',
      drop_epochs=(3,),
      warmup_epochs=2,
      warmup_learning_rate=0.02,
    ),
    2,
    10,
  )
  expected = [0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]
  np.testing.assert_allclose(schedule(np.arange(10)), expected, rtol=1e-6)
