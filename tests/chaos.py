"""Injects faults into real runs on digits: `make chaos`.

Each fault happens in real processes, without mocks. Each run must end as
promised: either with exactly the results of an uninterrupted run, or with an
error message and nothing changed. Prints a table for docs/survival.md: fault,
times, passed, work lost. tests/test_chaos.py is the short form.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import zygote

from alexnet_jax.data import input_pipeline
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.data.preprocessing import read_preprocessing

# 11 steps per epoch; the learning rate drops at each evaluation but the first.
ARGUMENTS = (
  '--config.batch_size=128',
  '--config.log_every_steps=1',
  '--config.checkpoint.every_steps=4',
  '--config.optimizer.schedule=plateau',
  '--config.optimizer.plateau_patience=1',
  '--config.optimizer.plateau_min_improvement=1.0',
)
_CLOCK = ('time', 'images_per_second', 'data_wait')

Contents = dict[str, bytes]


class Command:
  """A process `python -m alexnet_jax.main`, with its output in a file."""

  def __init__(self, *arguments: str, before: tuple[str, ...] = (), **env: str):
    self._file = tempfile.NamedTemporaryFile('w+')  # noqa: SIM115
    self._process = subprocess.Popen(
      [*before, sys.executable, '-m', 'alexnet_jax.main', *arguments],
      stdout=self._file,
      stderr=subprocess.STDOUT,
      env={**os.environ, **env},
    )

  @property
  def output(self) -> str:
    return pathlib.Path(self._file.name).read_text()

  def send_signal(self, number: int) -> None:
    self._process.send_signal(number)

  def poll(self) -> int | None:
    return self._process.poll()

  def wait(self) -> int:
    return self._process.wait(600)


def results(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns results.json without the commands, and when they started."""
  content = json.loads((workdir / 'results.json').read_text())
  return {k: v for k, v in content.items() if k not in ('commands', 'starts')}


def metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns metrics.jsonl without the values that depend on the clock."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if k not in _CLOCK}
    for line in lines
  ]


def outcome(workdir: pathlib.Path) -> tuple[dict, list]:
  """Returns what must be the same with and without faults.

  It includes the plateau's decisions, as learning rates.
  """
  return results(workdir), metrics(workdir)


