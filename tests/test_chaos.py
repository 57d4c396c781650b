"""The short form of `make chaos`."""

import pathlib
import signal

import chaos
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
@pytest.mark.parametrize(
  ('number', 'times'), [(signal.SIGKILL, 2), (signal.SIGTERM, 1)]
)
def test_signals_at_random_times(suite, uninterrupted, number, times):
  row = chaos.Row('')
  suite.signalled(row, times, number, uninterrupted)
  assert row.survived == times


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
