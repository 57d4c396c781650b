"""benchmarks/paper_runs.sh, with a program in place of the training."""

import json
import pathlib
import shutil
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parent.parent / 'benchmarks' / 'paper_runs.sh'
# Writes what a run leaves, or fails, or trains until it is stopped.
PROGRAM = """#!/usr/bin/env bash
for argument; do
  case "$argument" in
    --workdir=*) workdir="${argument#*=}" ;;
    --config.fail=*) [[ "$*" != *"paper/${argument#*=}"* ]] || exit 1 ;;
    --config.wait) echo "$*" >> commands; exec sleep 60 ;;
  esac
done
echo "$*" >> commands
for name in config.json results.json metrics.jsonl conv1.png; do
  echo "{\\"of\\": \\"$*\\"}" > "$workdir/$name"
done
"""


@pytest.fixture
def clone(tmp_path):
  (tmp_path / 'benchmarks').mkdir()
  shutil.copy(SCRIPT, tmp_path / 'benchmarks')
  (tmp_path / 'python').write_text(PROGRAM)
  (tmp_path / 'python').chmod(0o755)
  return tmp_path


def run(clone, *arguments):
  return subprocess.run(
    ['benchmarks/paper_runs.sh', *arguments],
    cwd=clone,
    env={'PATH': '/usr/bin:/bin', 'PYTHON': './python'},
    capture_output=True,
    text=True,
    check=False,
    timeout=100,
  )


def commands(clone):
  path = clone / 'commands'
  return path.read_text().splitlines() if path.exists() else []


def test_each_run_once_and_its_files(clone):
  data = '--config.data.data_dir=a folder'
  done = run(clone, '1', '1', data)
  assert done.returncode == 0, done.stderr
  first = commands(clone)
  # Three seeds of nine configs, ten crops of three, and one at full size.
  assert len(first) == 27 + 3 + 1
  assert all(data in command for command in first)
  assert 'paper/base.py:imagenette127 --config.seed=0' in first[0]
  assert '--config.eval.crops=10' in first[1]
  results = clone / 'results'
  assert len(list(results.glob('*/*/results.json'))) == 31
  crops = json.loads(
    (results / 'imagenette127-ten_crops/2/results.json').read_text()
  )
  assert '--mode=eval' in crops['of']
  base = json.loads((results / 'imagenette127-base/2/results.json').read_text())
  assert '--mode=eval' not in base['of']
  assert (results / 'imagenette227-base/0/conv1.png').exists()
  # Finished runs are not repeated.
  assert run(clone, '1', '3').returncode == 0
  assert commands(clone) == first


def test_a_failed_run_is_named_and_the_others_go_on(clone):
  done = run(clone, '1', '2', '--config.fail=no_lrn')
  assert done.returncode == 123
  assert 'runs/imagenette127-no_lrn/1: status 1, see' in done.stderr
  names = {p.parent.parent.name for p in clone.glob('results/*/*/config.json')}
  assert 'imagenette127-tanh' in names
  assert 'imagenette127-no_lrn' not in names


def test_it_stops_when_the_time_is_up(clone):
  script = clone / 'benchmarks' / 'paper_runs.sh'
  script.write_text(script.read_text().replace('60 * minutes', 'minutes'))
  done = run(clone, '2', '2', '--config.wait')  # Seconds, here.
  assert done.returncode == 0, done.stderr
  assert len(commands(clone)) == 2
  assert not (clone / 'results').exists()
