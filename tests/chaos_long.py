"""A thousand kills of real runs on digits: `make chaos-long`.

A trial starts a run, kills it (SIGKILL) several times at random instants of one
kind of moment, resumes it each time, and lets it end. Its results and each line
of metrics.jsonl must be exactly those of a run that nothing disturbed, with
intact checkpoints and no leftovers. All that is random in a trial follows from
its seed, so that `python tests/chaos_long.py --trial=SEED` repeats it.

Writes to build/chaos-long: log.jsonl, with a line for each trial, from which a
second start continues, and table.md, which is that of docs/survival.md. A trial
that fails is kept there with its outputs, and the next one starts.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import chaos
import zygote
from etils import epath

from alexnet_jax.runs import digests, intact, storage

STEPS = 14  # An evaluation after 11, and one at the end.


@dataclasses.dataclass(frozen=True)
class Moment:
  """When a run is killed.

  Attributes:
    name: for the table.
    share: of all trials.
    kills: of one trial.
    seconds: the kill comes at a random time within so many seconds ...
    after: ... after this is true of the run's output and its workdir.
    config: more arguments of the run.
    processes: of the run. One of two is killed, and the other one must leave.
    imports: whether a new Python is started, which imports all libraries.
    rival: whether another run is started in the same workdir.
  """

  name: str
  share: int
  kills: int
  seconds: float
  after: Callable[[str, pathlib.Path], bool] = lambda output, workdir: True
  config: tuple[str, ...] = ()
  processes: int = 1
  imports: bool = False
  rival: bool = False


def _saving(output: str, workdir: pathlib.Path) -> bool:
  """Whether a checkpoint is written; what a kill left is removed before."""
  checkpoints = epath.Path(workdir, intact.FOLDER)
  return 'first step' in output and bool(storage.uncommitted(checkpoints))


def _deleting(output: str, workdir: pathlib.Path) -> bool:
  deleted = workdir / intact.FOLDER / 'deleted'
  return 'first step' in output and deleted.exists()


def _evaluating(output: str, workdir: pathlib.Path) -> bool:
  del workdir
  return output.count('step     11/') > output.count('validation:')


MOMENTS = (
  Moment('at any time', 20, 6, 6),
  Moment('while Python imports', 3, 8, 6, imports=True),
  Moment('at its start', 12, 8, 2.5),
  Moment('in a save', 25, 6, 0.1, _saving),
  Moment(
    'as old checkpoints are deleted',
    15,
    6,
    0.1,
    _deleting,
    ('--config.checkpoint.every_steps=1', '--config.checkpoint.keep=1'),
  ),
  Moment(
    'in an evaluation', 10, 5, 0.6, _evaluating, ('--config.eval.batch_size=5',)
  ),
  Moment(
    'as it writes its results',
    6,
    4,
    0.5,
    lambda output, workdir: f'step     {STEPS}/' in output,
  ),
  Moment('beside another run in its workdir', 6, 4, 6, rival=True),
  # Before they are connected, the other one waits for five minutes.
  Moment(
    'of one of two processes',
    6,
    3,
    6,
    lambda output, workdir: bool(output),
    processes=2,
  ),
)


class Trials:
  """Runs trials.

  Args:
    folder: of the runs, the log and the table.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.log = folder / 'log.jsonl'
    self._references: dict[Any, tuple] = {}
    self._writing = threading.Lock()

  def expected(self, moment: Moment) -> tuple:
    """Returns the outcome of a run that nothing disturbs."""
    key = moment.config, moment.processes
    with self._writing:
      if key not in self._references:
        workdir = self.folder / f'undisturbed-{len(self._references)}'
        shutil.rmtree(workdir, ignore_errors=True)
        for run in self._start(moment, workdir, imports=False):
          assert run.wait() == 0, run.output
        self._references[key] = chaos.outcome(workdir)
    return self._references[key]

  def trial(self, seed: int) -> dict[str, Any]:
    """Runs one trial, and returns its line of the log."""
    rng = random.Random(seed)
    [moment] = rng.choices(MOMENTS, [m.share for m in MOMENTS])
    workdir = self.folder / f'trial-{seed}'
    shutil.rmtree(workdir, ignore_errors=True)
    line = {'seed': seed, 'moment': moment.name, 'kills': [], 'passed': False}
    outputs: list[str] = []
    try:
      expected = self.expected(moment)
      while len(line['kills']) < moment.kills:
        if not self._kill(moment, workdir, rng, line['kills'], outputs):
          # It ended before the kill; the rest of the kills need a new run.
          _check(workdir, expected)
          shutil.rmtree(workdir)
      self._finish(moment, workdir, outputs)
      _check(workdir, expected)
      line['passed'] = True
      shutil.rmtree(workdir)
    except Exception:
      line['error'] = traceback.format_exc()
      (self.folder / f'trial-{seed}.txt').write_text('\n\n'.join(outputs))
    return line

  def _start(self, moment: Moment, workdir, imports: bool) -> list[Any]:
    arguments = (
      '--config=tests/narrow.py',
      *chaos.ARGUMENTS,
      f'--config.num_train_steps={STEPS}',
      *moment.config,
      f'--workdir={workdir}',
    )
    if imports:
      return [chaos.Command(*arguments)]
    if moment.processes > 1:
      return zygote.start_together(moment.processes, *arguments)
    return [zygote.start(*arguments)]

  def _kill(self, moment, workdir, rng, kills, outputs) -> bool:
    """Starts a run and kills it; returns False if it ended before."""
    runs = self._start(moment, workdir, moment.imports)
    rivals = self._start(moment, workdir, False) if moment.rival else []
    wait = rng.uniform(0, moment.seconds)
    chosen = rng.choice(runs)
    output = ''
    while chosen.poll() is None:
      output = runs[0].output
      if moment.after(output, workdir):
        break
      time.sleep(0.002)
    until = time.monotonic() + wait
    while chosen.poll() is None and time.monotonic() < until:
      time.sleep(0.002)
    chosen.send_signal(signal.SIGKILL)
    status = chosen.wait()
    killed = status == -signal.SIGKILL
    if killed:
      last = (runs[0].output.strip() or '-').splitlines()[-1][:79]
      kills.append({'seconds': round(wait, 3), 'last_line': last})
    for other in runs:
      if other is not chosen:
        # 0: it ended. -9: JAX's own service ended it.
        promised = (4, -signal.SIGABRT) if killed else (0,)
        assert other.wait(90) in (*promised, 0), other.output
    for rival in rivals:  # It was refused, or has taken the workdir over.
      status = rival.wait()
      assert status in (0, 2), rival.output
      assert status or 'results:' in rival.output, rival.output
    if status and not killed and rivals:
      assert status == 2, chosen.output  # The rival was first.
      return False
    assert killed or not status, chosen.output
    outputs.extend(run.output for run in (*runs, *rivals))
    return killed

  def _finish(self, moment, workdir, outputs) -> None:
    runs = self._start(moment, workdir, imports=False)
    statuses = [run.wait() for run in runs]
    outputs.extend(run.output for run in runs)
    assert not any(statuses), statuses

  def run(self, kills: int, seed: int, jobs: int) -> list[dict[str, Any]]:
    """Runs trials until there were so many kills; returns the log."""
    lines: list[dict[str, Any]] = []
    if self.log.exists():
      lines = [json.loads(line) for line in self.log.read_text().splitlines()]
    known = {line['seed'] for line in lines}
    began = time.monotonic()
    seeds = (s for s in range(seed, seed + kills) if s not in known)

    def record(line):
      lines.append(line)
      with self.log.open('a') as file:
        file.write(json.dumps(line) + '\n')
      (self.folder / 'table.md').write_text(table(lines))
      done = sum(len(each['kills']) for each in lines)
      result = 'passed' if line['passed'] else 'FAILED'
      chaos.say(
        f'{done:5}/{kills} kills, {(time.monotonic() - began) / 60:.0f} min: '
        f'seed {line["seed"]}, {line["moment"]}: {result}'
      )
      return done

    def work():
      while True:
        with self._writing:
          if sum(len(line['kills']) for line in lines) >= kills:
            return
          number = next(seeds)
        line = self.trial(number)
        with self._writing:
          record(line)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
      for each in [pool.submit(work) for _ in range(jobs)]:
        each.result()
    return lines


