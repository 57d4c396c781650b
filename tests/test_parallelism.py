"""Data and hybrid parallelism on several devices give one device's numbers."""

import dataclasses
import os
import pickle
import shutil
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zygote
from etils import epath
from jax.sharding import PartitionSpec
from PIL import Image
from test_alexnet import small
from test_learning import settings
from test_main import results

from alexnet_jax.cli.errors import UserError
from alexnet_jax.learning import optimizer, steps
from alexnet_jax.learning.placement import (
  check_units,
  on_devices,
  place,
  replicate,
)
from alexnet_jax.model import AlexNet, layer_types
from alexnet_jax.runs import checkpoint, digests
from alexnet_jax.runs.params import params_digest


def make(network='paper', num_classes=5, dtype='float64', **tx):
  """Returns a narrow network without dropout, its optimizer and its state."""
  architecture = small(network).with_dropout(rate=0.0)
  model = AlexNet(architecture, num_classes, jnp.dtype(dtype))
  sgd = optimizer.paper_sgd(**tx)
  plateau = optimizer.plateau_decay(settings())
  state = steps.create_train_state(model, sgd, plateau, 67, seed=0)
  # On the host: a step deletes its state.
  return model, sgd, jax.device_get(state)


def batches(number, size=16, num_classes=5):
  rng = np.random.default_rng(0)
  for _ in range(number):
    yield {
      'image': rng.normal(size=(size, 67, 67, 3)).astype(np.float32) * 50,
      'label': rng.integers(0, num_classes, size).astype(np.int32),
    }


def p_step(placement, model, sgd, **more):
  return steps.p_train_step(
    placement,
    model=model,
    tx=sgd,
    rates=optimizer.rates_of(settings(learning_rate=1e-3), 100, 100),
    dropout_key=jax.random.key(1),
    **more,
  )


def train(parallelism, num_devices, number=20, made=None, more=None, **network):
  """Returns the state after some steps, as it lies on the devices."""
  model, sgd, state = made or make(**network)
  more = more or {}
  placement = place(
    model,
    state,
    parallelism,
    jax.devices()[:num_devices],
    more.get('grad_accumulation', 1),
  )
  state = placement.put(state)
  step = p_step(placement, model, sgd, **more)
  for batch in batches(number, num_classes=model.num_classes):
    parts = {
      k: x.reshape(num_devices, -1, *x.shape[1:]) for k, x in batch.items()
    }
    state = step(state, parts)
  return state


def differences(state, expected):
  """Returns the relative difference of all parameters, and of the worst array.

  The worst may be a velocity.
  """

  def relative(a, b):
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))

  def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

  a, b = (
    jax.device_get((s.params, s.opt_state.trace)) for s in (state, expected)
  )
  each = jax.tree.leaves(jax.tree.map(relative, a, b))
  return relative(flat(a[0]), flat(b[0])), max(each)


OTHERS = ('data', 2), ('data', 8), ('hybrid', 1), ('hybrid', 2), ('hybrid', 4)


def long(values):
  return pytest.param(*values, marks=pytest.mark.long)


@pytest.fixture(scope='module')
def one_device():
  with jax.enable_x64(True):
    return jax.device_get(train('data', 1))


@pytest.mark.parametrize(
  ('parallelism', 'num_devices'),
  [('data', 4), ('hybrid', 8), *map(long, OTHERS)],
)
def test_the_same_numbers_on_any_number_of_devices(
  one_device, parallelism, num_devices
):
  with jax.enable_x64(True):
    state = train(parallelism, num_devices)
    assert max(differences(state, one_device)) < 1e-12
    assert float(state.sums['loss']) == pytest.approx(
      float(one_device.sums['loss']), rel=1e-12
    )
  # Divided where they should be, the velocity like its parameter.
  whole, rows = PartitionSpec(), PartitionSpec('batch')
  columns = PartitionSpec(None, 'batch')
  expected = {
    1: (whole, whole, whole),
    'data': (rows, whole, rows),
    'hybrid': (columns, rows, rows),
  }[1 if num_devices == 1 else parallelism]
  for tree in (state.params, state.opt_state.trace):
    fc6, fc8 = tree['fc6'], tree['fc8']
    found = fc6['kernel'], fc6['bias'], fc8['kernel']
    assert tuple(x.sharding.spec for x in found) == expected
    assert tree['conv1']['kernel'].sharding.spec == whole
  fc7 = state.params['fc7']['kernel']
  assert fc7.addressable_shards[0].data.size == fc7.size // num_devices


