"""Locks that a run renews, where storage has none (`leases.py`).

On a local file system, with renewals that are 20 times as frequent.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.runs import leases

BEAT = 0.2
PATIENCE = BEAT * 3.5
ELSEWHERE = 'process 1 on elsewhere, 123'


def hold(workdir):
  return leases.hold(epath.Path(workdir), BEAT)


def write_lock(workdir, text):
  (workdir / '.lock').write_text(text)


def lock_of(pid):
  return f'process {pid} on here, {leases._identity(pid)}, 123, 4.5'


def check_for_ever(check):
  while True:
    check()


def seconds_to_take(workdir):
  began = time.monotonic()
  with hold(workdir):
    return time.monotonic() - began


def test_a_second_run_is_refused_while_the_first_runs(tmp_path):
  with hold(tmp_path) as check:
    with (
      pytest.raises(UserError, match=f'in use .* {os.getpid()} on'),
      hold(tmp_path),
    ):
      raise AssertionError
    check()
  assert os.listdir(tmp_path) == []


def test_the_lock_of_another_machine_is_watched(tmp_path):
  write_lock(tmp_path, ELSEWHERE)
  assert seconds_to_take(tmp_path) >= PATIENCE


@pytest.fixture
def sleeper():
  with subprocess.Popen(['sleep', '60']) as process:
    yield process
    process.kill()


def test_the_lock_of_a_process_that_has_ended_here(tmp_path, sleeper):
  text = lock_of(sleeper.pid)
  write_lock(tmp_path, text)
  assert seconds_to_take(tmp_path) >= PATIENCE  # It runs.
  sleeper.kill()
  sleeper.wait()
  write_lock(tmp_path, text)
  assert seconds_to_take(tmp_path) < PATIENCE
  # Another process has the same number now.
  write_lock(tmp_path, text.replace(f' {sleeper.pid} ', f' {os.getpid()} '))
  assert seconds_to_take(tmp_path) < PATIENCE
  # Another machine with the same name, and another container of this one.
  boot, namespace, _ = leases._identity(os.getpid()).split()
  for unlike in (boot, namespace):
    write_lock(tmp_path, text.replace(unlike, unlike[::-1]))
    assert seconds_to_take(tmp_path) >= PATIENCE


def test_a_run_that_was_paused_writes_nothing_more(tmp_path):
  program = f"""
from etils import epath
from alexnet_jax.cli.errors import StorageError
from alexnet_jax.runs import leases
import time
with leases.hold(epath.Path({str(tmp_path)!r}), {BEAT}) as check:
  try:
    while True:
      time.sleep(0.05)
      check()
      print('written', flush=True)
  except StorageError as error:
    print(error)
"""
  with subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True
  ) as other:
    for _ in range(10):
      assert other.stdout.readline() == 'written\n'
    other.send_signal(signal.SIGSTOP)
    with hold(tmp_path) as check:
      other.send_signal(signal.SIGCONT)
      assert other.wait(20) == 0
      check()
    assert (tmp_path / '.lock').exists() is False
    *written, error, _ = other.stdout.read().split('\n')
  # Those that were in the pipe when it was paused.
  assert set(written) <= {'written'}
  assert len(written) < 3
  assert f'taken over by another run (process {os.getpid()} on' in error


class Store:
  """A tensorstore.KvStore that answers nothing while it is `down`."""

  def __init__(self, store):
    self.store = store
    self.down = False

  def __getattr__(self, name):
    if self.down:
      raise TimeoutError
    return getattr(self.store, name)


class Careless(Store):
  """Ignores the version that a write shall replace."""

  def write(self, key, value, if_equal):
    time.sleep(BEAT / 10)
    return self.store.write(key, value)


class Raced(Store):
  """Another run writes between this one's reading and writing."""

  def write(self, *arguments, **options):
    self.store.write('.lock', ELSEWHERE).result()
    return self.store.write(*arguments, **options)


@pytest.fixture
def stores(monkeypatch):
  """Returns a function that sets the class of stores, and lists them."""

  def use(kind):
    opened = []
    open_store = leases._open
    monkeypatch.setattr(
      leases,
      '_open',
      lambda path: opened.append(kind(open_store(path))) or opened[-1],
    )
    return opened

  return use


@pytest.mark.parametrize('kind', [Store, Careless])
def test_of_those_that_start_together_one_continues(tmp_path, stores, kind):
  stores(kind)
  write_lock(tmp_path, ELSEWHERE)
  continued = []

  def start():
    with contextlib.suppress(UserError), hold(tmp_path) as check:
      continued.append(1)
      time.sleep(1)
      check()

  threads = [threading.Thread(target=start) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert continued == [1]


def test_storage_that_does_not_answer_for_a_while(tmp_path, stores, capsys):
  opened = stores(Store)
  refused = []

  def take_over():
    try:
      with hold(tmp_path):
        pass
    except UserError as error:
      refused.append(error)

  with hold(tmp_path) as check:
    other = threading.Thread(target=take_over)
    other.start()
    while len(opened) < 2:
      time.sleep(0.01)
    time.sleep(BEAT / 4)
    for store in opened:
      store.down = True
    time.sleep(PATIENCE * 1.5)
    opened[1].down = False  # The other run is answered first.
    time.sleep(PATIENCE / 3)
    # It says so once.
    assert capsys.readouterr().err.count('does not answer: waiting') == 1
    threading.Timer(0.1, setattr, (opened[0], 'down', False)).start()
    check()
    assert not opened[0].down  # It has waited.
    other.join()
    check()
  assert len(refused) == 1
  assert 'answers again' in capsys.readouterr().out


def test_storage_that_does_not_answer_any_more(tmp_path, stores, monkeypatch):
  monkeypatch.setattr(leases, '_GIVE_UP', 0.5)
  opened = stores(Store)
  words = 'cannot write in .*: no answer in time'
  with hold(tmp_path) as check:
    opened[0].down = True
    with pytest.raises(StorageError, match=words):
      check_for_ever(check)
  stores(lambda store: opened[0])
  with pytest.raises(StorageError, match=words), hold(tmp_path):
    raise AssertionError


def test_a_lock_that_was_removed_is_lost(tmp_path):
  with hold(tmp_path) as check:
    (tmp_path / '.lock').unlink()
    with pytest.raises(StorageError, match='taken over by another run'):
      check_for_ever(check)


def test_a_write_that_comes_between_reading_and_writing_is_kept(
  tmp_path, stores
):
  stores(Raced)
  with pytest.raises(UserError, match='process 1 on elsewhere'), hold(tmp_path):
    raise AssertionError
  assert (tmp_path / '.lock').read_text() == ELSEWHERE


def test_a_name_with_odd_characters(tmp_path):
  folder = tmp_path / 'a b%20c#d?é'
  folder.mkdir()
  with hold(folder):
    assert os.listdir(folder) == ['.lock']


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').touch()
  with (
    pytest.raises(StorageError, match='cannot write in'),
    hold(tmp_path / 'file'),
  ):
    raise AssertionError
