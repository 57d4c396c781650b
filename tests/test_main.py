"""Runs of the main command, each in a separate process."""

import io
import json
import re
import signal
import time

import numpy as np
import pytest
import zygote
from chaos import contents, metrics, results
from test_data import damaged

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import say
from alexnet_jax.learning import optimizer, steps
from alexnet_jax.model.build import build_model
from alexnet_jax.pretrained.fine_tuning import init_from
from alexnet_jax.runs import signals
from configs import digits

CONFIG = 'tests/narrow.py'


def run(*arguments, devices=2, status=0):
  done = zygote.start(*arguments, devices=devices)
  assert done.wait() == status, done.output
  return done


def tiny(tiny_dir, workdir, *more):
  """Returns the arguments of a short run on small images: 4 steps an epoch."""
  return (
    f'--config={CONFIG}',
    f'--workdir={workdir}',
    '--config.data.name=tiny:1.0.0',
    f'--config.data.data_dir={tiny_dir}',
    '--config.data.val_split=validation',
    '--config.data.lighting=sqrt_eigenvalue',
    '--config.data.flip=True',
    '--config.model.num_classes=3',
    '--config.optimizer.learning_rate=0.001',
    '--config.batch_size=16',
    '--config.num_epochs=3',
    '--config.log_every_steps=3',
    # No error can improve by so much: the learning rate drops after epoch 2.
    '--config.optimizer.schedule=plateau',
    '--config.optimizer.plateau_patience=1',
    '--config.optimizer.plateau_min_improvement=1.0',
    *more,
  )


@pytest.fixture(scope='module')
def full_run(tiny_dir, tmp_path_factory):
  """A run that was never stopped."""
  workdir = tmp_path_factory.mktemp('full_run')
  done = run(*tiny(tiny_dir, workdir))
  return workdir, done.stdout


def test_a_run_prints_what_it_does(full_run):
  workdir, output = full_run
  for words in (
    'jax 0.', '2 x cpu', '16 global, 8 per device', '12, 4 per epoch', 'conv1',
    'compiling', 'images/s', 'data wait', 'ETA', 'validation: top-1 error',
    'learning rate 0.001 -> 0.0001 (drop 1 of', str(workdir / 'results.json'),
  ):  # fmt: skip
    assert words in output
  assert '%|' not in output  # No progress bar without a terminal.


def test_no_top5_error_of_three_classes(full_run):
  workdir, output = full_run
  assert 'top-5' not in output
  assert results(workdir)['top5_error'] is None
  assert not any('top5_error' in line for line in metrics(workdir))


def test_the_files_of_a_run(full_run):
  workdir, _ = full_run
  names = {path.name for path in workdir.iterdir()}
  assert names >= {
    'config.json', 'preprocessing.json', 'checkpoints', 'metrics.jsonl',
    'results.json', 'conv1.png', 'starts.json',
  }  # fmt: skip
  assert any(name.startswith('events.out.tfevents') for name in names)
  assert not [name for name in names if name.endswith('.tmp')]
  final = results(workdir)
  assert final['step'] == 12
  assert final['epoch'] == 3
  assert final['num_examples'] == 19
  assert final['split'] == 'validation'
  assert final['dataset'] == 'tiny/1.0.0'
  assert re.fullmatch('[0-9a-f]{64}', final['params_digest'])
  preprocessing = json.loads((workdir / 'preprocessing.json').read_text())
  assert np.shape(preprocessing['mean']) == (72, 72, 3)
  assert np.shape(preprocessing['eigenvectors']) == (3, 3)
  assert preprocessing['class_names'] == ['china', 'flower', 'texture']
  lines = [(line['split'], line['step']) for line in metrics(workdir)]
  assert sorted(lines) == [
    ('train', 3), ('train', 6), ('train', 9), ('train', 12),
    ('validation', 4), ('validation', 8), ('validation', 12),
  ]  # fmt: skip


def test_stopped_within_an_epoch_and_resumed(full_run, tiny_dir, tmp_path):
  workdir = tmp_path / 'stopped'
  # A checkpoint at each step slows the run, so that it stops before its end.
  arguments = tiny(tiny_dir, workdir, '--config.checkpoint.every_steps=1')
  process = zygote.start(*arguments, devices=2)
  process.wait_for('step      9/12')  # The learning rate has dropped.
  process.send_signal(signal.SIGTERM)
  assert process.wait() == 128 + signal.SIGTERM, process.output
  stopped_at = int(re.search(r'saved at step (\d+)', process.stderr)[1])
  assert 9 <= stopped_at < 12
  assert not (workdir / 'results.json').exists()
  done = run(*arguments)
  assert f'resuming from the checkpoint of step {stopped_at}' in done.stdout
  expected = results(full_run[0])
  assert results(workdir) == expected
  assert metrics(workdir) == metrics(full_run[0])
  starts = json.loads((workdir / 'results.json').read_text())['starts']
  devices = '2 x cpu, 1 process(es)'
  assert starts == [
    {'step': step, 'devices': devices} for step in (0, stopped_at)
  ]


