"""Where a run may live: file systems without locks, threads, links, Windows."""

import errno
import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf
import zygote
from etils import epath

from alexnet_jax.cli import command
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import dataset
from alexnet_jax.runs import leases, workdirs
from alexnet_jax.train import train


def without_flock(name, patch=setattr):
  """Makes a file system without flock, on which locks are renewed more often.

  Args:
    name: of the error's number.
    patch: sets an attribute of a module.
  """

  def flock(*_):
    number = getattr(errno, name)
    raise OSError(number, os.strerror(number))

  patch(fcntl, 'flock', flock)
  patch(leases, 'hold', functools.partial(leases.hold, beat=0.2))


@pytest.mark.parametrize('name', ['ENOSYS', 'EOPNOTSUPP', 'ENOLCK'])
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, name):
  without_flock(name, monkeypatch.setattr)
  workdir = epath.Path(tmp_path / 'run')
  with workdirs.sole_run(workdir) as check:
    assert 'file system without locks' in capsys.readouterr().err
    with (
      pytest.raises(UserError, match=f'in use .* {os.getpid()} on'),
      workdirs.sole_run(workdir),
    ):
      raise AssertionError
    check()
  assert not workdir.exists()


def main(folder, steps):
  """Trains in a thread without flock, in a relative link; moves elsewhere."""
  sys.path.append(os.getcwd())
  import narrow

  without_flock('ENOLCK')
  os.chdir(folder)
  signals = signal.SIGINT, signal.SIGTERM
  handlers = [signal.getsignal(number) for number in signals]
  config = narrow.get_config()
  config.num_train_steps = int(steps)
  config.log_every_steps = 1
  config.checkpoint.every_steps = 1
  thread = threading.Thread(
    target=command.run, args=(train, config, epath.Path('link/'))
  )
  thread.start()
  while not os.path.exists('link/config.json'):
    time.sleep(0.01)
  os.chdir('/')
  assert handlers == [signal.getsignal(number) for number in signals]
  thread.join()


@pytest.fixture
def start(tmp_path):
  (tmp_path / 'real').mkdir()
  (tmp_path / 'link').symlink_to('real')
  return functools.partial(zygote.start, str(tmp_path), module='test_homes')


def test_training_in_a_thread_and_a_relative_link(tmp_path, start):
  run = start('2')
  assert run.wait() == 0, run.output
  assert json.loads((tmp_path / 'real/results.json').read_text())['step'] == 2


def test_training_whose_lock_another_run_takes(tmp_path, start):
  run = start('10000')
  run.wait_for('step      2/')
  (tmp_path / 'new').write_text('process 1 on elsewhere, 123')
  (tmp_path / 'new').rename(tmp_path / 'real/.lock')
  assert run.wait() == 3, run.output
  assert 'taken over by another run (process 1 on elsewhere)' in run.stderr
  assert (tmp_path / 'real/.lock').read_text() == 'process 1 on elsewhere, 123'
  assert not (tmp_path / 'real/results.json').exists()


def test_tensorflow_that_holds_a_gpu(monkeypatch):
  def refuse(*_):
    raise RuntimeError(
      'Visible devices cannot be modified after being initialized'
    )

  monkeypatch.setattr(tf.config, 'set_visible_devices', refuse)
  with pytest.warns(RuntimeWarning, match='has taken GPU memory'):
    dataset._hide_gpus()


WINDOWS = """
import os, signal, sys
import jax, orbax.checkpoint, tensorflow, tensorflow_datasets, tensorstore

for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):
  sys.modules[name] = None
if hasattr(os, 'process_cpu_count'):  # It calls sched_getaffinity.
  os.process_cpu_count = os.cpu_count
for name in ('O_NOFOLLOW', 'geteuid', 'getuid', 'sched_getaffinity', 'sysconf',
             'uname'):
  delattr(os, name)
del signal.SIGKILL

import alexnet_jax.convert
import alexnet_jax.predict
from alexnet_jax import pretrained
from alexnet_jax.cli.files import absolute
from alexnet_jax.runs import workdirs

network, new = sys.argv[1:]
assert pretrained.load(network).step == 0
with workdirs.sole_run(absolute(new)):
  print(os.listdir(new))
"""


@pytest.mark.long
def test_a_system_that_is_not_unix(small_network, tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', WINDOWS, small_network, tmp_path / 'new'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == "['.lock']\n"


if __name__ == '__main__':
  main(*sys.argv[1:])