def contents(folder: pathlib.Path) -> Contents:
  """Returns the content of every file in a folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob('*'))
    if path.is_file()
  }


def files_of(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
  """Returns the files of a checkpoint that have a digest, and digests.json.

  Orbax's own beside them tell of the save alone.
  """
  folder = pathlib.Path(workdir) / 'checkpoints' / str(step)
  inside = [p for p in folder.glob('*/**/*') if p.is_file()]
  return sorted([*inside, folder / 'digests.json'])


def flip(path: pathlib.Path, rng: random.Random) -> None:
  """Changes one bit of a file."""
  with path.open('r+b') as file:
    place = rng.randrange(path.stat().st_size)
    file.seek(place)
    [byte] = file.read(1)
    file.seek(place)
    file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def truncate(path: pathlib.Path, rng: random.Random) -> None:
  """Truncates a file at a random byte."""
  os.truncate(path, rng.randrange(path.stat().st_size))


def remove(path: pathlib.Path, rng: random.Random) -> None:
  """Removes a file."""
  del rng
  path.unlink()


@dataclasses.dataclass
class Row:
  """A row of the table.

  Attributes:
    fault: what happens.
    times: how often it happened.
    survived: how often the run ended as promised.
    lost: steps that were repeated, each time.
    note: added to the last column.
  """

  fault: str
  times: int = 0
  survived: int = 0
  lost: list[int] = dataclasses.field(default_factory=list)
  note: str = ''

  def text(self) -> str:
    work = 'none'
    if any(self.lost):
      mean = sum(self.lost) / len(self.lost)
      work = f'{mean:.1f} steps on average, {max(self.lost)} at most'
    note = f'; {self.note}' if self.note else ''
    return f'| {self.fault} | {self.times} | {self.survived} | {work}{note} |'


def say(line: str) -> None:
  print(f'{time.strftime("%H:%M:%S")} {line}', flush=True)


class Chaos:
  """Injects faults into runs, at random times.

  Args:
    folder: of the runs.
    seed: of the random times.
    start: starts a command: `Command`, or `zygote.start`, which is faster.
    start_up: approximate seconds until the first step.
    steps: of each run.
    config: of each run.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    seed: int,
    start: Callable[..., Any] = Command,
    start_up: float = 12,
    steps: int = 25,
    config: str = 'configs/digits.py',
  ):
    self.folder = folder
    self.rng = random.Random(seed)
    self.start = start
    self.start_up = start_up
    self.steps = steps
    length = f'--config.num_train_steps={steps}'
    self.arguments = (f'--config={config}', *ARGUMENTS, length)

  def uninterrupted(self, name: str, *more: str) -> pathlib.Path:
    """Runs without a fault."""
    workdir = self.folder / name
    began = time.monotonic()
    run = self.start(*self.arguments, *more, f'--workdir={workdir}')
    assert run.wait() == 0, run.output
    self.seconds = time.monotonic() - began
    say(f'{name}: {self.seconds:.0f} s')
    return workdir

  def signalled(
    self,
    row: Row,
    times: int,
    number: int,
    reference: pathlib.Path,
    *more: str,
  ) -> None:
    """Signals a run at random times, and resumes it each time."""
    expected = outcome(reference)
    name = f'{reference.name}-{signal.Signals(number).name}'
    workdirs = (self.folder / f'{name}-{i}' for i in itertools.count())
    workdir = next(workdirs)
    promised = {
      signal.SIGKILL: [-9],
      # Before the run can save, the signal has its default effect.
      signal.SIGTERM: [143, -15],
      signal.SIGINT: [130, -2],
    }[number]
    done, waits = 0, [0.0]

    def start():
      return self.start(*self.arguments, *more, f'--workdir={workdir}')

    def finish():
      run = start()
      assert run.wait() == 0, run.output
      row.lost.append(_lost(run.output, done))
      assert outcome(workdir) == expected, workdir

    faults = 0
    while faults < times:
      run = start()
      # At any time during the rest of the run, its start included.
      share = 1 - done / self.steps
      left = self.start_up + (self.seconds - self.start_up) * share
      until = time.monotonic() + self.rng.uniform(0, left)
      # A run that ends earlier gets the signal at its end, or it would count no
      # fault.
      while run.poll() is None and time.monotonic() < until:
        if 'results:' in run.output:
          break
        time.sleep(0.01)
      asked = time.monotonic()
      run.send_signal(number)
      status = run.wait()
      assert status in (*promised, 0), run.output
      if status:  # 0: it ended before the signal.
        waits.append(time.monotonic() - asked)
        faults += 1
        row.times += 1
        row.survived += 1
      row.lost.append(_lost(run.output, done))
      done = max(_steps(run.output), done - row.lost[-1])
      say(f'  {signal.Signals(number).name} at step {done}, {waits[-1]:.1f} s')
      if done == self.steps:  # Start a new run.
        finish()
        done, workdir = 0, next(workdirs)
    if done:
      finish()
    if number != signal.SIGKILL:
      row.note = f'exited within {max(waits):.1f} s'

  def corrupt(
    self,
    row: Row,
    damage: Callable[[pathlib.Path, random.Random], None],
    reference: pathlib.Path,
    some: int | None = None,
  ) -> None:
    """Damages each file of the newest checkpoint in turn, or `some` of them."""
    *_, before, newest = sorted(
      int(path.name) for path in (reference / 'checkpoints').iterdir()
    )
    files = files_of(reference, newest)
    for file in files if some is None else self.rng.sample(files, some):
      name = file.relative_to(reference)
      workdir = self._copy(reference, 'corrupt')
      damage(workdir / name, self.rng)
      (workdir / 'results.json').unlink()
      run = self.start(*self.arguments, f'--workdir={workdir}')
      row.times += 1
      assert run.wait() == 0, run.output
      named = str(name).split(f'checkpoints/{newest}/')[1]
      message = f'the checkpoint of step {newest} is corrupt: {named}'
      assert message in run.output
      assert f'from the checkpoint of step {before}' in run.output
      assert outcome(workdir) == outcome(reference), name
      row.survived += 1
      row.lost.append(newest - before)
      say(f'  {damage.__name__} {named}')

  def all_corrupt(self, row: Row, reference: pathlib.Path) -> None:
    """Flips one bit of one file of each checkpoint."""
    workdir = self._copy(reference, 'all_corrupt')
    for folder in (workdir / 'checkpoints').iterdir():
      flip(self.rng.choice(files_of(workdir, int(folder.name))), self.rng)
    (workdir / '.lock').unlink()
    before = contents(workdir)
    for mode in ('train', 'eval'):
      run = self.start(
        *self.arguments, f'--workdir={workdir}', f'--mode={mode}'
      )
      row.times += 1
      assert run.wait() == 3, run.output
      assert 'no intact checkpoint' in run.output
      assert contents(workdir) == before
      row.survived += 1

  def poisoned(self, row: Row) -> None:
    """Trains on an image, among black ones, that overflows in the network."""
    data_dir = self.folder / 'poisoned_data'
    name = _store_poisoned(data_dir)
    workdir = self.folder / 'poisoned'
    arguments = (
      *self.arguments,
      f'--config.data.name={name}',
      f'--config.data.data_dir={data_dir}',
      '--config.data.val_split=train',
      '--config.data.mean=(0.0, 0.0, 0.0)',
      '--config.data.std=(1e-38, 1e-38, 1e-38)',
      '--config.batch_size=16',
      '--config.log_every_steps=5',
      '--config.checkpoint.every_steps=1',
      f'--workdir={workdir}',
    )
    run = self.start(*arguments)
    row.times += 1
    assert run.wait() == 3, run.output
    step = _poisoned_step(name, data_dir, workdir)
    assert f'of step {step} is NaN or infinite' in run.output, run.output
    saved = max(int(p.name) for p in (workdir / 'checkpoints').iterdir())
    assert saved == step - 1
    assert f'the checkpoint of step {saved} is kept' in run.output
    row.survived += 1

  def filled(self, row: Row, reference: pathlib.Path) -> None:
    """Resumes on a disk without room for a checkpoint: a separate tmpfs."""
    size = sum(len(data) for data in contents(reference).values()) + 90_000_000
    script = (
      'set -u; mount -t tmpfs -o size="$SIZE" none "$DISK" && '
      'cp -r "$REFERENCE" "$DISK/run" && cd "$HERE" && '
      '{ find "$DISK/run/checkpoints" -type f | sort | xargs sha256sum '
      '> "$DISK/../before"; "$@" --config.num_train_steps=40; '
      'echo "status $?"; '
      'find "$DISK/run/checkpoints" -type f -not -path "*orbax*" | sort '
      '| xargs sha256sum | cmp - "$DISK/../before" && echo unchanged; '
      '"$@" --mode=eval --config.eval.step=latest; echo "eval $?"; '
      'mount -o remount,ro "$DISK"; "$@" --config.num_train_steps=40; '
      'echo "read-only $?"; }'
    )
    disk = self.folder / 'disk'
    disk.mkdir()
    environment = {
      'SIZE': str(size),
      'DISK': str(disk),
      'REFERENCE': str(reference),
      'HERE': os.getcwd(),
    }
    run = Command(
      *self.arguments,
      f'--workdir={disk}/run',
      before=('unshare', '-rm', 'bash', '-c', script, 'bash'),
      **environment,
    )
    run.wait()
    row.times += 2
    assert 'status 3' in run.output, run.output
    assert 'no space left' in run.output, run.output
    assert 'unchanged' in run.output, run.output
    assert 'eval 0' in run.output, run.output
    assert 'read-only 3' in run.output, run.output
    assert 'Traceback' not in run.output, run.output
    row.survived += 2

  def limited(self, row: Row, reference: pathlib.Path) -> None:
    """Limits the size of files to less than a checkpoint needs."""
    workdir = self._copy(reference, 'limited')
    before = contents(workdir / 'checkpoints')
    longer = f'--config.num_train_steps={self.steps + 20}'
    run = self.start(
      *self.arguments, f'--workdir={workdir}', longer, file_limit=60_000
    )
    row.times += 1
    assert run.wait() == 3, run.output
    assert 'no space left' in run.output, run.output
    assert 'Traceback' not in run.output, run.output
    after = contents(workdir / 'checkpoints')
    assert {k: v for k, v in after.items() if 'orbax' not in k} == before
    row.survived += 1

  def second(self, row: Row) -> None:
    """Starts a second run in the workdir of a running one."""
    workdir = self.folder / 'second'
    arguments = (*self.arguments, f'--workdir={workdir}')
    first = self.start(*arguments)
    while not _steps(first.output):
      assert first.poll() is None, first.output
      time.sleep(0.05)
    other = self.start(*arguments)
    row.times += 1
    assert other.wait() == 2, other.output
    assert 'is in use by another run' in other.output
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143, first.output
    row.survived += 1

  def processes(self, row: Row) -> None:
    """Signals one of a run's two processes, then resumes with both."""

    def start(workdir):
      job = str(self.rng.randrange(4096))  # JAX derives a port from it.
      return [
        Command(
          *self.arguments,
          '--distributed',
          f'--workdir={workdir}',
          SLURM_JOB_ID=job,
          SLURM_STEP_NODELIST='localhost',
          SLURM_JOB_NUM_NODES='1',
          SLURM_NTASKS='2',
          SLURM_PROCID=str(i),
          SLURM_LOCALID=str(i),
          XLA_FLAGS='',
        )
        for i in range(2)
      ]

    def finish(runs, status):
      assert [run.wait() for run in runs] == [status] * 2, runs[0].output

    expected = self.folder / 'two_processes'
    finish(start(expected), 0)
    for number in (signal.SIGTERM, signal.SIGINT):
      workdir = self.folder / f'two_processes_{number}'
      runs = start(workdir)
      step = self.rng.randrange(1, self.steps - 8)
      while _steps(runs[0].output) < step:
        assert runs[0].poll() is None, runs[0].output
        time.sleep(0.05)
      chosen = self.rng.randrange(2)
      runs[chosen].send_signal(number)
      ends = [run.wait() for run in runs]
      wanted = [143, 143]
      wanted[chosen] = 128 + number
      assert ends == wanted, runs[chosen].output
      row.times += 1
      saved = re.search(r'saved at step (\d+)', runs[0].output)
      assert saved, runs[0].output
      again = start(workdir)
      finish(again, 0)
      assert f'from the checkpoint of step {saved[1]}' in again[0].output
      assert outcome(workdir) == outcome(expected)
      row.lost.append(0)
      row.survived += 1

  def _copy(self, reference: pathlib.Path, name: str) -> pathlib.Path:
    workdir = self.folder / name
    with contextlib.suppress(FileNotFoundError):
      shutil.rmtree(workdir)
    return shutil.copytree(reference, workdir)


