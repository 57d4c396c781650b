"""Several processes of one run on one machine, compared with one process.

tests/chaos.py tests signals to one of two, tests/test_launch.py SLURM.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import zygote
from conftest import store
from etils import epath
from test_main import metrics, results

from alexnet_jax.cli.errors import ProcessLost, StorageError, UserError
from alexnet_jax.runs import processes, storage
from alexnet_jax.runs.storage import storage_errors

STEPS = 6
DIGITS = (
  '--config=tests/narrow.py',
  '--config.batch_size=16',
  '--config.log_every_steps=1',
  '--config.checkpoint.every_steps=2',
)


def run(number, *arguments, devices=1):
  """Like `zygote.start_together`, to its end; returns the first's output."""
  if number == 1:
    runs = [zygote.start(*arguments, devices=devices)]
  else:
    runs = zygote.start_together(number, *arguments, devices=devices)
  for each in runs:
    assert each.wait() == 0, each.output
  # Only the first prints.
  assert not any('epoch' in each.stdout for each in runs[1:])
  return runs[0].output


def assert_same_curve(workdir, expected, split='train'):
  def curve(workdir):
    return {
      (line['step'], name): line[name]
      for line in metrics(workdir)
      if line['split'] == split
      for name in ('loss', 'top1_error')
    }

  assert curve(workdir) == pytest.approx(curve(expected), rel=1e-4, abs=1e-6)


@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
  """Trains on digits in one process with four devices."""
  workdir = tmp_path_factory.mktemp('one') / 'run'
  length = f'--config.num_train_steps={STEPS}'
  run(1, *DIGITS, length, f'--workdir={workdir}', devices=4)
  return workdir


@pytest.fixture(scope='module')
def together(tmp_path_factory):
  """Trains on digits in two processes, and from the third step in four."""
  workdir = tmp_path_factory.mktemp('together') / 'run'
  arguments = (*DIGITS, f'--workdir={workdir}')
  run(2, *arguments, '--config.num_train_steps=3', devices=2)
  # The two saved one checkpoint together, from which four resume.
  output = run(4, *arguments, f'--config.num_train_steps={STEPS}')
  assert 'resuming from the checkpoint of step 3' in output
  return workdir


@pytest.mark.long
def test_two_then_four_processes_train_and_score_as_one(one_process, together):
  assert_same_curve(together, one_process)
  scored = results(together)
  assert scored['num_examples'] == 355
  for name in ('loss', 'top1_error', 'top5_error'):
    assert scored[name] == pytest.approx(results(one_process)[name], rel=1e-4)


@pytest.mark.long
def test_three_processes_score_every_image_once(together):
  """With a batch size that is not divisible by their number."""
  scored = results(together)
  run(
    3,
    *DIGITS,
    f'--workdir={together}',
    '--mode=eval',
    '--config.eval.batch_size=50',
    '--config.eval.step=latest',
  )
  again = results(together)
  assert again['num_examples'] == 355
  assert again['loss'] == pytest.approx(scored['loss'], rel=1e-4)


@pytest.mark.long
def test_without_dropout_the_number_of_devices_does_not_matter(tmp_path):
  data = ()
  data_dir = os.environ.get('TFDS_DATA_DIR', '')
  if os.path.isdir(os.path.join(data_dir, 'imagenet2012')):
    data = (
      '--config.data.name=imagenet2012:5.1.0',
      f'--config.data.data_dir={data_dir}',
      '--config.data.val_split=validation[:30]',
      '--config.data.resize_size=256',
      '--config.data.flip=True',
      '--config.data.lighting=sqrt_eigenvalue',
      '--config.model.num_classes=1000',
    )
  more = ('--config.model.dropout_rate=0.0', '--config.num_train_steps=3')
  for number in (1, 2):
    workdir = f'--workdir={tmp_path / str(number)}'
    run(number, *DIGITS, *data, *more, workdir)
  assert_same_curve(tmp_path / '2', tmp_path / '1')


TOGETHER = """
import pickle, sys
import jax
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import color_stats, faults, of_run
from alexnet_jax.data.dataset import open_dataset
number, index, port, data_dir, out = sys.argv[1:]
if int(number) > 1:
  jax.distributed.initialize(f'localhost:{port}', int(number), int(index))
tiny = open_dataset('tiny:1.0.0', data_dir)
values = (
  faults.find_faults(tiny, 'train'),
  of_run.class_weights(tiny, 'train', 4),
  color_stats.compute_color_stats(tiny, 'validation[:6]', 'short_side', 40),
)
try:
  color_stats.compute_color_stats(tiny, 'train', 'short_side', 40)
except UserError as error:
  values += (str(error),)
with open(f'{out}/{number}-{index}', 'wb') as file:
  pickle.dump(values, file)
"""


@pytest.mark.long
def test_processes_compute_together_what_one_does(tmp_path, image_files):
  """The second of two has the corrupt image, the first the validation's."""
  files = list(image_files)
  files[50] = (files[50][0][:600], 0)
  store(files, tmp_path)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  runs = [
    subprocess.Popen(
      [sys.executable, '-c', TOGETHER, number, index, str(port)]
      + [str(tmp_path)] * 2,
      stderr=subprocess.DEVNULL,
    )
    for number, index in (('1', '0'), ('2', '0'), ('2', '1'))
  ]
  assert [run.wait() for run in runs] == [0, 0, 0]
  expected, *others = (
    pickle.loads((tmp_path / name).read_bytes())
    for name in ('1-0', '2-0', '2-1')
  )
  assert 'cannot decode' in expected[-1]
  assert len(expected[0]) == 1
  for other in others:
    jax.tree.map(np.testing.assert_array_equal, other[:3], expected[:3])
    assert other[-1] == expected[-1]


