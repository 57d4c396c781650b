import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from test_alexnet import small

from alexnet_jax.learning import (
  eval_steps,
  metrics,
  optimizer,
  placement,
  steps,
)
from alexnet_jax.model import AlexNet
from alexnet_jax.runs import checkpoint


def settings(**changes):
  values = {
    'learning_rate': 0.1,
    'warmup_epochs': 0.0,
    'warmup_learning_rate': 0.0,
    'schedule': 'constant',
    'drop_epochs': (),
    'drop_factor': 0.1,
    'plateau_patience': 2,
    'plateau_max_drops': 3,
    'plateau_min_improvement': 1e-4,
    'weight_decay': 5e-4,
    'rules': (),
    'frozen_layers': (),
  }
  return types.SimpleNamespace(**{**values, **changes})


def layer(rng):
  return {
    'conv1': {
      'kernel': jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
      'bias': jnp.asarray(rng.normal(size=4), jnp.float32),
    }
  }


def updates_of(tx, rates, params, num_steps):
  """Returns the parameters after `num_steps` updates, and the gradients."""
  rng = np.random.default_rng(1)
  state = tx.init(params)
  all_grads = []
  for step in range(num_steps):
    grads = layer(rng)
    all_grads.append({k: np.float64(g) for k, g in grads['conv1'].items()})
    updates, state = tx.update(
      grads, state, params, rates=rates(params, step, 1.0)
    )
    params = optax.apply_updates(params, updates)
  return params['conv1'], all_grads


def test_sgd_in_the_papers_form():
  params = layer(np.random.default_rng(0))
  config = settings(
    schedule='step',
    drop_epochs=(2,),
    weight_decay=0.05,
    rules=({'params': '*/bias', 'multiplier': 2.0, 'weight_decay': 0.0},),
  )
  rates = optimizer.rates_of(config, steps_per_epoch=10, total_steps=40)
  done, all_grads = updates_of(optimizer.paper_sgd(), rates, params, 40)
  w = {k: np.float64(v) for k, v in params['conv1'].items()}
  v = {k: np.zeros_like(x) for k, x in w.items()}
  for step, g in enumerate(all_grads):
    rate = 0.1 if step < 20 else 0.01
    v['kernel'] = (
      0.9 * v['kernel'] - 0.05 * rate * w['kernel'] - rate * g['kernel']
    )
    v['bias'] = 0.9 * v['bias'] - 2 * rate * g['bias']
    w = {k: w[k] + v[k] for k in w}
  for k in w:
    np.testing.assert_allclose(done[k], w[k], rtol=1e-5, atol=1e-6)


