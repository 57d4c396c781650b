"""Learning curves of runs: `python -m alexnet_jax.report RUN... --out=DIR`.

A RUN is a workdir, or what is left of one: config.json and metrics.jsonl.
Writes DIR/curves.png.
"""

import argparse
import json
import math
import pathlib
import sys

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

# Okabe and Ito's colours: colour-blind readers can tell them apart.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')


def read_metrics(run: pathlib.Path) -> dict[str, list[dict[str, float]]]:
  """The lines of metrics.jsonl by split, in order of their steps."""
  lines: dict[str, list] = {'train': [], 'validation': []}
  for text in (run / 'metrics.jsonl').read_text().splitlines():
    line = json.loads(text)
    lines[line['split']].append(line)
  return lines


def plot_curves(runs: list[pathlib.Path], path: pathlib.Path) -> None:
  """Loss and top-1 error against epochs, training and validation.

  Args:
    runs: folders with config.json and metrics.jsonl.
    path: the PNG to write.
  """
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
  for run, color in zip(runs, _COLORS * len(runs), strict=False):
    config = json.loads((run / 'config.json').read_text())
    name = f'{config["data"]["name"]}, {config["model"]["name"]}'
    lines = read_metrics(run)
    for axis, field, scale in (
      (axes[0], 'loss', 1),
      (axes[1], 'top1_error', 100),
    ):
      for split, style in (('train', '-'), ('validation', 'o--')):
        axis.plot(
          [line['epoch'] for line in lines[split]],
          [line[field] * scale for line in lines[split]],
          style,
          color=color,
          alpha=0.6 if split == 'train' else 1.0,
          label=f'{name}, {split}',
        )
    chance = math.log(config['model']['num_classes'])
    axes[0].axhline(chance, color='gray', linewidth=0.8, linestyle=':')
    axes[0].annotate(
      f'ln {config["model"]["num_classes"]}',
      (axes[0].get_xlim()[1], chance),
      ha='right',
      va='bottom',
      color='gray',
    )
  axes[0].set(xlabel='epoch', ylabel='cross-entropy (nats)')
  axes[1].set(xlabel='epoch', ylabel='top-1 error (%)')
  # The first steps of a large net reach far above what is to be seen.
  axes[0].set_ylim(0, min(axes[0].get_ylim()[1], 2 * chance))
  axes[0].legend(fontsize=7)
  for axis in axes:
    axis.grid(alpha=0.3)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def main(argv: list[str] | None = None) -> int:
  """The command; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('runs', nargs='+', type=pathlib.Path, metavar='RUN')
  parser.add_argument('--out', type=pathlib.Path, required=True, metavar='DIR')
  arguments = parser.parse_args(argv)
  for run in arguments.runs:
    for name in ('config.json', 'metrics.jsonl'):
      if not (run / name).is_file():
        print(f'alexnet_jax: no {name} in {run}: not a run', file=sys.stderr)
        return 2
  plot_curves(arguments.runs, arguments.out / 'curves.png')
  print(arguments.out / 'curves.png')
  return 0


if __name__ == '__main__':
  sys.exit(main())
