"""Classifies pictures: `python -m alexnet_jax.predict IMAGE... --workdir=DIR`.

DIR is a run's, or one that alexnet_jax.convert made; IMAGE a file (JPEG, PNG,
GIF, BMP) or a folder, which is searched whole. Each picture is seen as in
evaluation: resized, its centre cropped, mean and deviation taken away.

Exit status: 0 done; 2 something asked for is not there or is no picture, and
no file was written; 3 storage.
"""

import json
import os
import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_jax import pretrained
from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.cli.terminal import printable
from alexnet_jax.data import decoding
from alexnet_jax.plots import figure4
from alexnet_jax.pretrained.inference import find_images, likeliest, predict

_PLOTTED = 40


def main(argv: list[str]) -> None:
  """Predicts as the arguments say."""
  parser = Parser('predict', __doc__)
  parser.add_argument('images', metavar='IMAGE', nargs='+')
  parser.add_argument('--workdir', required=True, help='local or gs://')
  parser.add_argument(
    '--step', default='best', help='best, latest, or the number of a step'
  )
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument(
    '--json', action='store_true', help='a JSON list on stdout'
  )
  parser.add_argument(
    '--features',
    metavar='FILE.npz',
    help='write fc7 after its ReLU: `features` [N, 4096] and `paths` [N]',
  )
  parser.add_argument(
    '--plot', metavar='FILE.png', help='draw pictures and classes (Figure 4)'
  )
  flags = parser.parse_args(argv)
  if flags.batch_size < 1:
    raise UserError(f'--batch_size is {flags.batch_size}: at least 1 needed')
  for option in ('features', 'plot'):
    path = getattr(flags, option)
    if not path:
      continue
    suffix = {'features': '.npz', 'plot': '.png'}[option]
    if not path.endswith(suffix):
      raise UserError(f'--{option}={path}: a name that ends in {suffix} needed')
    if not pathlib.Path(path).absolute().parent.is_dir():
      raise UserError(f'no folder for --{option}={path}')
  paths = find_images(flags.images)
  if flags.plot and os.path.realpath(flags.plot) in map(
    os.path.realpath, paths
  ):
    raise UserError(f'--plot={flags.plot} is one of the pictures')
  network = pretrained.load(flags.workdir, flags.step)
  results: list[dict[str, Any]] = []
  all_features = []
  with tqdm(total=len(paths), unit='picture', disable=None) as bar:
    for names, probabilities, features in predict(
      network, paths, flags.batch_size
    ):
      for name, row in zip(names, probabilities, strict=True):
        classes = likeliest(row, network.preprocessing.class_names)
        results.append({'path': name, 'classes': classes})
        if not flags.json:
          tqdm.write(_as_text(results[-1]))
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
    shown = results[:_PLOTTED]
    figure4.plot_labels(
      [
        decoding.decode(tf.io.read_file(result['path'])).numpy()
        for result in shown
      ],
      [result['classes'] for result in shown],
      flags.plot,
    )
  if flags.json:
    print(json.dumps(results, indent=2))


def _as_text(result: dict[str, Any]) -> str:
  lines = [result['path']]
  lines += [
    f'  {entry["probability"]:6.1%}  {printable(entry["name"])}'
    for entry in result['classes']
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  run(main, sys.argv[1:])