@pytest.mark.long
def test_stopped_within_an_evaluation_and_resumed(full_run, tiny_dir, tmp_path):
  workdir = tmp_path / 'stopped'
  arguments = tiny(tiny_dir, workdir, '--config.log_every_steps=4')
  process = zygote.start(*arguments, devices=2)
  process.wait_for('step      4/12')  # The end of an epoch.
  process.send_signal(signal.SIGTERM)
  assert process.wait() == 128 + signal.SIGTERM, process.output
  assert 'saved at step 4' in process.stderr
  assert [line['split'] for line in metrics(workdir)] == ['train']
  done = run(*arguments)
  assert 'resuming from the checkpoint of step 4' in done.stdout
  assert results(workdir) == results(full_run[0])

  def validation(lines):
    return [line for line in lines if line['split'] == 'validation']

  assert validation(metrics(workdir)) == validation(metrics(full_run[0]))


@pytest.mark.long
def test_a_stall_stops_the_run_and_names_the_layer(
  full_run, tiny_dir, tmp_path
):
  workdir = tmp_path / 'stalled'
  arguments = tiny(
    tiny_dir,
    workdir,
    '--config.guards.stall_steps=4',
    '--config.guards.stall_margin=3',
  )
  process = run(*arguments, '--config.guards.stall=stop', status=3)
  assert 'at step 6, no better than guessing' in process.stderr
  assert 'at step 6, which is saved' in process.stderr
  for words in ('dead ReLUs', '|update|/|weight|', 'conv5 ', 'fc8 '):
    assert words in process.stdout
  # A warning does not change the run.
  process = run(*arguments, '--config.guards.stall=warn')
  assert 'from the checkpoint of step 6' in process.stdout
  assert process.stderr.count('no better than guessing') == 1
  assert results(workdir) == results(full_run[0])
  assert metrics(workdir) == metrics(full_run[0])


def test_a_second_interrupt_does_not_wait(tiny_dir, tmp_path):
  # Both arrive within one call that Python does not interrupt.
  process = zygote.start(*tiny(tiny_dir, tmp_path / 'run'), devices=2)
  process.wait_for('compiling')
  process.send_signal(signal.SIGINT)
  time.sleep(0.02)
  process.send_signal(signal.SIGINT)
  began = time.monotonic()
  assert process.wait() == 128 + signal.SIGINT, process.output
  assert time.monotonic() - began < 1
  assert 'saved' not in process.output


def test_a_signal_while_a_line_is_written(monkeypatch):
  class Terminal(io.RawIOBase):
    def writable(self):
      return True

    def write(self, data):
      signal.raise_signal(signal.SIGTERM)
      return len(data)

  stdout = io.TextIOWrapper(io.BufferedWriter(Terminal()))
  monkeypatch.setattr('sys.stdout', stdout)
  with signals.StopSignals() as stop:
    say('epoch 1')
    assert stop.agreed() == signal.SIGTERM
    monkeypatch.undo()
    stdout.detach()


@pytest.mark.long
def test_made_longer(full_run, tiny_dir, tmp_path):
  workdir = tmp_path / 'longer'
  # It stops within the first epoch.
  run(*tiny(tiny_dir, workdir, '--config.num_train_steps=2'))
  assert results(workdir)['step'] == 2
  run(*tiny(tiny_dir, workdir))
  assert (
    results(workdir)['params_digest'] == results(full_run[0])['params_digest']
  )


