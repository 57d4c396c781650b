"""The first minute at the terminal: help, mistyped flags, messages."""

import io
import json
import os
import subprocess
import sys

import pytest
import zygote
from chaos import results

from alexnet_jax.cli import terminal
from alexnet_jax.config import help as help_lib
from alexnet_jax.config.loading import flatten
from configs import default

COMMANDS = ('main', 'predict', 'convert', 'export', 'figures',
            'learning_rates', 'preflight', 'report',
            'data.resized', 'data.prepare')  # fmt: skip


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_quick_and_imports_no_large_library(name):
  command = [sys.executable, '-X', 'importtime', '-m', f'alexnet_jax.{name}']
  before = os.times()
  done = subprocess.run([*command, '--help'], capture_output=True, text=True)
  after = os.times()
  assert done.returncode == 0
  assert f'alexnet_jax.{name}' in done.stdout
  # CPU time: other tests run at the same time.
  seconds = sum(after[2:4]) - sum(before[2:4])
  assert seconds < 2, f'{seconds:.1f} s'
  lines = done.stderr.splitlines()
  assert all(line.startswith('import time:') for line in lines)
  imported = {line.rpartition('|')[2].strip() for line in lines}
  assert 'alexnet_jax' in imported
  assert not imported & {'jax', 'flax', 'tensorflow', 'orbax', 'matplotlib'}


def test_help_lists_every_field_with_its_meaning():
  command = [sys.executable, '-m', 'alexnet_jax.main', '--help']
  done = subprocess.run(command, capture_output=True, text=True)
  with open(default.__file__) as file:
    meanings = dict(help_lib._meanings(file.read()))
  fields = flatten(default.get_config())
  assert set(meanings) >= set(fields)
  text = ' '.join(done.stdout.split())
  for field in fields:
    assert f' {field}=' in text
    assert 8 <= len(meanings[field]) <= 100, (field, meanings[field])
    assert meanings[field] in text


@pytest.mark.parametrize(
  ('argument', 'hint'),
  [
    ('--config.lr=1', 'optimizer.learning_rate'),
    ('--config.epochs=1', 'num_epochs'),
    ('--config.wd=1', 'optimizer.weight_decay'),
    ('--config.bs=1', 'batch_size'),
    ('--config.dropout=1', 'model.dropout_rate'),
    ('--config.momentum=1', 'optimizer.momentum'),
    ('--config.optimizer.momentun=1', 'optimizer.momentum'),
    ('--config.model.learning_rate=1', 'optimizer.learning_rate'),
    ('--lr=1', '--config.optimizer.learning_rate'),
    ('--batch_size=1', '--config.batch_size'),
    ('--batch-size=1', '--config.batch_size'),
    ('--workdri=x', '--workdir'),
    ('--config.modelname=x', 'model.name'),
  ],
)
def test_a_mistyped_field_finds_the_one_that_is_meant(argument, hint):
  done = zygote.start('--config=configs/digits.py', argument)
  assert done.wait() == 2
  assert argument.split('=')[0] in done.stderr
  assert f'did you mean {hint}' in done.stderr
  assert done.stderr.count('\n') == 1


@pytest.mark.parametrize(
  'arguments',
  [
    # A value, which is no flag; names of flags as values; the end of flags.
    ('--config.seed', '-1'),
    ('--config.init_from', 'config', '--config.seed=-1'),
    ('--workdir', 'lr', '--config.seed=-1', '--'),
    ('--noconfig.data.flip', '--config.seed=-1'),
    ('--config.data.flip', '--config.seed=-1'),
    ('-config.seed=-1',),
  ],
)
def test_flags_in_every_form_of_absl(arguments):
  done = zygote.start('--config=configs/digits.py', *arguments)
  assert done.wait() == 2
  assert 'seed is -1' in done.stderr


