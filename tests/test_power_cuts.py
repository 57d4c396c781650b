"""What is said to be saved is on the disk: the order of a run's calls."""

import os
import re
import shutil
import subprocess
import sys

import pytest

# Containers may have it, and not the permission to trace.
TRACES = (
  shutil.which('strace')
  and not subprocess.run(
    ['strace', '-o', os.devnull, 'true'], capture_output=True
  ).returncode
)
pytestmark = [
  pytest.mark.long,
  pytest.mark.skipif(not TRACES, reason='NEEDS STRACE, AND LEAVE TO TRACE'),
]

CALL = re.compile(r'^\d+ +(\w+)\((.*)\) += (\d+)')
TEMPORARY = 'orbax-checkpoint-tmp'
# Nothing needs them after a power cut.
NOT_KEPT = re.compile(
  r'events\.out\.tfevents|conv1\.png|\.lock|_CHECKPOINT_METADATA'
  r'|checkpoints/[^/]*/commit_success\.txt'
)


def calls(log):
  """Yields the name of each call that succeeded, and the paths it names."""
  waiting = {}
  for line in log.read_text(errors='replace').splitlines():
    pid = line.split()[0]
    if line.endswith('<unfinished ...>'):
      waiting[pid] = line.removesuffix('<unfinished ...>')
      continue
    if resumed := re.search(r'<\.\.\. \w+ resumed>(.*)', line):
      line = waiting.pop(pid) + resumed[1]
    if call := CALL.match(line):
      paths = re.findall(r'"(/[^"]*)"|^\d+<(/[^>]*)>', call[2])
      yield call[1], [a or b for a, b in paths]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The workdir of a run, and its calls up to where it says that it is done."""
  folder = tmp_path_factory.mktemp('power')
  workdir, log = folder / 'run', folder / 'strace'
  subprocess.run(
    ['strace', '-f', '-y', '-s', '4096', '-o', log, '-e',
     'trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2',
     sys.executable, '-m', 'alexnet_jax.main', '--config=configs/digits.py',
     f'--workdir={workdir}', '--config.num_train_steps=2',
     '--config.data.val_split=test[:32]', '--config.log_every_steps=1'],
    check=True, capture_output=True, env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  return str(workdir), list(calls(log))


def test_a_file_is_on_the_disk_before_it_gets_its_name(trained):
  workdir, found = trained
  dirty, renamed = set(), 0
  for name, paths in found:
    if not paths or not paths[0].startswith(workdir):
      continue
    if name in ('write', 'pwrite64'):
      dirty |= {paths[0]} if not NOT_KEPT.search(paths[0]) else set()
    elif name in ('fsync', 'fdatasync'):
      dirty.discard(paths[0])
    else:
      old, new = paths[-2:]
      inside = {p for p in dirty if p == old or p.startswith(old + '/')}
      # A part of a checkpoint that has no name yet.
      assert not inside or TEMPORARY in new, f'{old} became {new}'
      dirty = dirty - inside | {p.replace(old, new, 1) for p in inside}
      renamed += 1
  assert renamed > 5
  assert not dirty


def test_names_are_on_the_disk_when_a_run_is_done(trained):
  workdir, found = trained
  unsure = {}
  for name, paths in found:
    if name.startswith('rename') and paths[-1].startswith(workdir):
      unsure[os.path.dirname(paths[-1])] = paths[-1]
    elif name == 'fsync' and paths:
      unsure.pop(paths[0], None)
  unsure = {k: v for k, v in unsure.items() if not NOT_KEPT.search(v)}
  assert not unsure
  checkpoint = f'{workdir}/checkpoints/2'
  named = [
    i for i, (_, paths) in enumerate(found) if paths[-1:] == [checkpoint]
  ]
  after = [paths[0] for name, paths in found[named[0] :] if name == 'fsync']
  assert f'{workdir}/checkpoints' in after
  assert workdir in after
