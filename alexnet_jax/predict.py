"""Classifies images with a trained or converted network.

Prints the five most probable classes of each image. Images are preprocessed as
in evaluation: resized, cropped at the center and normalized.

A folder is searched recursively for JPEG, PNG, GIF, BMP, WEBP, TIFF and AVIF
files; hidden files are passed over. Photographs are turned upright by their
EXIF orientation, of animations the first frame is taken, and transparent images
are shown on white. A file that cannot be read is named, and the others go on;
--on_error=stop ends instead. Files and workdirs may be on gs://.

--features writes fc7 after its ReLU: FILE.npz holds the arrays `features`
[N, 4096] and `paths` [N]; FILE.npy holds the features, and FILE.txt the paths.
With --layers=conv3,fc6 FILE.npz holds an array a layer under its name instead;
conv3/linear is conv3 before its ReLU. docs/features.md lists the names.
--plot draws the first 40 images in the style of the paper's Figure 4.

Example:
  python -m alexnet_jax.predict photo.jpg --workdir=torchvision
  python -m alexnet_jax.predict photos --workdir=torchvision --csv
  python -m alexnet_jax.predict photos --workdir=torchvision \\
    --features=photos.npz --layers=conv3,fc6

Exit status: 0 at least one image was read; 2 an argument is wrong, or no image
can be read, and no file is written; 3 a file cannot be written.
"""

import contextlib
import csv
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import escaped, warn

_PLOTTED = 40
_SUFFIXES = {'features': ('.npz', '.npy'), 'plot': ('.png',)}


def main(argv: list[str]) -> None:
  """Predicts as the arguments say."""
  parser = Parser('predict', __doc__)
  parser.add_argument(
    'images', metavar='IMAGE', nargs='+', help='an image file, or a folder'
  )
  parser.add_argument(
    '--workdir',
    metavar='DIR',
    required=True,
    help='a run or converted weights; torchvision, caffe or caffenet; a URL or '
    'a file of weights',
  )
  parser.add_argument(
    '--step', default='best', help='best (default), latest or a step number'
  )
  parser.add_argument(
    '--batch_size', type=int, default=32, help='images per batch (default: 32)'
  )
  parser.add_argument(
    '--on_error',
    choices=('skip', 'stop'),
    default='skip',
    help='what to do if an image cannot be read (default: skip)',
  )
  forms = parser.add_mutually_exclusive_group()
  for form, meaning in (
    ('json', 'one JSON list, at the end'),
    ('jsonl', 'a JSON object per line, at once'),
    ('csv', 'a row per image, at once'),
  ):
    forms.add_argument(
      f'--{form}',
      dest='form',
      action='store_const',
      const=form,
      help=f'print {meaning} (default: text)',
    )
  parser.add_argument(
    '--features',
    metavar='FILE.npz',
    help='write fc7 features, to FILE.npz or FILE.npy (default: no)',
  )
  parser.add_argument(
    '--layers',
    metavar='NAMES',
    help='layers that --features writes instead, such as conv3,fc6',
  )
  parser.add_argument(
    '--plot', metavar='FILE.png', help='draw images and classes (default: no)'
  )
  flags = parser.parse_args(argv)
  if flags.batch_size < 1:
    raise UserError(f'--batch_size={flags.batch_size} must be at least 1')
  layers = _split(flags.layers, flags.features)
  for option, suffixes in _SUFFIXES.items():
    path = getattr(flags, option)
    if path and not path.endswith(suffixes):
      raise UserError(f'--{option}={path} must end in {" or ".join(suffixes)}')
    if path and not pathlib.Path(path).absolute().parent.is_dir():
      raise UserError(f'no folder for --{option}={path}')

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax import pretrained
    from alexnet_jax.plots import figure4
    from alexnet_jax.pretrained import inference
    from alexnet_jax.pretrained.feature_file import FeatureFile

  paths = inference.find_images(flags.images)
  if flags.plot and os.path.realpath(flags.plot) in map(
    os.path.realpath, paths
  ):
    raise UserError(f'--plot={flags.plot} is one of the images')
  network = pretrained.load(flags.workdir, flags.step)
  if layers:
    inference.check_layers(network, layers)
  output = Output(flags.form)
  classes_of: dict[str, list[dict[str, Any]]] = {}
  start = time.monotonic()
  with contextlib.ExitStack() as stack:
    file = None
    if flags.features:
      file = FeatureFile(flags.features)
      stack.callback(file.close)
    bar = stack.enter_context(
      tqdm(total=len(paths), unit='image', disable=None)
    )
    read = 0
    for image in inference.predict(network, paths, flags.batch_size, layers):
      bar.update()
      if image.probabilities is None or image.features is None:
        text = f'cannot read {escaped(image.path)}: {image.error}'
        if flags.on_error == 'stop':
          raise UserError(text)
        warn(text)
        output.add(image.path, error=image.error)
        continue
      read += 1
      classes = inference.likeliest(
        image.probabilities, network.preprocessing.class_names
      )
      output.add(image.path, classes)
      if file:
        features = image.features
        file.add(image.path, features if layers else {'features': features})
      if len(classes_of) < _PLOTTED:
        classes_of[image.path] = classes
    if not read:
      raise UserError(f'none of {len(paths)} images can be read')
    if file:
      file.write()
  if flags.plot:
    figure4.plot_labels(
      [inference.read_image(path) for path in classes_of],
      list(classes_of.values()),
      flags.plot,
    )
  output.end()
  speed = len(paths) / (time.monotonic() - start)
  print(
    f'{read:,} images, {len(paths) - read:,} cannot be read, '
    f'{speed:,.0f} images/s',
    file=sys.stderr,
  )


