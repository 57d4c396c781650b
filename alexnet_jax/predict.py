"""Classifies images with a trained or converted network.

Prints the five most probable classes of each image. Images are preprocessed as
in evaluation: resized, cropped at the center and normalized. A folder is
searched recursively for JPEG, PNG, GIF and BMP files. Files and workdirs may be
on gs://.

--features writes the arrays `features` [N, 4096], fc7 after its ReLU, and
`paths` [N]. --plot draws the first 40 images in the style of the paper's
Figure 4.

Example:
  python -m alexnet_jax.predict photo.jpg --workdir=runs/torchvision

Exit status: 0 done; 2 an argument is wrong or a file is not an image, and
nothing is written; 3 a file cannot be read or written.
"""

import json
import os
import pathlib
import sys
from typing import Any

from tqdm import tqdm

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.cli.terminal import printable

_PLOTTED = 40


def main(argv: list[str]) -> None:
  """Predicts as the arguments say."""
  parser = Parser('predict', __doc__)
  parser.add_argument(
    'images', metavar='IMAGE', nargs='+', help='an image file, or a folder'
  )
  parser.add_argument(
    '--workdir', metavar='DIR', required=True, help='a run or converted weights'
  )
  parser.add_argument(
    '--step', default='best', help='best (default), latest or a step number'
  )
  parser.add_argument(
    '--batch_size', type=int, default=32, help='images per batch (default: 32)'
  )
  parser.add_argument(
    '--json', action='store_true', help='print JSON instead of text'
  )
  parser.add_argument(
    '--features',
    metavar='FILE.npz',
    help='write fc7 features (default: no)',
  )
  parser.add_argument(
    '--plot', metavar='FILE.png', help='draw images and classes (default: no)'
  )
  flags = parser.parse_args(argv)
  if flags.batch_size < 1:
    raise UserError(f'--batch_size={flags.batch_size} must be at least 1')
  for option, suffix in (('features', '.npz'), ('plot', '.png')):
    path = getattr(flags, option)
    if path and not path.endswith(suffix):
      raise UserError(f'--{option}={path} must end in {suffix}')
    if path and not pathlib.Path(path).absolute().parent.is_dir():
      raise UserError(f'no folder for --{option}={path}')

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    import numpy as np

    from alexnet_jax import pretrained
    from alexnet_jax.plots import figure4
    from alexnet_jax.pretrained import inference

  paths = inference.find_images(flags.images)
  if flags.plot and os.path.realpath(flags.plot) in map(
    os.path.realpath, paths
  ):
    raise UserError(f'--plot={flags.plot} is one of the images')
  network = pretrained.load(flags.workdir, flags.step)
  results: list[dict[str, Any]] = []
  all_features = []
  with tqdm(total=len(paths), unit='image', disable=None) as bar:
    for names, probabilities, features in inference.predict(
      network, paths, flags.batch_size
    ):
      for name, row in zip(names, probabilities, strict=True):
        classes = inference.likeliest(row, network.preprocessing.class_names)
        results.append({'path': name, 'classes': classes})
        if not flags.json:
          tqdm.write(name)
          for entry in classes:
            text = printable(entry['name'])
            tqdm.write(f'  {entry["probability"]:6.1%}  {text}')
      if flags.features:
        all_features.append(features)
      bar.update(len(names))
  if flags.features:
    write_file(
      flags.features,
      lambda file: np.savez(
        file, features=np.concatenate(all_features), paths=np.array(paths)
      ),
    )
  if flags.plot:
    figure4.plot_labels(
      [inference.read_image(path) for path in paths[:_PLOTTED]],
      [result['classes'] for result in results[:_PLOTTED]],
      flags.plot,
    )
  if flags.json:
    print(json.dumps(results, indent=2))


if __name__ == '__main__':
  run(main, sys.argv[1:])
