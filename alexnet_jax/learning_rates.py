r"""Finds the learning rate that trains fastest, as for the paper's Figure 1.

Trains with each of --rates, one after the other, in PREFIX-RATE/SEED. A run
stops when its training error reaches --target, when it takes more epochs than
the fastest one so far, or at the config's end. The fastest one is then trained
to its end. The others' results.json says why they stopped. Run the same command
again to resume.

Flags after `--` are passed to each run, such as
-- --config.data.data_dir=DIR.

Example:

  python -m alexnet_jax.learning_rates --config=configs/paper/fig1_relu.py \
    --rates=0.0005,0.001,0.002,0.004,0.008

Exit status: 0 done; 2 a usage error, or no learning rate reached the target. If
a run fails, its status.
"""

import argparse
import math
import pathlib
import signal
import sys

from alexnet_jax.cli.command import Parser, run, run_name
from alexnet_jax.cli.errors import UserError


def _folder(name: str) -> pathlib.Path:
  return pathlib.Path(name).expanduser()


def _rates(text: str) -> list[float]:
  try:
    rates = [float(rate) for rate in text.split(',')]
  except ValueError:
    rates = []
  fit = all(0 < rate < math.inf for rate in rates)
  # Folders are named by them, so they must differ as printed.
  if not rates or not fit or len({f'{r:g}' for r in rates}) < len(rates):
    raise argparse.ArgumentTypeError(
      f'{text!r}: must be different positive numbers, such as 0.001,0.002'
    )
  return rates


def main(argv: list[str]) -> None:
  """Tries the learning rates that the arguments name."""
  parser = Parser('learning_rates', __doc__)
  add = parser.add_argument
  add('--config', required=True, metavar='FILE', help='config of the runs')
  add('--rates', required=True, metavar='A,B,...', type=_rates,
      help='learning rates to try')  # fmt: skip
  add('--workdir', metavar='PREFIX', type=_folder,
      help='start of the workdirs, which are PREFIX-RATE/SEED (default: '
      'runs/CONFIG)')  # fmt: skip
  add('--target', type=float, default=0.25, metavar='ERROR',
      help='training error, a fraction (default: 0.25)')  # fmt: skip
  add('--seed', type=int, default=0, help='seed of the runs (default: 0)')
  add('rest', nargs='*', metavar='-- FLAG', help='flags for each run')
  flags = parser.parse_args(argv)
  if not 0 < flags.target < 1:
    raise UserError(f'--target={flags.target}: must be between 0 and 1')
  # ml_collections takes a moment to import; --help should not wait for it.
  from alexnet_jax.report import learning_rate_search

  prefix = flags.workdir or pathlib.Path('runs') / run_name(flags.config)

  def command(rate: float) -> tuple[list[str], pathlib.Path]:
    workdir = pathlib.Path(f'{prefix}-{rate:g}') / str(flags.seed)
    return [
      *(sys.executable, '-m', 'alexnet_jax.main', f'--config={flags.config}'),
      f'--config.optimizer.learning_rate={rate:g}',
      *(f'--config.seed={flags.seed}', f'--workdir={workdir}', *flags.rest),
    ], workdir

  epochs: dict[float, float] = {}
  for rate in flags.rates:
    reached = learning_rate_search.train_until(
      *command(rate), flags.target, limit=min(epochs.values(), default=math.inf)
    )
    if reached is not None:
      epochs[rate] = reached
    print(
      f'learning rate {rate:g}: {flags.target:.0%} training error '
      + (f'after {reached:.2f} epochs' if reached else 'not reached sooner'),
      flush=True,
    )
  if not epochs:
    raise UserError(
      f'no learning rate reached {flags.target:.0%} training error: try other '
      '--rates, or more epochs (-- --config.num_epochs=N)'
    )
  best = min(epochs, key=lambda rate: (epochs[rate], rate))
  for rate in flags.rates:
    if rate != best:
      learning_rate_search.write_stopped(
        command(rate)[1],
        flags.seed,
        f'{flags.target:.0%} training error',
        epochs.get(rate),
        f'learning rate {best:g} takes {epochs[best]:.2f}',
      )
  learning_rate_search.train_to_end(*command(best))
  print(f'fastest: {best:g}, {epochs[best]:.2f} epochs, in {command(best)[1]}')


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  run(main, sys.argv[1:])
