"""One run at a time in a workdir, and workdirs from untrusted sources."""

import contextlib
import json
import os
import pickle
import random
import shutil
import signal

import chaos
import pytest
import zygote
from etils import epath

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.config.saved import check_workdir
from alexnet_jax.runs import digests, workdirs
from alexnet_jax.runs.writer import Writer
from configs import digits


def test_a_second_run_is_refused_while_the_first_runs(tmp_path):
  workdir = epath.Path(tmp_path / 'run')
  with workdirs.sole_run(workdir):
    (workdir / 'config.json').write_text('{}')
    with (
      pytest.raises(UserError, match=rf'another run \(process {os.getpid()}'),
      workdirs.sole_run(workdir),
    ):
      raise AssertionError
    assert workdir.exists()
  with workdirs.sole_run(workdir):  # The first has ended.
    pass
  assert sorted(path.name for path in workdir.iterdir()) == [
    '.lock',
    'config.json',
  ]


def test_a_refused_run_leaves_no_workdir(tmp_path):
  workdir = epath.Path(tmp_path / 'a/b')
  with pytest.raises(UserError), workdirs.sole_run(workdir):
    raise UserError('no')
  assert not workdir.exists()


def test_a_workdir_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(StorageError, match='cannot write in'),
    workdirs.sole_run(epath.Path(tmp_path / 'file/run')),
  ):
    raise AssertionError


@pytest.mark.parametrize(
  'name',
  ['metrics.jsonl', '.config.json.tmp', '.lock', 'conv1.png', 'profile',
   'checkpoints', 'checkpoints/7', 'checkpoints/0/default',
   'events.out.tfevents.1'],
)  # fmt: skip
def test_links_in_a_workdir_are_refused(small_network, tmp_path, name):
  workdir = shutil.copytree(small_network, tmp_path / 'run')
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  (elsewhere / 'mine').write_text('mine')
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    shutil.rmtree(workdir / name)
  (workdir / name).unlink(missing_ok=True)
  (workdir / name).symlink_to(elsewhere)
  for mode in ('train', 'eval'):
    run = zygote.start(
      '--config=configs/digits.py', f'--workdir={workdir}', f'--mode={mode}'
    )
    assert run.wait() == 2, run.output
    assert f'{name} is a link' in run.stderr
  with pytest.raises(UserError, match='is a link'):
    pretrained.load(workdir)
  assert chaos.contents(elsewhere) == {'mine': b'mine'}


def test_a_pipe_in_a_workdir_is_refused(small_network, tmp_path):
  workdir = shutil.copytree(small_network, tmp_path / 'run')
  (workdir / 'preprocessing.json').unlink()
  os.mkfifo(workdir / 'preprocessing.json')
  with pytest.raises(UserError, match='neither a file nor a folder'):
    pretrained.load(workdir)


def test_the_workdir_itself_may_be_a_link(small_network, tmp_path):
  (tmp_path / 'link').symlink_to(small_network)
  assert pretrained.load(tmp_path / 'link').step == 0


class Bomb:
  def __reduce__(self):
    return os.mkdir, ('exploded',)


def test_no_pickle_is_read(small_network, tmp_path, monkeypatch):
  """Each file of a workdir in turn is a pickle, with matching digests."""
  monkeypatch.chdir(tmp_path)
  bomb = pickle.dumps(Bomb())
  files = [p.relative_to(small_network) for p in small_network.rglob('*')
           if p.is_file() and p.name != digests.FILE]  # fmt: skip
  assert len(files) > 8
  for file in files:
    workdir = shutil.copytree(small_network, tmp_path / 'run')
    (workdir / file).write_bytes(bomb)
    folder = epath.Path(workdir) / 'checkpoints/0'
    digests.seal(folder, epath.Path(workdir) / 'preprocessing.json')
    with contextlib.suppress(UserError, StorageError):
      pretrained.load(workdir)
    assert not (tmp_path / 'exploded').exists()
    shutil.rmtree(workdir)


VALUES = (None, True, -1, 0, 1e308, 10**30, '', '../../x', 'os.system', [], {},
          [[[]]], {'a': {}}, '\x1b[2J', float('nan'))  # fmt: skip


def _mutate(value, rng):
  """Returns a JSON value with a random part replaced or removed."""
  if isinstance(value, dict) and value and rng.random() < 0.9:
    key = rng.choice(sorted(value))
    if rng.random() < 0.1:
      return {k: v for k, v in value.items() if k != key}
    return {**value, key: _mutate(value[key], rng)}
  if isinstance(value, list) and value and rng.random() < 0.5:
    i = rng.randrange(len(value))
    return [*value[:i], _mutate(value[i], rng), *value[i + 1 :]]
  return rng.choice(VALUES)


@pytest.mark.parametrize('name', ['config.json', 'preprocessing.json'])
def test_any_content_of_a_file_gives_no_traceback(
  small_network, tmp_path, name
):
  workdir = shutil.copytree(small_network, tmp_path / 'run')
  valid = json.loads((workdir / name).read_text())
  if name == 'config.json':
    valid = {**json.loads(json.dumps(digits.get_config().to_dict())), **valid}
  rng = random.Random(0)
  refused = 0
  for _ in range(25):
    (workdir / name).write_text(json.dumps(_mutate(valid, rng)))
    with contextlib.suppress(UserError):
      check_workdir(digits.get_config(), epath.Path(workdir), 11)
    try:
      pretrained.load(workdir)
    except (UserError, StorageError):
      refused += 1
  assert refused > 2
  (workdir / name).write_text('[' * 100_000)
  with pytest.raises(UserError):
    pretrained.load(workdir)


def test_events_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(StorageError, match='cannot write TensorBoard events'):
    Writer(epath.Path(tmp_path / 'file/run'), 0)


def test_incomplete_and_foreign_lines_of_the_metrics(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  good = [
    '{"split": "train", "step": 1, "loss": 2.5}',
    '{"split": "validation", "step": 1, "loss": 2.4}',
  ]
  path.write_bytes(
    b'\n'.join(
      [
        good[0].encode(), b'{"split": "train", "st', b'\xff\xfe', b'[]', b'7',
        b'{"step": {}, "split": 1}', b'{"step": 1e999, "split": "a"}',
        '{"step": 1, "split": "a"}'.encode('utf-16'), good[0].encode(),
        good[1].encode(),
        b'{"split": "train", "step": 2, "loss": 2.3}',
      ]
    )  # The newline of the last one is missing.
  )  # fmt: skip
  log = Writer(epath.Path(tmp_path), 1)
  log.scalars('validation', 1, 0.5, {'loss': 2.4})  # Written already.
  log.scalars('train', 2, 1.0, {'loss': 2.3, 'top5_error': None})
  log.close()
  lines = path.read_text().splitlines()
  assert lines[:2] == good
  assert len(lines) == 3
  assert 'top5_error' not in lines[2]  # As where there are five classes.
  assert json.loads(lines[2])['step'] == 2


def test_the_message_names_the_process_that_uses_the_workdir(tmp_path):
  workdir = tmp_path / 'run'
  arguments = ('--config=configs/digits.py', f'--workdir={workdir}')
  first = zygote.start(*arguments)
  first.wait_for('compiling')
  second = zygote.start(*arguments)
  assert second.wait() == 2
  assert f'in use by another run (process {first.pid})' in second.stderr
  first.send_signal(signal.SIGKILL)
  first.wait()
  third = zygote.start(*arguments)
  third.wait_for('compiling')
  third.send_signal(signal.SIGKILL)
  third.wait()