def _check(workdir: pathlib.Path, expected: tuple) -> None:
  """Checks a run that ended against one that nothing disturbed."""
  assert chaos.outcome(workdir) == expected
  folder = epath.Path(workdir)
  assert not storage.uncommitted(folder / intact.FOLDER)
  assert not (workdir / intact.FOLDER / 'deleted').exists()
  assert not (workdir / 'broken_checkpoints').exists()
  steps = intact.saved_steps(folder)
  assert STEPS in steps
  for step in steps:
    assert not digests.faults(folder / intact.FOLDER / str(step)), step


def table(lines: list[dict[str, Any]]) -> str:
  """Returns the table of the trials, as Markdown."""
  kills, passed = collections.Counter(), collections.Counter()
  for line in lines:
    kills[line['moment']] += len(line['kills'])
    passed[line['moment']] += len(line['kills']) * line['passed']
  rows = [
    f'| SIGKILL {m.name} | {kills[m.name]:,} | {passed[m.name]:,} |'
    for m in MOMENTS
  ]
  total = f'| all | {kills.total():,} | {passed.total():,} |'
  return '\n'.join(
    ['| fault | times | passed |', '|---|---|---|', *rows, total]
  )


def main() -> int:
  """Runs the trials; returns 1 if one failed."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kills', type=int, default=1000)
  parser.add_argument('--seed', type=int, default=0, help='of the first trial')
  parser.add_argument('--jobs', type=int, default=2, help='trials at a time')
  parser.add_argument('--trial', type=int, help='the seed of one trial')
  parser.add_argument('--folder', default='build/chaos-long')
  arguments = parser.parse_args()
  folder = pathlib.Path(arguments.folder).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  trials = Trials(folder)
  if arguments.trial is not None:
    line = trials.trial(arguments.trial)
    print(line.pop('error', 'passed'))
    print(json.dumps(line, indent=2))
    return not line['passed']
  lines = trials.run(arguments.kills, arguments.seed, arguments.jobs)
  print(table(lines))
  return not all(line['passed'] for line in lines)


if __name__ == '__main__':
  with contextlib.suppress(BrokenPipeError):
    sys.exit(main())
