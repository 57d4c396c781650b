import importlib
import json
import pathlib
import types

import jax.numpy as jnp
import narrow
import pytest
from etils import epath

from alexnet_jax import train
from alexnet_jax.cli import command
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config import loading
from alexnet_jax.config.saved import check_eval, check_workdir, write_config
from alexnet_jax.config.values import profile_steps, validate
from alexnet_jax.learning import optimizer
from configs import default


@pytest.mark.parametrize(
  'name', sorted(path.stem for path in pathlib.Path('configs').glob('*.py'))
)
def test_every_config_is_valid(name):
  module = importlib.import_module(f'configs.{name}')
  assert module.__doc__
  if (
    name != 'finetune'
  ):  # Incomplete without init_from: tests/test_finetune.py.
    validate(module.get_config())


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('num_epochs', 0),
    ('num_train_steps', 0),
    ('model.dropout_rate', 1.0),
    ('model.dtype', 'float16'),
    ('data.lighting', 'pca'),
    ('data.mean', (1, 2)),
    ('data.std', (1.0, 0.0, 1.0)),
    ('data.crop_size', 257),
    ('optimizer.learning_rate', -0.1),
    ('profile', '5'),
    ('profile', '9:3'),
    ('profile', 'a:b'),
    ('optimizer.learning_rate', float('nan')),
    ('optimizer.momentum', 1.0),
    ('optimizer.drop_factor', 10.0),
    ('optimizer.schedule', 'cosine'),
    ('optimizer.plateau_min_improvement', 0.0),
    ('optimizer.drop_epochs', ('a',)),
    ('optimizer.warmup_epochs', float('inf')),
    ('seed', 2**32),
    ('eval.crops', 5),
    ('eval.batch_size', 0),
    ('data.train_crop', 'any'),
    ('data.lighting_epochs', -1),
    ('model.dropout_scaling', 'both'),
    ('optimizer.exponential_factor', 0.0),
    ('optimizer.exponential_steps', 1),
    ('optimizer.polynomial_power', 0.0),
    ('optimizer.lars_coefficient', -0.1),
    ('optimizer.warmup_learning_rate', -1.0),
    ('optimizer.frozen_layers', ('conv9',)),
    ('optimizer.rules', ('*/bias',)),
    ('optimizer.rules', ({'multiplier': 2.0},)),
    ('optimizer.rules', ({'params': '*/bias'},)),
    ('optimizer.rules', ({'params': '*/bias', 'rate': 2.0},)),
    ('optimizer.rules', ({'params': '*/bias', 1: 2.0, 'rate': 2.0},)),
    ('optimizer.rules', ({'params': '*/bias', 'multiplier': -2.0},)),
    ('optimizer.rules', ({'params': '*/bias', 'multiplier': '2'},)),
    ('optimizer.rules', ({'params': 'conv9/*', 'multiplier': 2.0},)),
    (
      'optimizer.rules',
      ({'params': '*', 'multiplier': 2.0, 'learning_rate': 0.1},),
    ),
  ],
)
def test_an_invalid_value_is_named(field, value):
  config = default.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=field) as error:
    validate(config)
  assert '\n' not in str(error.value)


def test_a_resized_crop_has_no_part_of_the_mean_image():
  config = default.get_config()
  config.data.mean_crop = 'same'
  config.data.train_crop = 'random_resized'
  with pytest.raises(UserError, match='mean_crop'):
    validate(config)


@pytest.mark.parametrize('schedule', ['discrete_exponential', 'polynomial'])
def test_a_schedule_over_the_length_of_the_run_does_not_grow(workdir, schedule):
  changes = {'optimizer.schedule': schedule}
  config = default.get_config()
  config.update_from_flattened_dict(changes)
  write_config(config, workdir)
  check(workdir, **changes)
  with pytest.raises(UserError, match=f'{schedule}.* depends on the length'):
    check(workdir, **changes, num_epochs=91)


@pytest.fixture
def workdir(tmp_path):
  folder = epath.Path(tmp_path)
  write_config(default.get_config(), folder)
  return folder


def check(workdir, **changes):
  config = default.get_config()
  config.update_from_flattened_dict(changes)
  check_workdir(config, workdir, steps_per_epoch=100)


def test_what_a_run_may_resume_with(workdir):
  check(workdir)
  saved = json.loads((workdir / 'config.json').read_text())
  # Of an earlier version.
  del saved['data']['balance']
  for name in ('init_head', 'parallelism', 'grad_accumulation'):
    del saved[name]
  for name in ('lars_coefficient', 'polynomial_power', 'reduce_dtype',
               'warmup_learning_rate'):  # fmt: skip
    del saved['optimizer'][name]
  (workdir / 'config.json').write_text(json.dumps(saved))
  check(workdir)
  check(workdir, grad_accumulation=2)
  check(workdir, num_epochs=91)
  check(workdir, num_train_steps=9000)  # 90 epochs.
  check(
    workdir,
    **{
      'log_every_steps': 1,
      'data.data_dir': '/elsewhere',
      'eval.batch_size': 7,
      'checkpoint.every_steps': 5,
    },
  )


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('num_epochs', 89, 'not shrink'),
    ('num_train_steps', 8999, 'not shrink'),
    ('seed', 1, 'seed 0 -> 1'),
    ('optimizer.momentum', 0.5, 'optimizer.momentum 0.9 -> 0.5'),
    ('data.mean', (1, 2, 3), r"data.mean 'image' -> \[1, 2, 3\]"),
    ('eval.crops', 10, 'eval.crops 1 -> 10'),
  ],
)
def test_what_a_run_may_not_resume_with(workdir, field, value, message):
  with pytest.raises(UserError, match=message):
    check(workdir, **{field: value})