@pytest.mark.parametrize('parallelism', [long(['data']), 'hybrid'])
def test_in_float32_all_parameters_together(parallelism):
  made = make(dtype='float32')
  one, eight = (train(parallelism, number, made=made) for number in (1, 8))
  assert differences(eight, one)[0] < 1e-6


@pytest.mark.long
@pytest.mark.parametrize('parallelism', ['data', 'hybrid'])
def test_batch_normalization_and_lars(parallelism):
  """Statistics, and norms of divided arrays, are those of all devices."""
  with jax.enable_x64(True):
    made = make('alexnet_bn', num_classes=7, lars_coefficient=0.1)
    one, four = (train(parallelism, number, 5, made=made) for number in (1, 4))
    assert max(differences(four, one)) < 1e-12
  norm = jax.device_get(four.params['norm1'])
  assert np.abs(norm['mean']).max() > 0
  assert not np.any(jax.device_get(four.opt_state.trace['norm1']['mean']))


@pytest.mark.parametrize(
  ('parallelism', 'num_devices'),
  [long(['data', 1]), ('data', 2), long(['hybrid', 2])],
)
def test_a_batch_in_parts_gives_the_same_parameters(
  one_device, parallelism, num_devices
):
  with jax.enable_x64(True):
    more = {'grad_accumulation': 4}
    state = train(parallelism, num_devices, more=more)
    assert max(differences(state, one_device)) < 1e-12


@pytest.mark.long
def test_running_averages_of_a_batch_in_parts():
  """The mean of the parts' statistics enters, once a step."""
  with jax.enable_x64(True):
    made = make('alexnet_bn')
    parts = train('data', 1, 1, made=made, more={'grad_accumulation': 2})
    model, _, state = made
    [batch] = batches(1)
    expected = []
    for half in np.split(batch['image'], 2):
      _, new = model.apply(
        {'params': state.params}, half, train=True, mutable=['averages']
      )
      expected.append(new['averages']['norm1']['mean'])
    np.testing.assert_allclose(
      parts.params['norm1']['mean'], np.mean(expected, axis=0), rtol=1e-10
    )


@pytest.mark.long
def test_gradients_in_bfloat16():
  made = make(dtype='float32')
  exact = train('data', 4, 3, made=made)
  rounded = train('data', 4, 3, made=made, more={'reduce_dtype': jnp.bfloat16})
  together, each = differences(rounded, exact)
  assert 1e-9 < together < 1e-4
  assert each < 0.1
  step = p_step(place(*made[::2]), *made[:2], reduce_dtype=jnp.bfloat16)
  [batch] = batches(1)
  batch = {k: x.reshape(8, -1, *x.shape[1:]) for k, x in batch.items()}
  text = step.lower(made[2], batch).as_text()
  sums = text.count('stablehlo.all_reduce') + text.count('reduce_scatter')
  assert sums > 10
  assert text.count('xbf16>) -> tensor') >= 10


