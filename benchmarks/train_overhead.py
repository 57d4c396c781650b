"""The cost of the training loop in addition to its steps.

  python benchmarks/train_overhead.py [--epochs=5] [--rounds=3]
    [--log_every=10] [--checkpoint_every=100]

Runs of configs/digits.py take turns: some log every 10 steps and save a
checkpoint of 160 MB every 100 steps (about 14 s; configs/default.py has 1000),
others do neither before the end of an epoch. The difference between runs of two
lengths excludes start and compilation; it includes evaluations and the
checkpoints at the end of epochs. The bare step is the compiled step on a batch
in memory. The last line is a JSON object.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time

import jax
import turns
from etils import epath

from alexnet_jax import train as train_lib
from alexnet_jax.preflight import compilation, topologies
from configs import digits

ON, OFF = 'everything on', 'off'
MOST = {'train_overhead': 1.03}
STEPS_PER_EPOCH = 45


def seconds_of_a_run(cadence: tuple[int, int], epochs: int) -> float:
  """Returns the wall-clock seconds of one run.

  Args:
    cadence: steps between two lines of the log, and between two checkpoints.
    epochs: number of epochs.
  """
  config = digits.get_config()
  config.log_every_steps, config.checkpoint.every_steps = cadence
  # A schedule that is valid for any number of epochs.
  config.optimizer.schedule = 'constant'
  config.num_epochs = epochs
  config.guards.stall = 'off'
  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
  ):
    start = time.perf_counter()
    train_lib.train(config, epath.Path(folder) / 'run')
    return time.perf_counter() - start


def bare_step() -> float:
  """Returns the seconds of the step on a batch in memory."""
  config = digits.get_config()
  steps = compilation.Steps(config, topologies.find('local'))
  compiled = steps.train(config.batch_size).compiled
  return config.batch_size / steps.measure(compiled, config.batch_size)


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--epochs', type=int, default=5)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--log_every', type=int, default=10)
  parser.add_argument('--checkpoint_every', type=int, default=100)
  arguments = parser.parse_args()
  forms = {
    ON: (arguments.log_every, arguments.checkpoint_every),
    OFF: (1_000_000, 0),
  }
  with tempfile.TemporaryDirectory() as cache:
    jax.config.update('jax_compilation_cache_dir', cache)
    seconds_of_a_run(forms[OFF], 1)  # Compiles, and prepares the digits.
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    bare = []
    for _ in range(arguments.rounds):
      for form, each in seconds.items():
        longer = seconds_of_a_run(forms[form], 1 + arguments.epochs)
        shorter = seconds_of_a_run(forms[form], 1)
        each.append((longer - shorter) / arguments.epochs / STEPS_PER_EPOCH)
      bare.append(bare_step())
  print('digits, ms per step (an epoch, with evaluation, divided by its steps)')
  for form, each in (*seconds.items(), ('bare step', bare)):
    print(f'{form:<16}{statistics.median(each) * 1e3:>10.1f}')
  turns.print_result(
    {
      'train_overhead': turns.ratio(seconds[ON], seconds[OFF]),
      'loop_vs_bare_step': turns.ratio(seconds[ON], bare),
    },
    {},
    MOST,
    **turns.machine('jax', 'orbax-checkpoint', 'tensorflow-datasets'),
  )


if __name__ == '__main__':
  main()