@pytest.mark.long
def test_a_killed_process_ends_the_other_one(one_process, tmp_path):
  arguments = (*DIGITS, f'--workdir={tmp_path / "run"}')
  arguments += (f'--config.num_train_steps={STEPS}',)
  # tests/chaos_gcs.py kills the first one, too.
  first, second = zygote.start_together(2, *arguments, devices=2)
  first.wait_for(f'step      5/{STEPS}')  # Those of steps 2 and 4 are saved.
  second.send_signal(signal.SIGKILL)
  died = time.monotonic()
  # SIGABRT: JAX noticed first, and printed its own message.
  assert first.wait(60) in (4, -signal.SIGABRT), first.output
  assert time.monotonic() < died + 60
  assert 'another process' in first.output or 'another task' in first.output
  assert second.wait() == -signal.SIGKILL
  output = run(2, *arguments, devices=2)
  assert 'resuming from the checkpoint of step' in output
  for split in ('train', 'validation'):
    assert_same_curve(tmp_path / 'run', one_process, split)


@pytest.mark.long
def test_all_processes_print_the_error(together):
  """None waits for one that has exited already."""
  (together / 'config.json').write_text('{}')
  arguments = (*DIGITS, f'--workdir={together}')
  for each in (runs := zygote.start_together(2, *arguments, devices=2)):
    assert each.wait(60) == 2, each.output
    assert 'holds a run with another config' in each.output
  del runs


@pytest.mark.long
def test_processes_with_another_config_refuse(tmp_path):
  """They would train together, each on its own data."""
  more = (*DIGITS, f'--workdir={tmp_path / "run"}')
  runs = zygote.start_together(
    2, *more, odd=1, arguments_of_odd=('--config.seed=1',)
  )
  for each in runs:
    assert each.wait(60) == 2, each.output
    assert 'process 0 has config.seed 0, process 1 1' in each.stderr


def test_other_processes_are_not_waited_for_after_an_error(monkeypatch):
  """They wait for this one's part of the checkpoint."""
  waited = []
  monkeypatch.setattr(
    ocp.multihost,
    'get_barrier_sync_fn',
    lambda: lambda **arguments: waited.append(arguments),
  )
  options = storage.sealing(epath.Path('folder'), epath.Path('file'))
  barrier = options.async_options.barrier_sync_fn
  barrier(key='a', timeout_ms=3)
  try:
    raise OSError('no space left')
  except OSError:
    barrier(key='b', timeout_ms=3)
  assert waited == [{'key': 'a', 'timeout_ms': 3}]


@pytest.mark.parametrize(
  ('place', 'words'),
  [
    (('localhost:80', None, None), 'all three, or none'),
    (('localhost', 2, 0), 'HOST:PORT'),
    (('localhost:80', 2, 2), 'from 0 to 1'),
  ],
)
def test_an_invalid_coordinator_address_number_or_index(place, words):
  with pytest.raises(UserError, match=words):
    processes.join(*place)


@pytest.mark.parametrize(
  ('variables', 'expected'),
  [
    ({'CUDA_VISIBLE_DEVICES': '0,1'}, None),  # JAX takes the second.
    ({'CUDA_VISIBLE_DEVICES': '0'}, [0]),
    ({'ROCR_VISIBLE_DEVICES': '3'}, [0]),
    ({'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_GPUS_PER_TASK': 'a100:2'}, [0, 1]),
    # --gpus-per-task=1 --gpu-bind=none
    ({'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_GPUS_PER_TASK': '1'}, None),
    ({'CUDA_VISIBLE_DEVICES': '0', 'JAX_LOCAL_DEVICE_IDS': '0'}, None),
    ({}, None),
  ],
)
def test_the_gpus_of_the_second_task_of_a_node(
  monkeypatch, variables, expected
):
  for name, value in {'SLURM_LOCALID': '1', **variables}.items():
    monkeypatch.setenv(name, value)
  taken = []

  def initialize(*_, local_device_ids, **__):
    taken.append(local_device_ids)
    raise ValueError  # Before `join` changes this process.

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  with pytest.raises(UserError):
    processes.join(None, None, None)
  assert taken == [expected]


def test_a_port_that_is_in_use():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f'cannot listen at port {port}'):
      processes.join(f'localhost:{port}', 2, 0)


def test_a_process_lost_while_saving(monkeypatch, tmp_path):
  """Orbax raises a ValueError, which is not an error of the storage."""
  words = 'UNKNOWN: Gloo AllGather failed: Connection reset by peer'
  with pytest.raises(StorageError), storage_errors('save', tmp_path):
    raise ValueError(words)
  monkeypatch.setattr(processes, 'several', lambda: True)
  late = TimeoutError('Timed out while waiting for async_commit barrier.')
  for error in (ValueError(words), late):
    with pytest.raises(ProcessLost), storage_errors('save', tmp_path):
      raise error
  with pytest.raises(StorageError), storage_errors('save', tmp_path):
    raise ValueError('No space left on device')


def test_a_lost_process_is_recognized(monkeypatch):
  lost = jax.errors.JaxRuntimeError('INTERNAL: Gloo all-reduce failed')
  with pytest.raises(jax.errors.JaxRuntimeError), processes.noticing_losses():
    raise lost  # There are no other processes.
  monkeypatch.setattr(processes, 'several', lambda: True)
  words = 'Start all of them'
  with pytest.raises(ProcessLost, match=words), processes.noticing_losses():
    raise lost
  full = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
  with pytest.raises(jax.errors.JaxRuntimeError), processes.noticing_losses():
    raise full