def test_each_unit_is_dropped_independently_of_other_units_and_images():
  """fc2's kernel is the identity, so the logits are fc1's kept units."""
  units, number = 64, 8
  architecture = layer_types.Architecture(
    'dropped',
    1,
    (
      layer_types.Conv(1, kernel=1),
      layer_types.Dense(units, bias=1.0, then=(layer_types.Dropout(0.5),)),
      layer_types.Dense(),
    ),
  )
  model = AlexNet(architecture, units)
  _, sgd, _ = make(dtype='float32')
  plateau = optimizer.plateau_decay(settings())
  state = steps.create_train_state(model, sgd, plateau, 1, 0)
  params = jax.tree.map(jnp.zeros_like, state.params)
  params['fc2']['bias'] = jnp.ones(units)
  params['fc3']['kernel'] = jnp.eye(units)
  placement = place(model, state.replace(params=params), 'hybrid')

  def logits(params, images):
    key = jax.random.fold_in(jax.random.key(3), jax.lax.axis_index('batch'))
    return placement.of_device(model).apply(
      {'params': params}, images, train=True, rngs={'dropout': key}
    )

  run = on_devices(
    logits,
    placement.mesh,
    placement.specs.params,
    PartitionSpec('batch'),
    pmapped=False,
  )
  images = np.zeros((number, 50, 1, 1, 3), np.float32)
  kept = np.asarray(run(params, images))
  assert kept.shape == (number * 50, units)
  assert set(np.unique(kept)) == {0, 2}
  assert kept.mean() == pytest.approx(1, abs=0.03)
  # No two images, and no two units, have the same mask.
  assert len(np.unique(kept, axis=0)) == len(kept)
  assert len(np.unique(kept, axis=1).T) == units
  correlation = np.corrcoef(kept.T) - np.eye(units)
  assert np.abs(correlation).max() < 0.25


@pytest.mark.long
def test_a_single_fully_connected_layer():
  """Its inputs are divided, although no layer before it is."""
  with jax.enable_x64(True):
    architecture = small('paper')
    one_layer = (*architecture.layers[:5], architecture.layers[-1])
    model = AlexNet(
      layer_types.Architecture('one', 67, one_layer), 5, jnp.float64
    )
    _, sgd, _ = make()
    plateau = optimizer.plateau_decay(settings())
    state = steps.create_train_state(model, sgd, plateau, 67, seed=0)
    made = model, sgd, jax.device_get(state)
    one, two = (train('hybrid', number, 5, made=made) for number in (1, 2))
    assert max(differences(two, one)) < 1e-12


@pytest.mark.parametrize('number', [3, 512])
def test_devices_that_cannot_have_equal_parts(number):
  model, _, state = make(dtype='float32')
  with pytest.raises(UserError) as error:
    check_units(model, state.params, 'hybrid', number)
  message = str(error.value)
  assert f'{number} devices' in message
  assert 'fc6 (256)' in message
  assert '1, 2, 4, 8, 16, 32, 64, 128, 256 devices' in message
  check_units(model, state.params, 'data', number)


def test_hybrid_refuses_what_needs_all_units_of_a_divided_layer():
  def check(layers, number):
    model = AlexNet(layer_types.Architecture('n', 67, tuple(layers)), 5)
    check_units(model, state.params, 'hybrid', number)

  _, _, state = make(dtype='float32')
  *others, fc6, fc7, fc8 = small('paper').layers
  norm = (layer_types.BatchNorm(),)
  after_fc6 = [*others, dataclasses.replace(fc6, then=norm), fc7, fc8]
  check(after_fc6, 1)
  with pytest.raises(UserError, match='BatchNorm after it needs all'):
    check(after_fc6, 4)
  # fc8 is divided by its inputs: each device has all of its outputs.
  check([*others, fc6, fc7, dataclasses.replace(fc8, then=norm)], 4)


@pytest.mark.parametrize('parallelism', ['data', 'hybrid'])
def test_the_shapes_of_what_a_device_has(parallelism):
  model, _, state = make(dtype='float32')
  placement = place(model, state, parallelism, jax.devices()[:4])
  placed = placement.put(state)
  on_first = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, placed)
  expected = jax.tree.map(lambda x: x.shape, placement.shapes(state))
  assert on_first == expected
  assert expected.params['fc6']['kernel'] != state.params['fc6']['kernel'].shape


