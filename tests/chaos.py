"""Real runs on digits, and what may befall them: `make chaos`.

Each fault is brought about in real processes, without mocks, and each must end
in the promised state: the outcome of a run that nothing befell, to the bit, or
a stop that says why and changes nothing. Prints a table: fault, times,
survived, work lost. tests/test_chaos.py is the short form.
"""

import argparse
import contextlib
import dataclasses
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

# 11 steps an epoch, and a drop of the rate at each evaluation but the first.
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
  """`python -m alexnet_jax.main`, with its output in a file."""

  def __init__(self, *arguments: str, before: tuple[str, ...] = (), **env: str):
    self._output = tempfile.NamedTemporaryFile('w+')  # noqa: SIM115
    self._process = subprocess.Popen(
      [*before, sys.executable, '-m', 'alexnet_jax.main', *arguments],
      stdout=self._output,
      stderr=subprocess.STDOUT,
      env={**os.environ, **env},
    )

  @property
  def said(self) -> str:
    return pathlib.Path(self._output.name).read_text()

  def send_signal(self, number: int) -> None:
    self._process.send_signal(number)

  def poll(self) -> int | None:
    return self._process.poll()

  def wait(self) -> int:
    return self._process.wait(600)


def results(workdir: pathlib.Path) -> dict[str, Any]:
  """results.json without the commands that led to it."""
  content = json.loads((workdir / 'results.json').read_text())
  return {k: v for k, v in content.items() if k != 'commands'}


def metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """metrics.jsonl without what depends on the clock."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if k not in _CLOCK}
    for line in lines
  ]


def outcome(workdir: pathlib.Path) -> tuple[dict, list]:
  """What must be the same whatever befell a run.

  The plateau's decisions are in the learning rates.
  """
  return results(workdir), metrics(workdir)


def contents(folder: pathlib.Path) -> Contents:
  """Every file of a folder and what is in it."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob('*'))
    if path.is_file()
  }