def test_a_folder_that_holds_no_run(tmp_path):
  folder = epath.Path(tmp_path)
  (folder / 'checkpoints').mkdir()
  with pytest.raises(UserError, match=r'no config\.json'):
    check(folder)
  (folder / 'config.json').write_text('not json')
  with pytest.raises(UserError, match='not a config'):
    check(folder)


def test_evaluation_compares_only_the_network(workdir):
  config = default.get_config()
  config.batch_size = 7
  config.optimizer.momentum = 0.5
  config.model.dtype = 'bfloat16'
  check_eval(config, workdir)
  config.model.num_classes = 10
  with pytest.raises(UserError, match='num_classes None -> 10'):
    check_eval(config, workdir)


def test_a_config_is_written_atomically(workdir):
  saved = json.loads((workdir / 'config.json').read_text())
  assert saved['data']['std'] == [1.0, 1.0, 1.0]
  assert [path.name for path in workdir.iterdir()] == ['config.json']


def load(tmp_path, body):
  path = tmp_path / 'mine.py'
  path.write_text(f'from configs import default\ndef get_config():\n{body}')
  return loading.load(str(path))


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('  c = default.get_config(); c.nosuch = 3; return c', 'nosuch'),
    (
      '  c = default.get_config(); c.optimizer.learning_rte = 1.0; return c',
      'learning_rate',
    ),
    ('  return {}', 'returns a dict'),
    ('  return 1 / 0', 'ZeroDivisionError'),
  ],
)
def test_an_invalid_config_file(tmp_path, body, message):
  with pytest.raises(UserError, match=message) as error:
    load(tmp_path, body)
  assert '\n' not in str(error.value)


def test_a_config_that_lacks_fields(tmp_path):
  config = load(tmp_path, '  return default.get_config()')
  with config.unlocked():
    del config.optimizer.momentum
  with pytest.raises(UserError, match=r'no field optimizer\.momentum'):
    validate(config)


def test_evaluation_ignores_the_values_of_training_fields():
  config = default.get_config()
  config.batch_size = 0
  config.data.crop_size = 60
  config.optimizer.momentum = 7.0
  validate(config, 'eval')
  config.eval.batch_size = 0
  with pytest.raises(UserError, match=r'eval\.batch_size'):
    validate(config, 'eval')


def test_a_drop_of_the_learning_rate_is_printed(capsys):
  config = default.get_config().optimizer
  config.plateau_patience = 2
  plateau = optimizer.plateau_decay(config)
  state = types.SimpleNamespace(plateau=plateau.init(jnp.zeros(())))
  state.replace = lambda plateau: types.SimpleNamespace(
    plateau=plateau, replace=state.replace
  )
  for error in (0.5, 0.4, 0.4, 0.4):
    assert capsys.readouterr().out == ''
    state = train._observe(config, plateau, state, error)
  said = capsys.readouterr().out
  # As often as the config says, and no more.
  for _ in range(12):
    state = train._observe(config, plateau, state, 0.4)
  assert capsys.readouterr().out.count('plateau:') == 2
  assert 'no better than 40.00% for 2 evaluations' in said
  assert '0.01 -> 0.001 (drop 1 of at most 3)' in said


def test_a_bucket_needs_its_package(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError, match='pip install google-cloud-storage'):
    absolute('gs://bucket/run')


def test_the_steps_of_a_profile():
  assert list(profile_steps('100:103')) == [100, 101, 102]
  assert not profile_steps('')


def test_a_config_may_define_a_network():
  config = narrow.get_config()
  validate(config)
  assert config.model.name == 'narrow'


@pytest.mark.parametrize(
  ('arguments', 'typed'),
  [
    (['--config=a.py', '--workdir=/home/me/x', '--config.seed=1'],
     '--config=a.py --config.seed=1'),
    (['-workdir', '/home/me/x', '--config.data.data_dir', 'd', '--config=a.py'],
     '--config=a.py'),
    (['--workdir', 'a,b', '--mode=eval', '--out=c', '--distributed'],
     '--workdir=a,b --mode=eval'),
    (['--config.data.mean=(1, 2, 3)'], "'--config.data.mean=(1, 2, 3)'"),
  ],
)  # fmt: skip
def test_a_recorded_command_has_no_local_paths(monkeypatch, arguments, typed):
  monkeypatch.setattr('sys.argv', ['/x/alexnet_jax/main.py', *arguments])
  assert command.typed() == f'python -m alexnet_jax.main {typed}'
  monkeypatch.setattr('sys.argv', ['/x/notebook.py', *arguments])
  assert command.typed() is None


def test_a_config_takes_an_argument(tmp_path):
  path = tmp_path / 'configs' / 'a.py'
  path.parent.mkdir()
  path.write_text(
    'from configs import default\n'
    "def get_config(data='x'):\n"
    '  config = default.get_config()\n'
    '  config.data.name = data\n'
    '  return config\n'
  )
  assert loading.load(f'{path}:imagenette').data.name == 'imagenette'
  assert loading.load(str(path)).data.name == 'x'


def test_parts_of_a_batch_change_batch_normalization(tmp_path):
  config = default.get_config()
  config.model.name = 'alexnet_bn'
  write_config(config, epath.Path(tmp_path))
  changes = {'model.name': 'alexnet_bn', 'grad_accumulation': 2}
  with pytest.raises(UserError, match='grad_accumulation 1 -> 2'):
    check(epath.Path(tmp_path), **changes)
