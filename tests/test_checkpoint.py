"""Which checkpoints are used, and what happens to corrupt ones."""

import dataclasses
import errno
import os
import pathlib
import random
import re
import shutil

import chaos
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import sync
from alexnet_jax.learning import metrics, steps
from alexnet_jax.runs import checkpoint, digests
from alexnet_jax.runs.intact import saved_steps
from alexnet_jax.runs.params import restore_params

# Beside the state: when it was saved. Nothing reads them again.
OF_THE_SAVE = ('_CHECKPOINT_METADATA', 'commit_success.txt')

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
  """Saves steps, and records scores for those with an error."""
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
  assert saved_steps(workdir) == [3, 5, 6]
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


def test_of_equal_errors_the_later_step_is_the_best(tmp_path):
  save(tmp_path, {1: 0.5, 2: 0.5, 3: None, 4: None})
  assert saved_steps(epath.Path(tmp_path)) == [2, 3, 4]


@pytest.mark.parametrize('damage', [chaos.flip, chaos.truncate, chaos.remove])
def test_any_damaged_file_is_named_and_the_checkpoint_before_used(
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
    warning = capsys.readouterr().err
    named = str(name).removeprefix('checkpoints/6/')
    assert f'WARNING: the checkpoint of step 6 is corrupt: {named} ' in warning
    assert 'resuming from step 5' in warning
    # Moved, not deleted; and out of the way of the next step 6.
    assert saved_steps(epath.Path(workdir)) == [3, 5]
    moved = workdir / 'broken_checkpoints/6' / named
    assert (moved.read_bytes() if moved.exists() else None) == before
    save(workdir, {6: 0.1})
    assert checkpoint.settle(epath.Path(workdir)) == 6
    shutil.rmtree(workdir)


def test_the_last_byte_counts(workdir):
  path = pathlib.Path(workdir) / 'checkpoints/6' / digests.FILE
  path.write_bytes(path.read_bytes()[:-1])
  assert checkpoint.settle(workdir) == 5


def test_a_corrupt_checkpoint_is_not_the_best(workdir, capsys):
  folder = pathlib.Path(workdir) / 'checkpoints/3'
  chaos.flip(folder / 'default/_METADATA', random.Random(0))
  assert checkpoint.settle(workdir) == 6
  assert 'step 3 is corrupt: default/_METADATA' in capsys.readouterr().err
  with checkpoint.open_checkpoints(workdir, 2) as checkpoints:
    assert checkpoints.best == 6


def test_no_checkpoint_is_intact(workdir):
  rng = random.Random(1)
  for step in (3, 5, 6):
    chaos.flip(rng.choice(chaos.files_of(workdir, step)), rng)
  before = chaos.contents(workdir)
  with pytest.raises(StorageError, match=r'no intact checkpoint .* step 5: '):
    checkpoint.settle(workdir)
  with pytest.raises(StorageError, match='no intact checkpoint'):
    restore_params(workdir, 'best', PARAMS)
  assert chaos.contents(workdir) == before


@pytest.mark.parametrize('damage', [chaos.flip, chaos.truncate, chaos.remove])
def test_what_orbax_notes_beside_the_state_is_not_needed(workdir, damage):
  for name in OF_THE_SAVE:
    path = pathlib.Path(workdir) / 'checkpoints/6' / name
    damage(path, random.Random(0))
    if path.exists():
      path.write_text('[]')  # Orbax cannot read this one.
  assert checkpoint.settle(workdir) == 6
  assert restored_step(workdir, 6) == 6
  assert restore_params(workdir, 'latest', PARAMS)[:2] == (6, 3)


def restored_step(workdir, step):
  with checkpoint.open_checkpoints(workdir, 2) as checkpoints:
    return checkpoints.restore(step, state_at(0)).step


def test_a_checkpoint_of_an_earlier_release(workdir):
  """Its digests.json names what Orbax notes beside the state, too."""
  folder = workdir / 'checkpoints/6'
  content = digests._read(folder)
  for name in OF_THE_SAVE:
    content['files'][name] = digests._digest(folder / name)
  digests._write(folder, content)
  assert checkpoint.settle(workdir) == 6
  assert restored_step(workdir, 6) == 6
  chaos.flip(pathlib.Path(folder / OF_THE_SAVE[0]), random.Random(0))
  assert checkpoint.settle(workdir) == 5


def test_leftovers_of_interrupted_saves_are_removed(workdir):
  # The second is of an earlier release.
  for name in ('7.orbax-checkpoint-tmp', '8.orbax-checkpoint-tmp.sealing'):
    shutil.copytree(workdir / 'checkpoints/6', workdir / 'checkpoints' / name)
  assert checkpoint.settle(workdir) == 6
  assert restore_params(workdir, 'latest', PARAMS)[:2] == (6, 3)
  left = {path.name for path in (workdir / 'checkpoints').iterdir()}
  assert len(left) == 5  # Neither looking nor evaluating removes them.
  with checkpoint.open_checkpoints(workdir, 2):
    left = {path.name for path in (workdir / 'checkpoints').iterdir()}
    assert left == {'3', '5', '6'}


def test_no_half_of_a_deleted_checkpoint_has_its_name(workdir, monkeypatch):
  """A kill as one is deleted, which Orbax has moved aside."""
  monkeypatch.setattr(checkpoint.Checkpoints, '_empty', lambda self: None)
  with checkpoint.open_checkpoints(workdir, 1) as checkpoints:
    checkpoints.save(state_at(7))
  monkeypatch.undo()
  half = workdir / 'checkpoints' / 'deleted' / '6'
  (half / 'digests.json').unlink()
  assert saved_steps(workdir) == [3, 7]
  assert checkpoint.settle(workdir) == 7
  with checkpoint.open_checkpoints(workdir, 1):
    assert not half.parent.exists()
  assert saved_steps(workdir) == [3, 7]
  assert not (workdir / 'broken_checkpoints').exists()


def test_no_checkpoint_is_committed_without_its_digests(workdir, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(digests, 'seal', full)
  with pytest.raises(StorageError, match='no space left'):
    save(workdir, {7: None})
  assert checkpoint.settle(workdir) == 6
  monkeypatch.undo()
  save(workdir, {7: None})
  assert checkpoint.settle(workdir) == 7


DOCUMENT = pathlib.Path(__file__).parent.parent / 'docs' / 'weights.md'
PLAIN_ORBAX = re.findall(
  r'```python\n([^`]*orbax.checkpoint[^`]*)```', DOCUMENT.read_text()
)


@pytest.mark.parametrize('block', PLAIN_ORBAX, ids=['v0', 'v1'])
def test_plain_orbax_restores_all(workdir, block):
  """The lines of the document, for a state of a training run."""
  documented = 'runs/torchvision/checkpoints/0'
  assert documented in block
  names = {}
  exec(block.replace(documented, f'{workdir}/checkpoints/6'), names)
  expected = dataclasses.asdict(state_at(6))
  jax.tree.map(np.testing.assert_array_equal, names['state'], expected)


def test_nothing_to_resume_before_the_first_save(tmp_path):
  assert checkpoint.settle(epath.Path(tmp_path)) is None
  (tmp_path / 'checkpoints' / '4.orbax-checkpoint-tmp').mkdir(parents=True)
  assert checkpoint.settle(epath.Path(tmp_path)) is None


@pytest.mark.parametrize(
  ('which', 'corrupt', 'step', 'best'),
  [
    ('best', (), 3, 3),
    ('latest', (), 6, 3),
    ('5', (), 5, 3),
    ('latest', (6,), 5, 3),
    ('best', (3,), 6, 6),
    ('best', (3, 6), 5, 5),
  ],
)
def test_parameters_of_an_intact_checkpoint(
  workdir, which, corrupt, step, best, capsys
):
  rng = random.Random(2)
  for number in corrupt:
    folder = pathlib.Path(workdir) / 'checkpoints' / str(number)
    chaos.flip(folder / 'default/_METADATA', rng)
  before = chaos.contents(workdir)
  *restored, params = restore_params(workdir, which, PARAMS)
  assert restored == [step, best]
  np.testing.assert_array_equal(
    params['conv1']['kernel'], PARAMS['conv1']['kernel'] + step
  )
  assert capsys.readouterr().err.count('is corrupt') == len(corrupt)
  assert chaos.contents(workdir) == before


def test_a_step_given_by_number_is_not_replaced(workdir):
  path = pathlib.Path(workdir) / 'checkpoints/5/default/_METADATA'
  chaos.truncate(path, random.Random(0))
  with pytest.raises(StorageError, match='step 5: default/_METADATA has '):
    restore_params(workdir, '5', PARAMS)
  with pytest.raises(UserError, match=r"no checkpoint '4' .* 3, 5, 6"):
    restore_params(workdir, '4', PARAMS)


def test_a_run_with_changed_preprocessing_is_not_resumed(workdir):
  (workdir / 'preprocessing.json').write_text('{ }')
  before = chaos.contents(workdir)
  with pytest.raises(StorageError, match='has changed since step 6 was saved'):
    checkpoint.settle(workdir)
  assert chaos.contents(workdir) == before
  # It can be computed again.
  (workdir / 'preprocessing.json').unlink()
  assert checkpoint.settle(workdir) == 6


@pytest.mark.parametrize('top5', [0.0, None])  # None: five classes or fewer.
def test_the_top5_error_may_be_absent(workdir, top5):
  folder = workdir / 'checkpoints/6'
  digests.record_scores(folder, {**scores_of(0.125), 'top5_error': top5})
  assert digests.faults(folder) == []
  with checkpoint.open_checkpoints(workdir, 2) as checkpoints:
    assert checkpoints.scores(6)['top5_error'] == top5
    assert checkpoints.best == 6
  digests.record_scores(folder, {**scores_of(0.125), 'top5_error': 'none'})
  assert digests.scores(folder) is None


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


@pytest.mark.parametrize('number', [errno.EACCES, errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, number):
  """As one that the user may not read, which holds the workdir."""

  def fail(*_):
    raise OSError(number, os.strerror(number))

  file = tmp_path / 'file'
  file.touch()
  for name in ('open', 'fsync'):
    with monkeypatch.context() as patch:
      patch.setattr(os, name, fail)
      if number == errno.EIO:
        with pytest.raises(OSError, match='Input/output'):
          sync(tmp_path)
      else:
        sync(tmp_path)
      with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        sync(file)