def _steps(output: str) -> int:
  """Returns the last step that a run logged."""
  return max(map(int, re.findall(r'step +(\d+)/', output)), default=0)


def _lost(output: str, done: int) -> int:
  """Returns how many of the steps done before a run repeated."""
  resumed = re.search(r'from the checkpoint of step (\d+)', output)
  if resumed:
    return max(0, done - int(resumed[1]))
  return done if 'compiling' in output else 0


def _store_poisoned(data_dir: pathlib.Path) -> str:
  """Stores 256 black images, one of which has a single white pixel."""
  import tensorflow_datasets as tfds

  class Poisoned(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = None

    def _info(self):
      features = tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(72, 72, 3)),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      )
      return tfds.core.DatasetInfo(
        builder=self, features=features, supervised_keys=('image', 'label')
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i in range(256):
        image = np.zeros((72, 72, 3), np.uint8)
        image[36, 36] = 255 * (i == 100)
        yield i, {'image': image, 'label': i % 10}

  tfds.disable_progress_bar()
  Poisoned(data_dir=str(data_dir)).download_and_prepare()
  return 'poisoned:1.0.0'


def _poisoned_step(name, data_dir, workdir) -> int:
  """Returns the step, from 1, whose batch has the image that is not black."""
  batches = input_pipeline.train_batches(
    open_dataset(name, str(data_dir)),
    'train',
    read_preprocessing(workdir),
    batch_size=16,
    seed=0,
    epoch=0,
  )
  [step] = [i for i, b in enumerate(batches, 1) if b['image'].any()]
  return step


def main() -> None:
  """Injects all faults and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of the random times; default: 0'
  )
  seed = parser.parse_args().seed
  rows = []

  def row(fault: str) -> Row:
    rows.append(Row(fault))
    say(fault)
    return rows[-1]

  with tempfile.TemporaryDirectory() as folder:
    # All runs compile the same step.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{folder}/cache')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
    chaos = Chaos(pathlib.Path(folder), seed)
    faster = Chaos(pathlib.Path(folder), seed, start=zygote.start)
    runs = {
      'one device': (),
      'another seed': ('--config.seed=1', '--config.data.finish=device'),
      'evaluations': ('--config.eval.batch_size=5',),
    }
    kills = row('SIGKILL at a random time, 30 kills over 3 runs')
    for name, more in runs.items():
      reference = chaos.uninterrupted(name.replace(' ', '_'), *more)
      chaos.signalled(kills, 10, signal.SIGKILL, reference, *more)
    reference = chaos.folder / 'one_device'
    terms = row('SIGTERM at a random time')
    chaos.signalled(terms, 10, signal.SIGTERM, reference)
    chaos.signalled(row('SIGINT at a random time'), 3, signal.SIGINT, reference)
    chaos.processes(row('SIGTERM or SIGINT to one of two processes'))
    for damage, fault in (
      (flip, 'one bit flipped in a file of the newest checkpoint'),
      (truncate, 'a file of the newest checkpoint truncated'),
      (remove, 'a file of the newest checkpoint removed'),
    ):
      faster.corrupt(row(fault), damage, reference)
    chaos.all_corrupt(row('every checkpoint corrupt: stops'), reference)
    chaos.filled(row('disk full, disk read-only: stops'), reference)
    chaos.poisoned(row('batch with an overflow: stops at its step'))
    chaos.second(row('second run in the same workdir: refused'))
  print('\n| fault | times | passed | work lost |\n|---|---|---|---|')
  for each in rows:
    print(each.text())


if __name__ == '__main__':
  main()
