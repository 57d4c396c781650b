"""Time to the first training step, without and with a compilation cache.

  python benchmarks/startup.py [--rounds=3]

Starts processes that import the command, and that train configs/digits.py for
one step: first with an empty `config.compilation_cache` (cold), then with the
cache that this run has filled (cached). The last line is a JSON object.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time

import turns


def importing() -> float:
  """Returns the seconds of a process that only imports the command."""
  start = time.perf_counter()
  subprocess.run([sys.executable, '-c', 'import alexnet_jax.main'], check=True)
  return time.perf_counter() - start


def first_step(cache: str) -> tuple[float, float]:
  """Returns the seconds of a run of one step, and of that step alone."""
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    done = subprocess.run(
      [
        sys.executable,
        '-m',
        'alexnet_jax.main',
        '--config=configs/digits.py',
        '--config.num_train_steps=1',
        f'--config.compilation_cache={cache}',
        f'--workdir={folder}/run',
      ],
      check=True,
      capture_output=True,
      text=True,
    )
    seconds = time.perf_counter() - start
  match = re.search(r'first step.* ([\d.]+) s', done.stdout)
  assert match, done.stdout
  return seconds, float(match[1])


def main() -> None:
  """Prints a table and the JSON line; must run in the project's root."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=3)
  arguments = parser.parse_args()
  imports, cold, warm = [], [], []
  importing()
  for _ in range(arguments.rounds):
    imports.append(importing())
    with tempfile.TemporaryDirectory() as cache:
      cold.append(first_step(cache))
      warm.append(first_step(cache))
  first = [[step for _, step in each] for each in (cold, warm)]
  print(f'{"seconds":<34}{"cold":>8}{"cached":>8}')
  print(f'{"importing the command":<34}{statistics.median(imports):>8.1f}')
  for name, column in (('a run of one step', 0), ('its first step', 1)):
    numbers = [statistics.median(t[column] for t in each)
               for each in (cold, warm)]  # fmt: skip
    print(f'{name:<34}{numbers[0]:>8.1f}{numbers[1]:>8.1f}')
  turns.print_result(
    {'first_step_cold_vs_cached': turns.ratio(first[0], first[1])},
    {},
    seconds={
      'import': round(statistics.median(imports), 2),
      'run, cold': round(statistics.median(t for t, _ in cold), 2),
      'run, cached': round(statistics.median(t for t, _ in warm), 2),
    },
    **turns.machine('jax', 'flax', 'tensorflow-cpu'),
  )


if __name__ == '__main__':
  main()