def test_fine_tuning_a_new_head_alone(full_run, tiny_dir, tmp_path):
  workdir = tmp_path / 'tuned'
  frozen = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')
  done = run(
    *tiny(tiny_dir, workdir),
    f'--config.init_from={full_run[0]}',
    '--config.model.num_classes=4',
    f'--config.optimizer.frozen_layers={frozen}',
    '--config.num_train_steps=2',
  )
  assert 'fc8 is new: 4 classes, not 3' in done.stdout
  source, tuned = pretrained.load(full_run[0]), pretrained.load(workdir)
  for layer in frozen:
    for kind in ('kernel', 'bias'):
      np.testing.assert_array_equal(
        tuned.params[layer][kind], source.params[layer][kind]
      )
  # The new head has its initial weights, and biases that moved from zero.
  assert tuned.params['fc8']['kernel'].std() == pytest.approx(0.01, rel=0.05)
  assert np.abs(tuned.params['fc8']['bias']).min() > 0


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'init_from': '/nowhere'}, 'no checkpoint in /nowhere'),
    (
      {'model.dropout_scaling': 'test'},
      'was trained with model.dropout_scaling=train',
    ),
    (
      {'model.name': 'caffe', 'data.crop_size': 67},
      "holds the network 'owt', not 'caffe'",
    ),
    (
      {'data.crop_size': 99},
      r'fc6/kernel is \(256, 4096\), \(1024, 4096\) expected .* is 64 there',
    ),
  ],
)
def test_init_from_another_network_is_refused(small_network, changes, message):
  config = digits.get_config()
  config.update_from_flattened_dict(
    {'init_from': str(small_network), 'model.name': 'owt',
     'data.crop_size': 64, **changes}
  )  # fmt: skip
  state = steps.create_train_state(
    build_model(config.model),
    optimizer.paper_sgd(),
    optimizer.plateau_decay(config.optimizer),
    config.data.crop_size,
    seed=0,
  )
  with pytest.raises(UserError, match=message):
    init_from(config, state)


def test_a_finished_run_is_not_changed(full_run, tiny_dir):
  workdir, _ = full_run
  before = metrics(workdir)
  done = run(*tiny(tiny_dir, workdir))
  assert 'nothing to train' in done.stdout
  assert metrics(workdir) == before
  again = results(workdir)
  assert again['step'] == 12
  assert again['loss'] == pytest.approx(before[-1]['loss'], abs=1e-6)


def test_every_image_is_scored_once_in_batches_of_any_size(full_run, tiny_dir):
  workdir, _ = full_run
  trained = {**results(workdir), **metrics(workdir)[-1]}
  for devices, batch_size in ((3, 7), (1, 100)):
    run(
      *tiny(tiny_dir, workdir),
      '--mode=eval',
      '--config.eval.step=latest',
      f'--config.eval.batch_size={batch_size}',
      devices=devices,
    )
    scored = results(workdir)
    assert scored['num_examples'] == 19
    for name in ('top1_error', 'top5_error', 'loss'):
      assert scored[name] == pytest.approx(trained[name], abs=1e-5)
    assert scored['params_digest'] == trained['params_digest']
  # Ten crops, the best step, and training fields, which are ignored.
  done = run(
    *tiny(tiny_dir, workdir),
    '--mode=eval',
    '--config.eval.crops=10',
    '--config.batch_size=7',
    '--config.optimizer.momentum=0.5',
  )
  assert '10 crops' in done.stdout
  scored = results(workdir)
  assert scored['step'] == scored['best_step']
  assert scored['crops'] == 10
  assert scored['num_examples'] == 19


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((), 'give --config='),
    (('--config=configs/nosuch.py',), 'configs/digits.py'),
    ((CONFIG,), 'unexpected argument'),
    (('--config.optimizer.lr=1',), "unknown config field 'optimizer.lr'"),
    (('--config.learning_rate=1',), 'did you mean optimizer.learning_rate'),
    (('--config.batch_size=many',), 'config.batch_size=many'),
    (('--config.batch_size=2.5',), 'config.batch_size=2.5'),
    (('--config.batch_size=0',), 'batch_size is 0'),
    (('--config.batch_size=33',), 'use 32 or 34'),
    (('--config.batch_size=4000',), 'larger than the 1442 images'),
    (('--config.model.name=papr',), 'did you mean paper'),
    (('--config.data.name=nosuch',), "unknown dataset 'nosuch'"),
    (('--config.data.val_split=dev',), "unknown split 'dev'"),
    (('--config.data.crop_size=60',), 'too small for the network'),
    (('--config.model.num_classes=9',), 'has 10 classes'),
    (('--config.optimizer.learning_rate=0',), 'rate of every parameter is 0'),
    (('--config.guards.min_epoch_steps=46',), 'an epoch has 45 steps'),
    (('--config.guards.stall=halt',), 'stop, warn, off'),
    (('--config.data.mean=red',), 'three numbers'),
    (('--mode=eval',), 'no checkpoint in'),
    (('--mode=test',), 'mode'),
  ],
  ids=str,
)
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path):
  workdir = tmp_path / 'never'
  config = () if not arguments or '--config=' in arguments[0] or (
    arguments[0] == CONFIG
  ) else (f'--config={CONFIG}',)  # fmt: skip
  done = run(*config, f'--workdir={workdir}', *arguments, status=2)
  line = done.stderr.strip()
  assert line.startswith('alexnet_jax: ')
  assert '\n' not in line
  assert message in line
  assert not workdir.exists()


