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

With --image=FILE instead, what the network sees in an image:
  sees.html              a page of the four PNG files and their captions
  sees_maps.png          all feature maps of a layer
  sees_gradient.png      the gradient of a class's score by the pixels
  sees_occlusion.png     the probability of a class with a square over each
                         place
  sees_patches.png       the nine validation images that drive a unit most, with
                         its receptive field
  sees.json              the data of the page

The validation images are sampled with --seed. alexnet_jax.report shows the
figures of all runs.

Example:
  python -m alexnet_jax.figures runs/digits
  python -m alexnet_jax.figures runs/digits --mistakes
  python -m alexnet_jax.figures runs/torchvision --image=photo.jpg --layer=conv3

Exit status: 0 done; 2 an argument is wrong; 3 a file cannot be read or written.
"""

import argparse
import sys

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute, check_bucket, is_url
from alexnet_jax.cli.terminal import warn

# Flag, default, meaning.
_NUMBERS = (
  ('images', 8, 'validation images shown with their classes'),
  ('queries', 5, 'validation images shown with their neighbors'),
  ('neighbors', 6, 'training images shown for each query'),
  ('seed', 0, 'seed of the sampling of images'),
)

# Flag, type, field, meaning.
_OF_IMAGE = (
  ('layer', str, 'layer', 'layer with maps (default: the last convolution)'),
  ('class', str, 'class_name', 'name or number (default: the most probable)'),
  ('unit', int, 'unit', 'channel of the layer (default: the strongest here)'),
)


def main(argv: list[str]) -> None:
  """Makes the figures as the arguments say."""
  flags = _parse(argv)
  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax import pretrained
    from alexnet_jax.data.classes import match
    from alexnet_jax.pretrained import paper_figures, sees

  # Before a download.
  if not flags.out and _is_file(flags.workdir):
    raise UserError(f'{flags.workdir} (WORKDIR) is not a folder: add --out=DIR')
  if flags.image is not None and not absolute(flags.image).exists():
    raise UserError(
      f'cannot read {flags.image} (--image): No such file or directory'
    )
  network = pretrained.load(flags.workdir, flags.step)
  out = absolute(flags.out or flags.workdir)
  check_bucket(out, '--out')
  if out.exists() and not out.is_dir():
    raise UserError(f'{out} (--out) is not a folder')
  if flags.image is not None:
    found = _patches_of(flags, network.preprocessing.resize)
    content = sees.make(
      network,
      flags.image,
      out,
      flags.layer,
      flags.class_name,
      flags.unit,
      found,
    )
    _print_classes([{'truth': content['image'], **content}])
    print(f'figures: {out}/sees.html')
    return
  dataset, train_split, val_split = _dataset(flags, ('train', 'val'))
  classes = match(
    network.model.num_classes,
    flags.workdir,
    network.preprocessing,
    dataset,
    'all',
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
  numbers = [getattr(flags, name) for name, *_ in _NUMBERS]
  content = paper_figures.make(network, dataset, splits, classes, out, *numbers)
  _print_classes(content['labels'])
  print(
    f'figures: {out}/figure3.png, figure4_labels.png, figure4_neighbors.png'
  )


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = Parser('figures', __doc__)
  parser.add_argument(
    'workdir',
    metavar='WORKDIR',
    help='a run or converted weights, local or gs://; torchvision, caffe or '
    'caffenet; a URL or a file of weights',
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
  modes = parser.add_mutually_exclusive_group()
  modes.add_argument(
    '--mistakes',
    action='store_true',
    help='draw the most confident mistakes instead (default: no)',
  )
  modes.add_argument(
    '--image',
    metavar='FILE',
    help='draw what the network sees in this image instead (default: no)',
  )
  for flag, kind, name, meaning in _OF_IMAGE:
    parser.add_argument(f'--{flag}', dest=name, type=kind, help=meaning)
  # The former name of --images.
  parser.add_argument(
    '--pictures', dest='images', type=int, default=argparse.SUPPRESS,
    help=argparse.SUPPRESS,
  )  # fmt: skip
  flags = parser.parse_args(argv)
  for name, *_ in _NUMBERS:
    number, least = getattr(flags, name), 0 if name == 'seed' else 1
    if number < least:
      raise UserError(f'--{name}={number} must be at least {least}')
  for flag, _, name, _ in _OF_IMAGE:
    if flags.image is None and getattr(flags, name) is not None:
      raise UserError(f'--{flag} needs --image=FILE')
  return flags


def _is_file(workdir: str) -> bool:
  """Whether it is a published name, a URL or a file, and not a folder."""
  from alexnet_jax.pretrained.published import PUBLISHED

  return workdir in PUBLISHED or is_url(workdir) or absolute(workdir).is_file()


def _dataset(flags: argparse.Namespace, needed: tuple[str, ...]):
  """Returns the dataset and those of its splits that are needed."""
  from alexnet_jax.config.saved import dataset_of, read_config
  from alexnet_jax.data.dataset import open_dataset

  folder, saved = flags.workdir, None
  if not _is_file(folder):
    saved = read_config(absolute(folder))
  data = (saved or {}).get('data', {})
  fields = 'name', *(f'{which}_split' for which in needed)
  name, *splits = (getattr(flags, f) or data.get(f) for f in fields)
  if not (name and all(splits)):
    *others, last = ('--data', *(f'--{field}' for field in fields[1:]))
    raise UserError(
      f'{folder} does not name its dataset: give {", ".join(others)} and {last}'
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
  return dataset, *splits


def _patches_of(flags: argparse.Namespace, resize: str):
  """Returns a dataset and its split to look for patches in, or None.

  A run's dataset may be elsewhere, which prevents the patches only. A dataset
  that is typed must be right.
  """
  try:
    dataset, split = _dataset(flags, ('val',))
    dataset.check_resize(resize)
    dataset.num_examples(split)
  except UserError as error:
    if flags.name or flags.data_dir or flags.val_split:
      raise
    warn(f'no sees_patches.png (--data, --data_dir, --val_split): {error}')
    return None
  return dataset, split


def _print_classes(entries) -> None:
  for entry in entries:
    best = entry['classes'][0]
    print(f'{entry["truth"]}: {best["name"]} {best["probability"]:.0%}')


if __name__ == '__main__':
  run(main, sys.argv[1:])
