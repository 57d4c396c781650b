"""Which checkpoints count, what is done with those that do not."""

import pathlib
import random
import shutil

import chaos
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.learning import metrics, steps
from alexnet_jax.runs import checkpoint, digests

PARAMS = {'conv1': {'kernel': np.arange(6000.0, dtype=np.float32)}}


def state_at(step, offset=0.0):
  params = jax.tree.map(lambda x: jnp.asarray(x + step + offset), PARAMS)
  return steps.TrainState(
    step=jnp.asarray(step, jnp.int32),
    params=params,
    opt_state={'v': jnp.ones(3)},
    plateau={'scale': jnp.ones(())},
    sums=metrics.zero_sums(),
    not_finite=jnp.zeros((), jnp.int32),
  )


def scores_of(error):
  return {
    'num_examples': 8, 'loss': 1 / 3, 'top1_error': error, 'top5_error': 0.0
  }  # fmt: skip


def save(workdir, errors, keep=2):
  """Saves steps; those that have an error are evaluated."""
  with checkpoint.open_checkpoints(epath.Path(workdir), keep) as checkpoints:
    for step, error in errors.items():
      checkpoints.save(state_at(step))
      if error is not None:
        checkpoints.record(step, scores_of(error))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('saved')
  (workdir / 'preprocessing.json').write_text('{}')
  save(workdir, {1: 0.5, 2: None, 3: 0.2, 4: 0.3, 5: None, 6: 0.25})
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  return epath.Path(shutil.copytree(saved, tmp_path / 'run'))


def test_the_latest_and_the_best_are_kept(workdir):
  assert checkpoint.saved_steps(workdir) == [3, 5, 6]
  with checkpoint.open_checkpoints(workdir, 2) as checkpoints:
    assert checkpoints.latest == 6
    assert checkpoints.best == 3
    assert checkpoints.scores(6) == scores_of(0.25)
    assert checkpoints.scores(5) is None
    restored = checkpoints.restore(6, state_at(0))
    for leaf, expected in zip(
      jax.tree.leaves(restored), jax.tree.leaves(state_at(6)), strict=True
    ):
      np.testing.assert_array_equal(leaf, expected)


def test_of_equal_ones_the_later_is_the_best(tmp_path):
  save(tmp_path, {1: 0.5, 2: 0.5, 3: None, 4: None})
  assert checkpoint.saved_steps(epath.Path(tmp_path)) == [2, 3, 4]


@pytest.mark.parametrize('damage', [chaos.flip, chaos.truncate, chaos.remove])
def test_any_damaged_file_is_named_and_the_one_before_used(
  saved, tmp_path, damage, capsys
):
  rng = random.Random(0)
  files = [path.relative_to(saved) for path in chaos.files_of(saved, 6)]
  assert len(files) > 10
  for name in files:
    workdir = shutil.copytree(saved, tmp_path / 'run', dirs_exist_ok=True)
    damage(workdir / name, rng)
    before = (workdir / name).read_bytes() if damage != chaos.remove else None
    assert checkpoint.settle(epath.Path(workdir)) == 5
    said = capsys.readouterr().err
    named = str(name).removeprefix('checkpoints/6/')
    assert f'WARNING: the checkpoint of step 6 is broken: {named} ' in said
    assert 'going on from step 5' in said
    # Put aside, not deleted; and out of the way of the next step 6.
    assert checkpoint.saved_steps(epath.Path(workdir)) == [3, 5]
    aside = workdir / 'broken_checkpoints/6' / named
    assert (aside.read_bytes() if aside.exists() else None) == before
    save(workdir, {6: 0.1})
    assert checkpoint.settle(epath.Path(workdir)) == 6
    shutil.rmtree(workdir)


def test_the_last_byte_counts(workdir):
  path = pathlib.Path(workdir) / 'checkpoints/6' / digests.FILE
  path.write_bytes(path.read_bytes()[:-1])
  assert checkpoint.settle(workdir) == 5


