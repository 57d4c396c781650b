"""The short form of `make chaos` and `make chaos-long`."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys

import chaos
import chaos_long
import pytest
import zygote


@pytest.fixture(scope='module')
def suite(tmp_path_factory):
  folder = pathlib.Path(tmp_path_factory.mktemp('chaos'))
  # Kills during the imports are left to the long form.
  return chaos.Chaos(
    folder,
    seed=3,
    start=zygote.start,
    start_up=4,
    steps=14,
    config='tests/narrow.py',
  )


@pytest.fixture(scope='module')
def uninterrupted(suite):
  return suite.uninterrupted('uninterrupted')


@pytest.mark.long
def test_a_signal_at_a_random_time(suite, uninterrupted):
  row = chaos.Row('')
  suite.signalled(row, 1, signal.SIGTERM, uninterrupted)
  assert row.survived == 1


@pytest.mark.long
def test_kills_as_old_checkpoints_are_deleted(tmp_path):
  line = chaos_long.Trials(tmp_path).trial(5)
  assert 'deleted' in line['moment']
  assert line['passed'], line['error']


@pytest.mark.long
@pytest.mark.skipif(not shutil.which('cc'), reason='NEEDS A C COMPILER')
def test_calls_that_fail_and_a_power_cut(tmp_path):
  log = tmp_path / 'log'
  faults = ('train/sync/9/EIO', 'train/rename/9/ENOSPC', 'train/cut/230/data')
  subprocess.run(
    [sys.executable, 'tests/chaos_calls.py', f'--log={log}']
    + [f'--fault={fault}' for fault in faults],
    check=True,
  )
  lines = [json.loads(line) for line in log.read_text().splitlines()]
  assert [line['status'] for line in lines] == [3, 3, -signal.SIGKILL]


@pytest.mark.long
def test_a_corrupt_checkpoint(suite, uninterrupted):
  row = chaos.Row('')
  suite.corrupt(row, chaos.flip, uninterrupted, some=1)
  suite.all_corrupt(row, uninterrupted)
  assert row.survived == row.times == 3


@pytest.mark.long
def test_a_full_disk(suite, uninterrupted):
  row = chaos.Row('')
  suite.limited(row, uninterrupted)
  assert row.survived == 1


@pytest.mark.long
def test_a_poisoned_batch(suite):
  row = chaos.Row('')
  suite.poisoned(row)
  assert row.survived == 1