@pytest.mark.parametrize('parallelism', [long(['data']), 'hybrid'])
def test_a_number_that_is_not_finite_on_one_device_is_seen(parallelism):
  made = model, sgd, state = make(dtype='float32')
  trace = state.opt_state.trace
  kernel = trace['fc6']['kernel'].copy()
  kernel[-1, -1] = np.inf  # The last device's.
  trace = {**trace, 'fc6': {**trace['fc6'], 'kernel': kernel}}
  bad = state.replace(opt_state=state.opt_state._replace(trace=trace))
  trained = train(parallelism, 4, 1, made=(model, sgd, bad))
  assert int(trained.not_finite) == 1
  assert int(train(parallelism, 4, 1, made=made).not_finite) == 0


@pytest.mark.long
@pytest.mark.parametrize('parallelism', ['data', 'hybrid'])
def test_a_checkpoint_is_the_same_whatever_wrote_it(tmp_path, parallelism):
  """Saved by 8 devices, restored and trained on by others."""
  workdir = epath.Path(tmp_path)
  made = make(dtype='float32')
  state = train(parallelism, 8, 2, made=made)
  with checkpoint.open_checkpoints(workdir, keep=1) as checkpoints:
    checkpoints.save(state)
    checkpoints.wait()
    restored = checkpoints.restore(2, made[2])
  expected = jax.device_get(replicate(state.params))
  assert params_digest(restored.params) == params_digest(expected)
  made = (*made[:2], restored)
  first, other = (
    train(kind, number, 2, made=made)
    for kind, number in (('data', 1), ('hybrid', 2))
  )
  assert differences(other, first)[0] < 1e-6


def test_a_hybrid_checkpoint_without_one_of_its_files(tmp_path):
  workdir = epath.Path(tmp_path)
  state = train('hybrid', 8, 1, dtype='float32')
  with checkpoint.open_checkpoints(workdir, keep=1) as checkpoints:
    checkpoints.save(state)
  folder = tmp_path / 'checkpoints' / '1'
  assert digests.faults(epath.Path(folder)) == []
  parts = sorted(
    (p for p in folder.rglob('*') if p.is_file() and '/d/' in str(p)),
    key=lambda p: p.stat().st_size,
  )
  parts[-1].unlink()
  [fault] = digests.faults(epath.Path(folder))
  assert fault.endswith('is missing')


ONE_OF_SEVERAL = """
import pickle, sys
import jax
jax.config.update('jax_enable_x64', True)
number, index, port, out, tests, kinds = sys.argv[1:]
sys.path.insert(0, tests)
jax.distributed.initialize(f'localhost:{port}', int(number), int(index))
assert jax.device_count() == 4
import numpy as np
from etils import epath
from test_parallelism import batches, make, p_step
from alexnet_jax.runs import checkpoint
from alexnet_jax.data import input_pipeline
from alexnet_jax.learning.placement import place, replicate
found = {}
for parallelism in kinds.split(','):
  model, sgd, state = make()
  placement = place(model, state, parallelism)
  state, step = placement.put(state), p_step(placement, model, sgd)
  own = (
    {k: np.split(x, int(number))[int(index)] for k, x in batch.items()}
    for batch in batches(20)
  )
  for batch in input_pipeline.to_devices(own, placement.mesh):
    state = step(state, batch)
  with checkpoint.open_checkpoints(epath.Path(out), 1) as checkpoints:
    checkpoints.save(state)
  trees = state.params, state.opt_state.trace
  found[parallelism] = jax.device_get(replicate(trees))
with open(f'{out}/{index}', 'wb') as file:
  pickle.dump(found, file)
"""