def test_a_broken_best_is_not_the_best(workdir, capsys):
  folder = pathlib.Path(workdir) / 'checkpoints/3'
  chaos.flip(folder / 'default/_METADATA', random.Random(0))
  assert checkpoint.settle(workdir) == 6
  assert 'step 3 is broken: default/_METADATA' in capsys.readouterr().err
  with checkpoint.open_checkpoints(workdir, 2) as checkpoints:
    assert checkpoints.best == 6


def test_none_is_whole(workdir):
  rng = random.Random(1)
  for step in (3, 5, 6):
    chaos.flip(rng.choice(chaos.files_of(workdir, step)), rng)
  before = chaos.contents(workdir)
  with pytest.raises(StorageError, match=r'no whole checkpoint .* step 5: '):
    checkpoint.settle(workdir)
  with pytest.raises(StorageError, match='no whole checkpoint'):
    checkpoint.restore_params(workdir, 'best', PARAMS)
  assert chaos.contents(workdir) == before


def test_what_killed_saves_leave_is_removed(workdir):
  left = workdir / 'checkpoints' / '7.orbax-checkpoint-tmp'
  shutil.copytree(workdir / 'checkpoints/6', left)
  shutil.copytree(
    workdir / 'checkpoints/6',
    workdir / 'checkpoints/8.orbax-checkpoint-tmp.sealing',
  )
  assert checkpoint.settle(workdir) == 6
  there = {path.name for path in (workdir / 'checkpoints').iterdir()}
  assert there == {'3', '5', '6'}


def test_nothing_was_saved_yet(tmp_path):
  assert checkpoint.settle(epath.Path(tmp_path)) is None
  (tmp_path / 'checkpoints' / '4.orbax-checkpoint-tmp').mkdir(parents=True)
  assert checkpoint.settle(epath.Path(tmp_path)) is None


@pytest.mark.parametrize(
  ('which', 'broken', 'step', 'best'),
  [
    ('best', (), 3, 3),
    ('latest', (), 6, 3),
    ('5', (), 5, 3),
    ('latest', (6,), 5, 3),
    ('best', (3,), 6, 6),
    ('best', (3, 6), 5, 5),
  ],
)
def test_parameters_of_a_whole_checkpoint(
  workdir, which, broken, step, best, capsys
):
  rng = random.Random(2)
  for number in broken:
    folder = pathlib.Path(workdir) / 'checkpoints' / str(number)
    chaos.flip(folder / 'default/_METADATA', rng)
  before = chaos.contents(workdir)
  found = checkpoint.restore_params(workdir, which, PARAMS)
  assert found[:2] == (step, best)
  np.testing.assert_array_equal(
    found[2]['conv1']['kernel'], PARAMS['conv1']['kernel'] + step
  )
  assert capsys.readouterr().err.count('is broken') == len(broken)
  assert chaos.contents(workdir) == before


def test_a_step_that_was_asked_for_is_not_replaced(workdir):
  path = pathlib.Path(workdir) / 'checkpoints/5/default/_METADATA'
  chaos.truncate(path, random.Random(0))
  with pytest.raises(StorageError, match='step 5: default/_METADATA has '):
    checkpoint.restore_params(workdir, '5', PARAMS)
  with pytest.raises(UserError, match=r"no checkpoint '4' .* 3, 5, 6"):
    checkpoint.restore_params(workdir, '4', PARAMS)


def test_changed_preprocessing_is_not_gone_on_with(workdir):
  (workdir / 'preprocessing.json').write_text('{ }')
  before = chaos.contents(workdir)
  with pytest.raises(StorageError, match='has changed since step 6 was saved'):
    checkpoint.settle(workdir)
  assert chaos.contents(workdir) == before
  # It can be made anew.
  (workdir / 'preprocessing.json').unlink()
  assert checkpoint.settle(workdir) == 6


def test_scores_survive_and_their_damage_is_noticed(workdir):
  folder = workdir / 'checkpoints/6'
  digests.record_scores(folder, scores_of(0.125))
  assert digests.faults(folder) == []
  assert digests.scores(folder) == scores_of(0.125)
  path = folder / digests.FILE
  path.write_text(path.read_text().replace('0.125', '0.124'))
  assert digests.scores(folder) is None
  assert digests.faults(folder) == [
    'digests.json has changed since it was saved (SHA-256)'
  ]