def test_a_refused_run_changes_nothing(full_run, tiny_dir):
  workdir, _ = full_run
  before = contents(workdir)
  for change, message in (
    ('--config.optimizer.momentum=0.5', 'optimizer.momentum 0.9 -> 0.5'),
    ('--config.model.name=paper', "model.name 'narrow' -> 'paper'"),
  ):
    done = run(*tiny(tiny_dir, workdir), change, status=2)
    assert message in done.stderr
  done = run(
    *tiny(tiny_dir, workdir), '--mode=eval', '--config.model.name=paper',
    status=2,
  )  # fmt: skip
  assert "model.name 'narrow' -> 'paper'" in done.stderr
  done = run(
    *tiny(tiny_dir, workdir), '--mode=eval', '--config.eval.step=5', status=2
  )
  assert "no checkpoint '5'" in done.stderr
  assert contents(workdir) == before


@pytest.mark.long
def test_a_profile_and_a_cache_of_compiled_steps(tiny_dir, tmp_path):
  more = (
    '--config.num_train_steps=3',
    '--config.profile=1:2',
    f'--config.compilation_cache={tmp_path / "cache"}',
  )
  done = run(*tiny(tiny_dir, tmp_path / 'a', *more))
  folder = tmp_path / 'a' / 'profile'
  assert f'profile of steps 1 to 2 in {folder}' in done.stdout
  assert f'xprof --logdir={folder}' in done.stdout
  assert list(folder.rglob('*.xplane.pb'))
  compiled = {path.name for path in (tmp_path / 'cache').glob('*-cache')}
  assert compiled
  # The next start reads the cache: JAX complains of an invalid entry. The run
  # traces the rest of the range; and both fields may change when it resumes.
  for path in (tmp_path / 'cache').glob('*-cache'):
    path.write_bytes(b'invalid')
  more = (*more, '--config.profile=2:9', '--config.num_train_steps=5')
  done = run(*tiny(tiny_dir, tmp_path / 'a', *more))
  assert 'Error reading persistent compilation cache entry' in done.stderr
  assert 'resuming from the checkpoint of step 3' in done.stdout
  assert 'profile of steps 3 to 5' in done.stdout


def test_statistics_of_other_images_are_refused(full_run, tiny_dir, tmp_path):
  workdir = tmp_path / 'stale'
  workdir.mkdir()
  preprocessing = json.loads((full_run[0] / 'preprocessing.json').read_text())
  preprocessing['color_stats']['num_examples'] += 1
  (workdir / 'preprocessing.json').write_text(json.dumps(preprocessing))
  before = contents(workdir)
  done = run(*tiny(tiny_dir, workdir), status=2)
  assert 'belongs to other images' in done.stderr
  assert contents(workdir) == before


@pytest.mark.long
def test_finished_on_the_device_from_a_copy(tiny_dir, tmp_path, full_run):
  # The parameters are bit-identical.
  workdir, _ = full_run
  done = run(
    *tiny(
      tiny_dir,
      tmp_path / 'run',
      '--config.data.finish=device',
      f'--config.data.cache_dir={tmp_path / "cache"}',
    )
  )
  assert f'from its copy in {tmp_path / "cache"}' in done.stdout
  assert metrics(tmp_path / 'run') == metrics(workdir)
  # Not all of results.json: another test evaluates that run on ten crops.
  for name in ('step', 'params_digest'):
    assert results(tmp_path / 'run')[name] == results(workdir)[name]


def test_examples_that_cannot_be_used_are_skipped(tmp_path, image_files):
  found = damaged(image_files, tmp_path)
  arguments = (
    *tiny(found.data_dir, tmp_path / 'run'),
    '--config.num_epochs=1',
    '--config.data.lighting=none',
    '--config.data.mean=channel',
  )
  done = run(*arguments, status=2)
  assert "of split 'train' of tiny/1.0.0" in done.stderr
  assert 'data.on_error=skip' in done.stderr
  skip = (*arguments, '--config.data.on_error=skip')
  done = run(*skip, status=2)
  assert 'more than data.max_error_rate 0.001 allows' in done.stderr
  assert not (tmp_path / 'run').exists()
  done = run(*skip, '--config.data.max_error_rate=0.1')
  assert 'skipping 2 of 64 examples of train' in done.stdout
  final = results(tmp_path / 'run')
  assert final['num_examples'] == 18
  assert final['num_left_out'] == 1
