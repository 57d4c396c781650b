"""The learning rate that trains fastest, of a few: Figure 1's own choice.

  python -m alexnet_jax.learning_rates --config=configs/paper/fig1_relu.py \
    --rates=0.0005,0.001,0.002,0.004 --workdir=runs/fig1_relu

Each rate trains in runs/fig1_relu-RATE/SEED, one after the other, until its
training error is at most --target, or until that took longer than at the
fastest rate so far, or until the config's end. The fastest is then trained to
its end: it goes on from where it was. So does the command, given again. What
follows `--` is for each run: -- --config.data.data_dir=DIR.

Exit status: 0 done; 2 a usage error, or no rate reached the target; that of a
run which failed.
"""

import argparse
import math
import pathlib
import signal
import subprocess
import sys
import time

from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.report import reading
from alexnet_jax.report.runs import epochs_to

_LOOK_SECONDS = 2.0


def _train(
  command: list[str], workdir: pathlib.Path, target: float, limit: float
) -> float | None:
  """Trains until one of the three ends; epochs to the target, or None."""
  metrics = workdir / 'metrics.jsonl'
  process = None
  while True:
    # Asked before the lines are read: a run that has ended writes no more.
    ended = process and process.poll() is not None
    lines = reading.read_metrics(metrics, [])[0]
    reached = epochs_to(lines, target)
    if reached or (lines and lines[-1]['epoch'] > limit):
      break
    if process and ended:
      _check(process)
      break
    process = process or _start(command, workdir)
    _sleep_or_stop(process)
  if process and process.poll() is None:
    process.send_signal(signal.SIGTERM)
    process.wait()
    if process.returncode not in (0, 143):
      _check(process)
  return reached


def _sleep_or_stop(process: subprocess.Popen) -> None:
  """Waits a little; takes the run along where this command is stopped."""
  try:
    time.sleep(_LOOK_SECONDS)
  except (KeyboardInterrupt, SystemExit):
    process.send_signal(signal.SIGTERM)
    process.wait()
    raise


def _start(command: list[str], workdir: pathlib.Path) -> subprocess.Popen:
  workdir.parent.mkdir(parents=True, exist_ok=True)
  log = workdir.parent / f'{workdir.name}.log'
  with log.open('a') as file:
    return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _check(process: subprocess.Popen) -> None:
  if process.returncode:
    print(
      f'alexnet_jax: a run failed: {process.args!r}; its log is beside its '
      'workdir',
      file=sys.stderr,
    )
    sys.exit(process.returncode)


def _rates(text: str) -> list[float]:
  try:
    rates = [float(rate) for rate in text.split(',')]
  except ValueError:
    rates = []
  fit = all(0 < rate < math.inf for rate in rates)
  # They name folders.
  if not rates or not fit or len({f'{r:g}' for r in rates}) < len(rates):
    raise argparse.ArgumentTypeError(
      f'{text!r}: different positive numbers, such as 0.001,0.002'
    )
  return rates


def main(argv: list[str]) -> None:
  """Chooses as the arguments say."""
  parser = Parser('learning_rates', __doc__)
  parser.add_argument('--config', required=True, metavar='FILE')
  parser.add_argument('--rates', required=True, type=_rates)
  parser.add_argument('--workdir', required=True, type=pathlib.Path)
  parser.add_argument('--target', type=float, default=0.25)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('rest', nargs='*', metavar='-- FLAG')
  flags = parser.parse_args(argv)
  if not 0 < flags.target < 1:
    raise UserError(f'--target={flags.target}: between 0 and 1')

  def command(rate: float) -> tuple[list[str], pathlib.Path]:
    folder = f'{flags.workdir.name}-{rate:g}'
    workdir = flags.workdir.with_name(folder) / str(flags.seed)
    return [
      *(sys.executable, '-m', 'alexnet_jax.main', f'--config={flags.config}'),
      f'--config.optimizer.learning_rate={rate:g}',
      *(f'--config.seed={flags.seed}', f'--workdir={workdir}', *flags.rest),
    ], workdir

  epochs: dict[float, float] = {}
  for rate in flags.rates:
    limit = min(epochs.values(), default=float('inf'))
    reached = _train(*command(rate), flags.target, limit)
    if reached is not None:
      epochs[rate] = reached
    print(
      f'rate {rate:g}: {flags.target:.0%} training error '
      + (f'after {reached:.2f} epochs' if reached else 'not reached sooner'),
      flush=True,
    )
  if not epochs:
    raise UserError(
      f'no rate reached {flags.target:.0%}: try others, or more epochs'
    )
  best = min(epochs, key=lambda rate: (epochs[rate], rate))
  words, workdir = command(best)
  if not (workdir / 'results.json').exists():
    process = _start(words, workdir)
    while process.poll() is None:
      _sleep_or_stop(process)
    _check(process)
  print(f'fastest: {best:g}, {epochs[best]:.2f} epochs, in {workdir}')


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  run(main, sys.argv[1:])
