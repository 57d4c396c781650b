"""The cost of each part of the paper's network in a training step, on CPU.

  python benchmarks/ablations.py [--batch_size=64] [--rounds=7]

The ablations of configs/paper take turns. A ratio is how many times as fast the
step is with the ablation. The last line is a JSON object.
"""

import argparse
import functools
import statistics

import cpu_step
import turns

from alexnet_jax.model.ablations import ABLATIONS


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args()
  forms = {'paper': ()} | {name: (name,) for name in ABLATIONS}
  seconds = turns.take_turns(
    {
      name: functools.partial(
        cpu_step.ours, 'paper', arguments.batch_size, True, ablations
      )
      for name, ablations in forms.items()
    },
    arguments.rounds,
  )
  ratios = {
    f'ablation_{name}_vs_paper': turns.ratio(seconds['paper'], seconds[name])
    for name in ABLATIONS
  }
  print(f'training step, batch {arguments.batch_size}')
  print(f'{"":12}{"images/s":>12}{"speedup":>12}')
  for name, each in seconds.items():
    speed = arguments.batch_size / statistics.median(each)
    times = turns.ratio(seconds['paper'], each)
    print(f'{name:12}{speed:>12.1f}{times:>12.2f}')
  turns.print_result(ratios, {}, **turns.machine('jax', 'flax'))


if __name__ == '__main__':
  main()