def files_of(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
  """The files of a checkpoint."""
  folder = pathlib.Path(workdir) / 'checkpoints' / str(step)
  return sorted(path for path in folder.rglob('*') if path.is_file())


def flip(path: pathlib.Path, rng: random.Random) -> None:
  """Changes one bit of a file."""
  with path.open('r+b') as file:
    place = rng.randrange(path.stat().st_size)
    file.seek(place)
    [byte] = file.read(1)
    file.seek(place)
    file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def truncate(path: pathlib.Path, rng: random.Random) -> None:
  """Cuts a file off."""
  os.truncate(path, rng.randrange(path.stat().st_size))


def remove(path: pathlib.Path, rng: random.Random) -> None:
  """Removes a file."""
  del rng
  path.unlink()


@dataclasses.dataclass
class Row:
  """A line of the table.

  Attributes:
    lost: steps that were done again, of each time.
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
  """Faults for runs in a folder, at instants that a seed draws.

  Args:
    folder: of the runs.
    seed: of the instants.
    start: starts a command; `Command`, or one that starts sooner.
    start_up: about how many seconds it takes to the first step.
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

  def whole(self, name: str, *more: str) -> pathlib.Path:
    """A run that nothing befalls."""
    workdir = self.folder / name
    began = time.monotonic()
    run = self.start(*self.arguments, *more, f'--workdir={workdir}')
    assert run.wait() == 0, run.said
    self.seconds = time.monotonic() - began
    say(f'{name}: {self.seconds:.0f} s')
    return workdir

  def signalled(
    self, row: Row, times: int, number: int, whole: pathlib.Path, *more: str
  ) -> None:
    """A run that gets a signal at random instants, and is started again."""
    expected = outcome(whole)
    workdir = self.folder / f'{whole.name}-{signal.Signals(number).name}'
    arguments = (*self.arguments, *more, f'--workdir={workdir}')
    promised = {
      signal.SIGKILL: [-9],
      # Before there is something to save, the signal does what it always does.
      signal.SIGTERM: [143, -15],
      signal.SIGINT: [130, -2],
    }[number]
    done, waits = 0, [0.0]

    def finish():
      run = self.start(*arguments)
      assert run.wait() == 0, run.said
      row.lost.append(_lost(run.said, done))
      assert outcome(workdir) == expected, workdir
      shutil.rmtree(workdir)

    faults = 0
    while faults < times:
      run = self.start(*arguments)
      # At any instant of what is left of the run, starting up included.
      share = 1 - done / self.steps
      left = self.start_up + (self.seconds - self.start_up) * share
      until = time.monotonic() + self.rng.uniform(0, left)
      # A run that ends before would be no fault: the signal comes at its end.
      while run.poll() is None and time.monotonic() < until:
        if 'results:' in run.said:
          break
        time.sleep(0.01)
      asked = time.monotonic()
      run.send_signal(number)
      status = run.wait()
      assert status in (*promised, 0), run.said
      if status:  # Else it had ended before.
        waits.append(time.monotonic() - asked)
        faults += 1
        row.times += 1
        row.survived += 1
      row.lost.append(_lost(run.said, done))
      done = max(_steps(run.said), done - row.lost[-1])
      say(f'  {signal.Signals(number).name} at step {done}, {waits[-1]:.1f} s')
      if done == self.steps:  # Then from the start again.
        finish()
        done = 0
    if done:
      finish()
    if number != signal.SIGKILL:
      row.note = f'gone within {max(waits):.1f} s'

  def broken(
    self,
    row: Row,
    damage: Callable[[pathlib.Path, random.Random], None],
    whole: pathlib.Path,
    some: int | None = None,
  ) -> None:
    """Each file of the newest checkpoint in turn, or `some` of them."""
    *_, before, newest = sorted(
      int(path.name) for path in (whole / 'checkpoints').iterdir()
    )
    files = files_of(whole, newest)
    for file in files if some is None else self.rng.sample(files, some):
      name = file.relative_to(whole)
      workdir = self._copy(whole, 'broken')
      damage(workdir / name, self.rng)
      (workdir / 'results.json').unlink()
      run = self.start(*self.arguments, f'--workdir={workdir}')
      row.times += 1
      assert run.wait() == 0, run.said
      named = str(name).split(f'checkpoints/{newest}/')[1]
      assert f'the checkpoint of step {newest} is broken: {named}' in run.said
      assert f'from the checkpoint of step {before}' in run.said
      assert outcome(workdir) == outcome(whole), name
      row.survived += 1
      row.lost.append(newest - before)
      say(f'  {damage.__name__} {named}')

  def all_broken(self, row: Row, whole: pathlib.Path) -> None:
    """One bit of one file of each checkpoint."""
    workdir = self._copy(whole, 'all_broken')
    for folder in (workdir / 'checkpoints').iterdir():
      flip(self.rng.choice(files_of(workdir, int(folder.name))), self.rng)
    (workdir / '.lock').unlink()
    before = contents(workdir)
    for mode in ('train', 'eval'):
      run = self.start(
        *self.arguments, f'--workdir={workdir}', f'--mode={mode}'
      )
      row.times += 1
      assert run.wait() == 3, run.said
      assert 'no whole checkpoint' in run.said
      assert contents(workdir) == before
      row.survived += 1

  def poisoned(self, row: Row) -> None:
    """A picture among black ones whose numbers overflow in the network."""
    data_dir = self.folder / 'poisoned_set'
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
    assert run.wait() == 3, run.said
    step = _poisoned_step(name, data_dir, workdir)
    assert f'of step {step} is NaN or infinite' in run.said, run.said
    saved = max(int(p.name) for p in (workdir / 'checkpoints').iterdir())
    assert saved == step - 1
    assert f'the checkpoint of step {saved} is kept' in run.said
    row.survived += 1

  def filled(self, row: Row, whole: pathlib.Path) -> None:
    """A disk with room for no other checkpoint: a tmpfs of its own."""
    size = sum(len(data) for data in contents(whole).values()) + 90_000_000
    script = (
      'set -u; mount -t tmpfs -o size="$SIZE" none "$DISK" && '
      'cp -r "$WHOLE" "$DISK/run" && cd "$HERE" && '
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
      'WHOLE': str(whole),
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
    assert 'status 3' in run.said, run.said
    assert 'no space left' in run.said, run.said
    assert 'unchanged' in run.said, run.said
    assert 'eval 0' in run.said, run.said
    assert 'read-only 3' in run.said, run.said
    assert 'Traceback' not in run.said, run.said
    row.survived += 2

  def limited(self, row: Row, whole: pathlib.Path) -> None:
    """Files that may not become as large as a checkpoint's."""
    workdir = self._copy(whole, 'limited')
    before = contents(workdir / 'checkpoints')
    longer = f'--config.num_train_steps={self.steps + 20}'
    run = self.start(
      *self.arguments, f'--workdir={workdir}', longer, file_limit=60_000
    )
    row.times += 1
    assert run.wait() == 3, run.said
    assert 'no space left' in run.said, run.said
    assert 'Traceback' not in run.said, run.said
    after = contents(workdir / 'checkpoints')
    assert {k: v for k, v in after.items() if 'orbax' not in k} == before
    row.survived += 1

  def second(self, row: Row) -> None:
    """A second run in the workdir of one that lives."""
    workdir = self.folder / 'second'
    arguments = (*self.arguments, f'--workdir={workdir}')
    first = self.start(*arguments)
    while not _steps(first.said):
      assert first.poll() is None, first.said
      time.sleep(0.05)
    other = self.start(*arguments)
    row.times += 1
    assert other.wait() == 2, other.said
    assert 'is in use by another run' in other.said
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143, first.said
    row.survived += 1

  def processes(self, row: Row) -> None:
    """A run of two processes, one of which gets a signal; then both again."""

    def start(workdir):
      job = str(self.rng.randrange(4096))  # JAX makes a port of it.
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
      assert [run.wait() for run in runs] == [status] * 2, runs[0].said

    expected = self.folder / 'two_processes'
    finish(start(expected), 0)
    for number in (signal.SIGTERM, signal.SIGINT):
      workdir = self.folder / f'two_processes_{number}'
      runs = start(workdir)
      step = self.rng.randrange(1, self.steps - 8)
      while _steps(runs[0].said) < step:
        assert runs[0].poll() is None, runs[0].said
        time.sleep(0.05)
      chosen = self.rng.randrange(2)
      runs[chosen].send_signal(number)
      ends = [run.wait() for run in runs]
      wanted = [143, 143]
      wanted[chosen] = 128 + number
      assert ends == wanted, runs[chosen].said
      row.times += 1
      saved = re.search(r'saved at step (\d+)', runs[0].said)
      assert saved, runs[0].said
      again = start(workdir)
      finish(again, 0)
      assert f'from the checkpoint of step {saved[1]}' in again[0].said
      assert outcome(workdir) == outcome(expected)
      row.lost.append(0)
      row.survived += 1

  def _copy(self, whole: pathlib.Path, name: str) -> pathlib.Path:
    workdir = self.folder / name
    with contextlib.suppress(FileNotFoundError):
      shutil.rmtree(workdir)
    return shutil.copytree(whole, workdir)


def _steps(said: str) -> int:
  """The last step that a log tells of."""
  return max(map(int, re.findall(r'step +(\d+)/', said)), default=0)


def _lost(said: str, done: int) -> int:
  """How many steps that were done are done again by the one that said this."""
  resumed = re.search(r'from the checkpoint of step (\d+)', said)
  if resumed:
    return max(0, done - int(resumed[1]))
  return done if 'compiling' in said else 0


def _store_poisoned(data_dir: pathlib.Path) -> str:
  """Stores 256 black pictures, one of which has a single white pixel."""
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
  """The step, from 1, whose batch holds the picture that is not black."""
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
  """Brings it all about, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seed', type=int, default=0)
  seed = parser.parse_args().seed
  rows = []

  def row(fault: str) -> Row:
    rows.append(Row(fault))
    say(fault)
    return rows[-1]

  with tempfile.TemporaryDirectory() as folder:
    # The same step is compiled by every run.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{folder}/cache')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
    chaos = Chaos(pathlib.Path(folder), seed)
    sooner = Chaos(pathlib.Path(folder), seed, start=zygote.start)
    runs = {
      'one device': (),
      'another seed': ('--config.seed=1', '--config.data.finish=device'),
      'evaluations': ('--config.eval.batch_size=5',),
    }
    kills = row('SIGKILL at a random instant of 3 runs')
    for name, more in runs.items():
      whole = chaos.whole(name.replace(' ', '_'), *more)
      chaos.signalled(kills, 10, signal.SIGKILL, whole, *more)
    whole = chaos.folder / 'one_device'
    chaos.signalled(
      row('SIGTERM at a random instant'), 10, signal.SIGTERM, whole
    )
    chaos.signalled(row('SIGINT at a random instant'), 3, signal.SIGINT, whole)
    chaos.processes(row('SIGTERM, SIGINT to one of two processes'))
    for damage, fault in (
      (flip, 'one bit of each file of the newest checkpoint, in turn'),
      (truncate, 'each of them cut off'),
      (remove, 'each of them removed'),
    ):
      sooner.broken(row(fault), damage, whole)
    chaos.all_broken(row('one bit of every checkpoint: stops, changes nothing'),
                     whole)  # fmt: skip
    chaos.filled(row('a full disk, a read-only disk: stops, nothing lost'),
                 whole)  # fmt: skip
    chaos.poisoned(row('a poisoned batch: stops at its step, before a save'))
    chaos.second(row('a second run in the same workdir: refused'))
  print('\n| fault | times | survived | work lost |\n|---|---|---|---|')
  for each in rows:
    print(each.text())


if __name__ == '__main__':
  main()
