"""Draws the paper's Figures 3 and 4 for a trained or converted network.

Writes into the workdir, or into --out:
  figure3.png            the kernels of the first layer
  figure4_labels.png     validation images with their five most probable classes
  figure4_neighbors.png  validation images, each with the nearest training
                         images: exact L2 distances of fc7 to all of them
  figures.json           the data of the figures

With --mistakes instead:
  mistakes.png           the twenty validation images that are misclassified
                         most confidently, with their most probable classes
  mistakes.json          its data

The validation images are sampled with --seed. alexnet_jax.report shows the
figures of all runs.

Example:
  python -m alexnet_jax.figures runs/digits
  python -m alexnet_jax.figures runs/digits --mistakes

Exit status: 0 done; 2 an argument is wrong; 3 a file cannot be read or written.
"""

import argparse
import sys

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute, check_bucket

# Flag, default, meaning.
_NUMBERS = (
  ('images', 8, 'validation images shown with their classes'),
  ('queries', 5, 'validation images shown with their neighbors'),
  ('neighbors', 6, 'training images shown for each query'),
  ('seed', 0, 'seed of the sampling of images'),
)


def main(argv: list[str]) -> None:
  """Makes the figures as the arguments say."""
  parser = Parser('figures', __doc__)
  parser.add_argument(
    'workdir',
    metavar='WORKDIR',
    help='a run or converted weights, local or gs://',
  )
  parser.add_argument(
    '--out',
    metavar='DIR',
    help='folder to write to, local or gs:// (default: WORKDIR)',
  )
  for flag, name, meaning in (
    ('data', 'name', 'TFDS dataset'),
    ('data_dir', 'data_dir', 'folder of the dataset'),
    ('train_split', 'train_split', 'training split'),
    ('val_split', 'val_split', 'validation split'),
  ):
    parser.add_argument(
      f'--{flag}', dest=name, help=f"{meaning} (default: the run's)"
    )
  parser.add_argument(
    '--step', default='best', help='best (default), latest or a step number'
  )
  for name, default, meaning in _NUMBERS:
    parser.add_argument(
      f'--{name}',
      type=int,
      default=default,
      metavar='N',
      help=f'{meaning} (default: {default})',
    )
  parser.add_argument(
    '--mistakes',
    action='store_true',
    help='draw the most confident mistakes instead (default: no)',
  )
  # The former name of --images.
  parser.add_argument(
    '--pictures', dest='images', type=int, default=argparse.SUPPRESS,
    help=argparse.SUPPRESS,
  )  # fmt: skip
  flags = parser.parse_args(argv)
  numbers = [getattr(flags, name) for name, *_ in _NUMBERS]
  for (name, *_), number in zip(_NUMBERS, numbers, strict=True):
    least = 0 if name == 'seed' else 1
    if number < least:
      raise UserError(f'--{name}={number} must be at least {least}')

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax import pretrained
    from alexnet_jax.config.saved import dataset_of, read_config
    from alexnet_jax.data.classes import match
    from alexnet_jax.data.dataset import open_dataset
    from alexnet_jax.pretrained import paper_figures

  network = pretrained.load(flags.workdir, flags.step)
  folder = absolute(flags.workdir)
  out = absolute(flags.out) if flags.out else folder
  check_bucket(out, '--out')
  if out.exists() and not out.is_dir():
    raise UserError(f'{out} (--out) is not a folder')
  data = (read_config(folder) or {}).get('data', {})
  name, train_split, val_split = (
    getattr(flags, field) or data.get(field)
    for field in ('name', 'train_split', 'val_split')
  )
  if not (name and train_split and val_split):
    raise UserError(
      f'{folder} does not name its dataset: give --data, --train_split and '
      '--val_split'
    )
  data_dir = data.get('data_dir')
  if not flags.name:
    name, data_dir = dataset_of(data, folder)
  dataset = open_dataset(name, flags.data_dir or data_dir)
  if dataset.has_lists:
    raise UserError(
      f'{dataset.full_name} has lists of labels; figures needs one an image '
      '(--data)'
    )
  classes = match(
    network.model.num_classes, folder, network.preprocessing, dataset, 'all'
  )
  dataset.check_resize(network.preprocessing.resize)
  splits = train_split, val_split
  out.mkdir(parents=True, exist_ok=True)
  if flags.mistakes:
    entries = paper_figures.draw_mistakes(
      network, dataset, val_split, classes, out
    )
    _print_classes(entries)
    print(f'figures: {out}/mistakes.png' if entries else 'no mistakes')
    return
  content = paper_figures.make(network, dataset, splits, classes, out, *numbers)
  _print_classes(content['labels'])
  print(
    f'figures: {out}/figure3.png, figure4_labels.png, figure4_neighbors.png'
  )


def _print_classes(entries) -> None:
  for entry in entries:
    best = entry['classes'][0]
    print(f'{entry["truth"]}: {best["name"]} {best["probability"]:.0%}')


if __name__ == '__main__':
  run(main, sys.argv[1:])
