"""Trains one learning rate after the other, in processes of their own."""

import json
import pathlib
import signal
import subprocess
import sys
import time

from alexnet_jax.cli import command as command_line
from alexnet_jax.cli.files import write_text
from alexnet_jax.cli.terminal import print_error
from alexnet_jax.report import logs, reading

_POLL_SECONDS = 2.0


def train_until(
  command: list[str], workdir: pathlib.Path, target: float, limit: float
) -> float | None:
  """Trains until the target, `limit` epochs, or the config's end.

  A log that has reached one of them already is not trained further.

  Args:
    command: trains in the workdir.
    workdir: the workdir of the run.
    target: training error, a fraction.
    limit: in epochs.

  Returns:
    The epochs to the target; None if it was not reached.
  """
  process = None
  while True:
    # Polled before the log is read: a run that has ended writes nothing more.
    ended = process and process.poll() is not None
    train, _ = logs.read_log(workdir / 'metrics.jsonl', [])
    reached = logs.epochs_to(train, target)
    if reached or (train and train[-1]['epoch'] > limit):
      break
    if process and ended:
      _check(process, workdir)
      break
    process = process or _start(command, workdir)
    _sleep(process)
  if process and process.poll() is None:
    process.send_signal(signal.SIGTERM)
    process.wait()
    if process.returncode != 128 + signal.SIGTERM:
      _check(process, workdir)
  return reached


def train_to_end(command: list[str], workdir: pathlib.Path) -> None:
  """Trains to the config's end, unless the run is complete."""
  if not _is_complete(workdir):
    process = _start(command, workdir)
    while process.poll() is None:
      _sleep(process)
    _check(process, workdir)


def write_stopped(
  workdir: pathlib.Path,
  seed: int,
  target: str,
  epochs: float | None,
  faster: str,
) -> None:
  """Writes the results.json of a run that was stopped, unless it is complete.

  Args:
    workdir: the workdir of the run.
    seed: of the run.
    target: what it was to reach, in words.
    epochs: to the target; None if it was not reached.
    faster: which run is faster, in words.
  """
  if _is_complete(workdir):
    return
  train, _ = logs.read_log(workdir / 'metrics.jsonl', [])
  last = train[-1]['epoch'] if train else 0.0
  found = (
    f'{target} after {epochs:.2f} epochs'
    if epochs
    else f'{target} not reached within {last:.2f} epochs'
  )
  facts = {
    'stopped': f'{found}; {faster}',
    'seed': seed,
    'commands': [command_line.typed()],
  }
  write_text(workdir / 'results.json', json.dumps(facts, indent=2) + '\n')


def _is_complete(workdir: pathlib.Path) -> bool:
  path = workdir / 'results.json'
  return path.exists() and not reading.stopped(reading.read_object(path, []))


def _sleep(process: subprocess.Popen) -> None:
  """Waits a moment; if this process is stopped, it stops the run first."""
  try:
    time.sleep(_POLL_SECONDS)
  except (KeyboardInterrupt, SystemExit):
    process.send_signal(signal.SIGTERM)
    process.wait()
    raise


def _start(command: list[str], workdir: pathlib.Path) -> subprocess.Popen:
  workdir.parent.mkdir(parents=True, exist_ok=True)
  if not _is_complete(workdir):
    (workdir / 'results.json').unlink(missing_ok=True)  # The run resumes.
  with _log(workdir).open('a') as file:
    return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _log(workdir: pathlib.Path) -> pathlib.Path:
  return workdir.parent / f'{workdir.name}.log'


def _check(process: subprocess.Popen, workdir: pathlib.Path) -> None:
  if process.returncode:
    print_error(f'the run in {workdir} failed: see {_log(workdir)}')
    sys.exit(process.returncode)