def _split(names: str | None, file: str | None) -> list[str] | None:
  """Returns the names of --layers; checks that --features can hold them."""
  if names is None:
    return None
  if not file:
    raise UserError(f'--layers={names} needs --features=FILE.npz')
  layers = list(dict.fromkeys(names.split(',')))
  if len(layers) > 1 and file.endswith('.npy'):
    raise UserError(
      f'--features={file} holds a single layer: give FILE.npz for '
      f'--layers={names}'
    )
  return layers


class Output:
  """Prints the classes of images as text, JSON or CSV."""

  def __init__(self, form: str | None):
    self._form = form
    self._all: list[dict[str, Any]] = []
    self._csv: Any = None

  def add(
    self,
    path: str,
    classes: Sequence[dict[str, Any]] = (),
    error: str | None = None,
  ) -> None:
    """Adds an image with its most probable classes, or why it has none."""
    entry: dict[str, Any] = {'path': path, 'classes': classes}
    if error is not None:
      entry = {'path': path, 'error': error}
    if self._form == 'json':
      self._all.append(entry)
    elif self._form == 'jsonl':
      tqdm.write(json.dumps(entry))
      sys.stdout.flush()
    elif self._form == 'csv':
      self._add_row(path, classes, error)
    elif error is None:
      tqdm.write(escaped(path))
      for one in classes:
        tqdm.write(f'  {one["probability"]:6.1%}  {escaped(one["name"])}')

  def _add_row(self, path, classes, error) -> None:
    if self._csv is None:
      self._csv = csv.writer(sys.stdout, lineterminator='\n')
      numbers = range(1, 6)
      names = [
        f'{kind}{i}' for i in numbers for kind in ('class', 'probability')
      ]
      self._csv.writerow(['path', 'error', *names])
    cells = [
      cell
      for one in classes
      for cell in (escaped(one['name']), f'{one["probability"]:.6f}')
    ]
    self._csv.writerow([escaped(path), escaped(error or ''), *cells])
    sys.stdout.flush()

  def end(self) -> None:
    """Prints what is printed at the end."""
    if self._form == 'json':
      print(json.dumps(self._all, indent=2))


if __name__ == '__main__':
  run(main, sys.argv[1:])