def test_sgd_in_pytorchs_form():
  torch = pytest.importorskip('torch')
  params = layer(np.random.default_rng(0))
  config = settings(schedule='step', drop_epochs=(2,), weight_decay=0.05)
  rates = optimizer.rates_of(config, steps_per_epoch=10, total_steps=40)
  tx = optimizer.paper_sgd(rate_in_velocity=False)
  done, all_grads = updates_of(tx, rates, params, 40)
  for kind, expected in params['conv1'].items():
    w = torch.tensor(np.asarray(expected), requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.05)
    drop = torch.optim.lr_scheduler.StepLR(sgd, step_size=20, gamma=0.1)
    for g in all_grads:
      w.grad = torch.tensor(g[kind], dtype=torch.float32)
      sgd.step()
      drop.step()
    np.testing.assert_allclose(
      done[kind], w.detach().numpy(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('rate_in_velocity', [True, False])
def test_a_frozen_parameter_does_not_change(rate_in_velocity):
  params = layer(np.random.default_rng(0))
  config = settings(
    rules=(
      {'params': 'conv1/bias', 'from_epoch': 1, 'learning_rate': 0.0},
      {'params': 'conv1/kernel', 'learning_rate': 0.0},
      {'params': 'conv1/kernel', 'from_epoch': 2.5, 'multiplier': 0.5},
    )
  )
  rates = optimizer.rates_of(config, steps_per_epoch=2, total_steps=8)
  tx = optimizer.paper_sgd(rate_in_velocity=rate_in_velocity)
  after = [updates_of(tx, rates, params, n)[0] for n in range(8)]
  moves = {
    kind: [
      bool(np.any(a[kind] != b[kind])) for a, b in itertools.pairwise(after)
    ]
    for kind in ('kernel', 'bias')
  }
  # It is frozen from step 2 on, although its velocity is not zero.
  assert moves['bias'] == [True, True, *[False] * 5]
  assert moves['kernel'] == [*[False] * 5, True, True]


@pytest.mark.parametrize('rate_in_velocity', [True, False])
def test_an_infinite_gradient_does_not_change_a_frozen_parameter(
  rate_in_velocity,
):
  params = layer(np.random.default_rng(0))
  rates = optimizer.rates_of(settings(frozen_layers=('conv1',)), 1, 1)
  tx = optimizer.paper_sgd(rate_in_velocity=rate_in_velocity)
  grads = jax.tree.map(lambda x: x * jnp.inf, params)
  updates, _ = tx.update(grads, tx.init(params), params, rates=rates(params, 0))
  assert all(not np.any(x) for x in jax.tree.leaves(updates))


def test_frozen_layers_override_rules():
  config = settings(
    rules=({'params': '*', 'learning_rate': 0.3},), frozen_layers=('conv1',)
  )
  params = {**layer(np.random.default_rng(0)), 'fc2': {'bias': jnp.zeros(3)}}
  rates = optimizer.rates_of(config, 1, 1)(params, 0)
  assert rates.learning_rate == {
    'conv1': {'kernel': 0.0, 'bias': 0.0},
    'fc2': {'bias': 0.3},
  }
  assert set(jax.tree.leaves(rates.weight_decay)) == {5e-4}


def test_a_plateau_scales_the_scheduled_learning_rates():
  config = settings(rules=({'params': '*/bias', 'learning_rate': 0.3},))
  rates = optimizer.rates_of(config, 1, 1)
  rate = rates(layer(np.random.default_rng(0)), 0, 0.1).learning_rate['conv1']
  assert float(rate['kernel']) == pytest.approx(0.01)
  assert float(rate['bias']) == pytest.approx(0.3)


def test_step_schedule_and_warmup():
  schedule = optimizer.learning_rate_schedule(
    settings(schedule='step', drop_epochs=(3, 5), warmup_epochs=0.5), 10, 60
  )
  rates = np.array([float(schedule(step)) for step in range(60)])
  expected = np.full(60, 0.1)
  expected[30:] = 0.01
  expected[50:] = 0.001
  expected[:5] *= np.arange(1, 6) / 5
  np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_constant_ignores_drops():
  schedule = optimizer.learning_rate_schedule(
    settings(drop_epochs=(1,)), 10, 60
  )
  assert float(schedule(0)) == float(schedule(1000)) == np.float32(0.1)


def test_plateau_drops_after_patience_and_at_most_max_drops_times():
  config = settings()
  plateau = optimizer.plateau_decay(config)
  state = plateau.init(jnp.zeros((), jnp.float32))
  scales = []
  errors = [0.9, 0.8, 0.8, 0.81, 0.7, 0.7, 0.7, *[0.7] * 20]
  for error in errors:
    state = optimizer.observe(plateau, state, error)
    scales.append(float(state.scale))
  expected = [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001]
  np.testing.assert_allclose(scales[:9], expected, rtol=1e-5)
  np.testing.assert_allclose(scales[9:], 0.001, rtol=1e-5)


@pytest.mark.parametrize('factor', [0.1, 0.2, 0.3, 0.5, 1 / 3, 0.9])
@pytest.mark.parametrize('max_drops', [0, 1, 2, 3, 4, 5, 6])
def test_plateau_drops_exactly_max_drops_times(factor, max_drops):
  config = settings(
    drop_factor=factor, plateau_patience=1, plateau_max_drops=max_drops
  )
  plateau = optimizer.plateau_decay(config)
  state = plateau.init(jnp.zeros((), jnp.float32))
  drops, scale = 0, float(state.scale)
  for _ in range(max_drops + 4):
    state = optimizer.observe(plateau, state, 0.5)
    drops += float(state.scale) != scale
    scale = float(state.scale)
  assert drops == max_drops
  np.testing.assert_allclose(scale, factor**max_drops, rtol=1e-5)


def test_metric_sums():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(50, 20)).astype(np.float32)
  labels = rng.integers(0, 20, 50)
  mask = (rng.uniform(size=50) < 0.7).astype(np.float32)
  logits[mask == 0] = np.inf  # Blanks may have any value.
  with np.errstate(invalid='ignore'):
    log_probs = jax.nn.log_softmax(logits)
    sums = metrics.metric_sums(log_probs, jnp.asarray(labels), mask)
  means = metrics.means(sums)
  kept = np.float64(logits[mask > 0])
  kept_labels = labels[mask > 0]
  order = np.argsort(-kept, axis=1)
  exp = np.exp(kept)
  probs = exp / exp.sum(axis=1, keepdims=True)
  losses = -np.log(probs[np.arange(len(kept)), kept_labels])
  hits = order[:, :5] == kept_labels[:, None]
  assert float(sums['count']) == mask.sum()
  np.testing.assert_allclose(means['loss'], losses.mean(), rtol=1e-5)
  assert means['top1_error'] == pytest.approx(1 - hits[:, 0].mean())
  assert means['top5_error'] == pytest.approx(1 - hits.any(axis=1).mean())


def test_ties_are_ranked_by_class():
  log_probs = jnp.full((10, 10), -np.log(10.0))
  sums = metrics.metric_sums(log_probs, jnp.arange(10), jnp.ones(10))
  assert float(sums['top1_errors']) == 9
  assert float(sums['top5_errors']) == 5


def train(
  num_devices, num_steps, dropout_rate, checkpoints=None, save_at=0, start=0
):
  """Trains on `num_devices`; returns the steps' losses and the last state."""
  architecture = small('paper').with_dropout(rate=dropout_rate)
  model = AlexNet(architecture, num_classes=5)
  tx = optimizer.paper_sgd()
  plateau = optimizer.plateau_decay(settings())
  devices = jax.local_devices()[:num_devices]
  state = steps.create_train_state(model, tx, plateau, 67, seed=0)
  if start:
    state = checkpoints.restore(start, state)
  placed = placement.place(model, state, devices=devices)
  state = placed.put(state)
  step = steps.p_train_step(
    placed,
    model=model,
    tx=tx,
    rates=optimizer.rates_of(settings(learning_rate=0.001), 100, 100),
    dropout_key=jax.random.key(1),
  )
  rng = np.random.default_rng(0)
  losses, before = [], float(state.sums['loss'])
  for i in range(num_steps):
    batch = {
      'image': rng.normal(size=(16, 67, 67, 3)).astype(np.float32) * 50,
      'label': rng.integers(0, 5, 16).astype(np.int32),
    }
    batch = {
      k: x.reshape(num_devices, -1, *x.shape[1:]) for k, x in batch.items()
    }
    if i < start:
      continue
    state = step(state, batch)
    total = float(state.sums['loss'])
    losses.append((total - before) / 16)
    before = total
    if i + 1 == save_at:
      checkpoints.save(state)
  return losses, state


def assert_replicas_are_equal(state, num_devices):
  for leaf in jax.tree.leaves(state):
    if not leaf.is_fully_replicated:  # Each device has a part.
      assert leaf.addressable_shards[0].data.size * num_devices == leaf.size
      continue
    shards = [np.asarray(s.data) for s in leaf.addressable_shards]
    assert len(shards) == num_devices
    for shard in shards[1:]:
      np.testing.assert_array_equal(shard, shards[0])


@pytest.mark.long
def test_one_and_eight_devices_give_the_same_training():
  one, state_of_one = train(1, 8, dropout_rate=0.0)
  eight, state_of_eight = train(8, 8, dropout_rate=0.0)
  np.testing.assert_allclose(eight, one, atol=1e-4)
  assert_replicas_are_equal(state_of_eight, 8)
  # All parameters changed, by the same amounts.
  initial = steps.create_train_state(
    AlexNet(small('paper'), num_classes=5),
    optimizer.paper_sgd(),
    optimizer.plateau_decay(settings()),
    67,
    seed=0,
  )
  moved = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()),
    state_of_one.params,
    jax.device_get(initial.params),
  )
  assert min(jax.tree.leaves(moved)) > 1e-5
  for a, b in zip(
    jax.tree.leaves(state_of_one.params),
    jax.tree.leaves(state_of_eight.params),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.long
def test_a_checkpoint_of_8_devices_resumes_on_fewer(tmp_path):
  workdir = epath.Path(tmp_path)
  with checkpoint.open_checkpoints(workdir, keep=2) as checkpoints:
    expected, _ = train(8, 6, 0.0, checkpoints=checkpoints, save_at=3)
    checkpoints.wait()
    for num_devices in (1, 4):
      losses, _ = train(num_devices, 6, 0.0, checkpoints=checkpoints, start=3)
      np.testing.assert_allclose(losses, expected[3:], atol=1e-4)


def test_replicas_stay_equal_with_dropout():
  _, state = train(8, 3, dropout_rate=0.5)
  assert_replicas_are_equal(state, 8)


def test_devices_drop_different_units():
  architecture = small('paper')
  model = AlexNet(architecture, num_classes=5)
  tx = optimizer.paper_sgd()
  state = steps.create_train_state(
    model, tx, optimizer.plateau_decay(settings()), 67, seed=0
  )
  image = np.random.default_rng(0).normal(size=(1, 67, 67, 3)) * 50
  losses = []
  for num_devices in (1, 8):
    devices = jax.local_devices()[:num_devices]
    step = steps.p_train_step(
      placement.place(model, state, devices=devices),
      donate=False,
      model=model,
      tx=tx,
      rates=optimizer.rates_of(settings(), 100, 100),
      dropout_key=jax.random.key(1),
    )
    batch = {
      'image': np.stack([image] * num_devices).astype(np.float32),
      'label': np.zeros((num_devices, 1), np.int32),
    }
    losses.append(float(step(state, batch).sums['loss']) / num_devices)
  # With the same units dropped, every device would have the same loss.
  assert abs(losses[0] - losses[1]) > 1e-3


def test_crops_are_averaged_after_the_softmax():
  model = AlexNet(small('paper'), num_classes=5)
  rng = np.random.default_rng(2)
  images = rng.normal(size=(8, 1, 10, 67, 67, 3)).astype(np.float32) * 50
  variables = jax.jit(model.init)(jax.random.key(0), images[0, 0])
  labels = rng.integers(0, 5, (8, 1)).astype(np.int32)
  batch = {
    'image': images,
    'label': labels,
    'mask': np.ones((8, 1), np.float32),
  }
  p_eval_step = eval_steps.p_eval_step(model)
  sums = p_eval_step(placement.replicate(variables['params']), batch)
  logits = jax.jit(model.apply)(variables, images.reshape(80, 67, 67, 3))
  probs = jax.nn.softmax(logits).reshape(8, 10, 5).mean(axis=1)
  expected = -np.log(probs[np.arange(8), labels[:, 0]]).sum()
  np.testing.assert_allclose(float(sums['loss']), expected, rtol=1e-5)
  assert float(sums['count']) == 8