@pytest.mark.parametrize(
  ('number', 'kinds'),
  [(2, 'hybrid'), *map(long, [(4, 'data'), (4, 'hybrid')])],
)
def test_several_processes(one_device, tmp_path, number, kinds):
  """Together they have four devices."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  flags = f'--xla_force_host_platform_device_count={4 // number} '
  flags += '--xla_backend_optimization_level=1'
  folders = tmp_path, os.path.dirname(__file__)
  runs = [
    subprocess.Popen(
      [
        sys.executable,
        '-c',
        ONE_OF_SEVERAL,
        *map(str, (number, i, port, *folders)),
        kinds,
      ],
      env={**os.environ, 'XLA_FLAGS': flags},
    )
    for i in range(number)
  ]
  assert [run.wait() for run in runs] == [0] * number
  for i in range(number):
    found = pickle.loads((tmp_path / str(i)).read_bytes())
    for params, velocity in found.values():
      state = one_device.replace(
        params=params,
        opt_state=one_device.opt_state._replace(trace=velocity),
      )
      assert max(differences(state, one_device)) < 1e-12
  # All have saved it, each its parts.
  with (
    jax.enable_x64(True),
    checkpoint.open_checkpoints(epath.Path(tmp_path), 1) as checkpoints,
  ):
    restored = checkpoints.restore(20, one_device)
  assert max(differences(restored, one_device)) < 1e-12
  assert digests.faults(tmp_path / 'checkpoints' / '20') == []


def command(*arguments, devices, status=0):
  done = zygote.start('--config=tests/narrow.py', *arguments, devices=devices)
  assert done.wait() == status, done.output
  return done.output


@pytest.mark.long
def test_a_run_resumes_with_the_other_parallelism_and_is_scored(tmp_path):
  workdir = f'--workdir={tmp_path / "run"}'
  hybrid = '--config.parallelism=hybrid'
  more = ('--config.batch_size=32', '--config.model.dropout_rate=0.0')
  command(*more, hybrid, workdir, '--config.num_train_steps=4', devices=4)
  output = command(*more, workdir, '--config.num_train_steps=8', devices=2)
  assert 'resuming from the checkpoint of step 4' in output
  trained = results(tmp_path / 'run')
  once = f'--workdir={tmp_path / "once"}'
  command(*more, once, '--config.num_train_steps=8', devices=1)
  expected = results(tmp_path / 'once')
  assert trained['loss'] == pytest.approx(expected['loss'], rel=1e-4)
  assert trained['num_examples'] == expected['num_examples'] == 355


@pytest.mark.long
def test_whatever_reads_a_run_reads_a_hybrid_one(tmp_path):
  run = tmp_path / 'run'
  config = ('--config=configs/digits.py', f'--workdir={run}')
  training = zygote.start(
    *config,
    '--config.parallelism=hybrid',
    '--config.num_train_steps=4',
    # The stall of the first steps is diagnosed.
    '--config.guards.stall_steps=2',
    '--config.log_every_steps=1',
    devices=4,
  )
  assert training.wait() == 0, training.output
  assert 'layer by layer' in training.output
  trained = results(run)
  shutil.copytree(run, tmp_path / 'copy')
  image = tmp_path / 'image.png'
  Image.fromarray(np.full((80, 80, 3), 100, np.uint8)).save(image)
  for module, *arguments in (
    ('main', '--mode=eval', '--config.eval.crops=10'),
    ('main', '--mode=eval', f'--workdir={run},{tmp_path / "copy"}'),
    ('main', '--mode=eval'),
    ('predict', str(image)),
    ('export', str(tmp_path / 'network.stablehlo')),
  ):
    if not arguments[-1].startswith('--workdir='):
      arguments.append(f'--workdir={run}')
    done = zygote.start(*arguments, module=f'alexnet_jax.{module}', devices=2)
    assert done.wait() == 0, done.output
  assert results(run)['loss'] == pytest.approx(trained['loss'], rel=1e-5)


def test_refused_in_one_line(tmp_path):
  arguments = (f'--workdir={tmp_path / "run"}', '--config.parallelism=hybrid')
  output = command(*arguments, '--config.batch_size=48', devices=3, status=2)
  assert 'cannot have equal parts' in output
  output = command(*arguments, '--config.batch_size=50', devices=4, status=2)
  assert 'not divisible by the 4 devices: use 48 or 52' in output
  output = command(
    *arguments,
    '--config.batch_size=40',
    '--config.grad_accumulation=4',
    devices=4,
    status=2,
  )
  assert 'in 4 parts each (grad_accumulation): use 32 or 48' in output
  assert not (tmp_path / 'run').exists()
