"""The short form of `make chaos` and `make chaos-long`."""

import pathlib
import signal

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
