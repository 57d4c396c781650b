"""The short form of `make chaos-gcs`: runs on gs://, against a real server."""

import chaos
import chaos_gcs
import gcs
import pytest
import zygote

OPTIONS = {'seed': 3, 'steps': 12, 'config': 'tests/narrow.py'}

if reason := gcs.missing():
  pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
  with gcs.CloudStorage(tmp_path_factory.mktemp('server')) as storage:
    yield chaos_gcs.Bucket(storage, **OPTIONS)


@pytest.mark.long
def test_a_kill_within_a_save_and_a_burst_of_503(bucket, tmp_path):
  local = chaos.Chaos(tmp_path, start=zygote.start, **OPTIONS)
  reference = local.uninterrupted('uninterrupted')
  row = chaos.Row('')
  workdir = bucket.killed_in_save(
    row, reference, 'before its commit_success.txt', step=8, burst=5
  )
  assert (
    4 <= row.lost[0] <= 7
  )  # From step 4; the next save would be of step 11.
  outputs = []
  for suite, run_of in ((local, reference), (bucket, workdir)):
    run = suite.start(*suite.arguments, f'--workdir={run_of}', '--mode=eval')
    assert run.wait() == 0, run.output
    outputs.append([x for x in run.stdout.splitlines() if 'top-1' in x])
  assert outputs[0] == outputs[1] != []


def test_a_bucket_that_does_not_exist(bucket):
  row = chaos.Row('')
  bucket.absent(row)
  assert row.survived == row.times == 5