@pytest.mark.parametrize(
  ('arguments', 'status', 'words'),
  [
    (['--config=' + 300 * 'x' + '.py'], 2, 'there are configs/cifar10.py'),
    (['--config=' + 300 * 'x' + '/x.py'], 2, 'there are configs/cifar10.py'),
    (['--mode=eval', '--workdir=bogus://x'], 3, 'cannot reach bogus://x'),
    (['--config=configs/digits.py', 'x'], 2, "unexpected argument 'x'"),
  ],
)
def test_what_cannot_be_loaded(arguments, status, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  done = zygote.start(*arguments)
  assert done.wait() == status
  assert words in done.stderr
  assert done.stderr.count('\n') == 1


def test_a_config_of_another_folder_imports_its_neighbors(tmp_path):
  for name in ('exp', 'elsewhere'):
    (tmp_path / name).mkdir()
  (tmp_path / 'exp' / 'base.py').write_text('SEED = -3\n')
  (tmp_path / 'exp' / 'mine.py').write_text(
    'from configs import default\n'
    'from exp import base\n'
    'def get_config():\n'
    '  config = default.get_config()\n'
    '  config.seed = base.SEED\n'
    '  return config\n'
  )
  done = zygote.start(f'--config={tmp_path}/exp/mine.py')
  assert done.wait() == 2
  assert 'seed is -3' in done.stderr


def test_a_mistyped_config_file_lists_those_there_are(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  done = zygote.start('--config=configs/digit.py')
  assert done.wait() == 2
  assert 'configs/digits.py' in done.stderr


@pytest.mark.long
def test_evaluation_needs_no_config(tmp_path, monkeypatch):
  """The run's own is in its workdir; fields of `eval` may still be set."""
  monkeypatch.chdir(tmp_path)
  train = ('--config=configs/digits.py', '--config.num_train_steps=2',
           '--config.data.val_split=test[:50]', '--workdir=run')  # fmt: skip
  done = zygote.start(*train)
  assert done.wait() == 0, done.output
  expected = results(tmp_path / 'run')
  done = zygote.start(
    '--mode=eval', '--workdir=run', '--config.eval.batch_size=7'
  )
  assert done.wait() == 0, done.output
  found = results(tmp_path / 'run')
  for name in ('num_examples', 'top1_error', 'dataset', 'params_digest'):
    assert found[name] == expected[name]
  done = zygote.start('--mode=eval', '--workdir=nothing')
  assert done.wait() == 2
  assert 'no config.json in nothing' in done.stderr
  (tmp_path / 'run' / 'config.json').write_text('{"batch_size": "many"}')
  done = zygote.start('--mode=eval', '--workdir=run')
  assert done.wait() == 2
  assert 'run/config.json is corrupt' in done.stderr
  assert done.stderr.count('\n') == 1


@pytest.mark.parametrize('field', ['name', 'data_dir', 'features'])
def test_a_workdir_of_a_stranger_runs_and_writes_nothing(
  tmp_path, monkeypatch, field
):
  """Its config.json may name a dataset, whose features.json names modules."""
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / 'theirs' / 'data' / 'owned' / '1.0.0'
  folder.mkdir(parents=True)
  (tmp_path / 'theirs' / 'evil.py').write_text('open("owned", "w")\n')
  features = {'pythonClassName': 'theirs.evil.Feature'}
  (folder / 'features.json').write_text(json.dumps(features))
  info = {'name': 'owned', 'version': '1.0.0', 'fileFormat': 'tfrecord',
          'splits': [{'name': 'test', 'shardLengths': ['1']}]}  # fmt: skip
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  data = {'name': 'owned:1.0.0', 'data_dir': 'theirs/data'} | {
    'name': {'name': 'huggingface:owned'},
    'data_dir': {'name': 'digits', 'data_dir': 'written'},
    'features': {},
  }[field]
  config = {'model': {'name': 'paper', 'num_classes': 10}, 'data': data}
  (tmp_path / 'theirs' / 'config.json').write_text(json.dumps(config))
  done = zygote.start('--mode=eval', '--workdir=theirs')
  assert done.wait() == 2
  assert done.stderr.count('\n') == 1
  assert [path.name for path in tmp_path.iterdir()] == ['theirs']


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize(
  ('stream', 'no_color', 'colored'),
  [(Terminal, '', True), (Terminal, '1', False), (io.StringIO, '', False)],
)
def test_warnings_stand_out(monkeypatch, stream, no_color, colored):
  monkeypatch.setattr('sys.stderr', stream())
  monkeypatch.setenv('NO_COLOR', no_color)
  terminal.warn('something odd')
  text = sys.stderr.getvalue()
  assert 'WARNING: ' in text.replace('\x1b[0m', '')
  assert text.endswith(' something odd\n')
  assert ('\x1b[' in text) == colored
