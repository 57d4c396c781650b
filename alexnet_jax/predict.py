"""Classifies pictures: `python -m alexnet_jax.predict IMAGE... --workdir=DIR`.

DIR is a run's, or one that alexnet_jax.convert made; IMAGE a file (JPEG, PNG,
GIF, BMP) or a folder, which is searched whole. Each picture is seen as in
evaluation: resized, its centre cropped, mean and deviation taken away.

Exit status: 0 done; 2 something asked for is not there or is no picture, and
no file was written; 3 storage.
"""

import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_jax import plots, pretrained
from alexnet_jax.command import Parser, printable, run, write_aside
from alexnet_jax.data import decoding, imagenet, input_pipeline, preprocess
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.bmp')
_LIKELIEST = 5
_PLOTTED = 40


def find_pictures(names: list[str]) -> list[str]:
  """Files as given, and those of folders in sorted order.

  Raises:
    UserError: a name is of nothing, or of a folder without pictures.
  """
  paths = []
  for name in names:
    try:
      is_folder, is_there = tf.io.gfile.isdir(name), tf.io.gfile.exists(name)
    except (tf.errors.OpError, ValueError) as error:
      raise UserError(f'cannot look at {name!r} (IMAGE): {error}') from error
    if not is_there:
      raise UserError(f'no picture or folder {name!r} (IMAGE)')
    if not is_folder:
      paths.append(name)
      continue
    # os.walk does not follow links, which may lead round in a circle.
    walk = tf.io.gfile.walk if '://' in name else os.walk
    found = sorted(
      os.path.join(folder, file)
      for folder, _, files in walk(name)
      for file in files
      if file.lower().endswith(_SUFFIXES)
    )
    if not found:
      raise UserError(f'no {", ".join(_SUFFIXES)} in the folder {name!r}')
    paths += found
  for path in paths:
    if not path.isprintable():
      raise UserError(f'a file name that cannot be printed: {path!r}')
  return paths


def predict(
  network: pretrained.Pretrained, paths: list[str], batch_size: int = 32
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
  """Class probabilities and features of picture files.

  Args:
    network: of a workdir.
    paths: of the files, local or gs://.
    batch_size: pictures at a time.

  Yields:
    For each batch the paths, the probabilities, float32 `[n, num_classes]`,
    and fc7 after its ReLU, float32 `[n, 4096]`.

  Raises:
    UserError: a file is no picture; it is named.
  """
  # Read in the pipeline, so that any number of pictures goes.
  examples = tf.data.Dataset.from_tensor_slices(paths).map(
    lambda path: {'image': tf.io.read_file(path), 'key': path},
    num_parallel_calls=tf.data.AUTOTUNE,
  )

  def view(example):
    view = preprocess.eval_views(
      example['image'], network.preprocessing, crops=1
    )
    return {'image': preprocess.finish(view, network.preprocessing)[0]}

  views = examples.map(view, num_parallel_calls=tf.data.AUTOTUNE).batch(
    batch_size
  )
  step = jax.jit(functools.partial(probabilities_and_features, network.model))
  params = jax.device_put(network.params)
  batches = input_pipeline.iterate(views, examples.enumerate, batch_size)
  done = 0
  try:
    for batch in batches:
      probabilities, features = jax.device_get(step(params, batch['image']))
      if not np.isfinite(probabilities).all():
        raise UserError('the network answers with numbers that are not finite')
      names = paths[done : done + len(features)]
      yield names, probabilities, features
      done += len(names)
  except (tf.errors.OpError, UnicodeError) as error:
    _name_unreadable(paths[done : done + batch_size])
    raise UserError(f'cannot read a picture: {error}') from error


def _name_unreadable(paths: list[str]) -> None:
  for path in paths:
    try:
      tf.io.read_file(path)
    except (tf.errors.OpError, UnicodeError) as error:
      reason = getattr(error, 'message', error)
      raise UserError(f'cannot read {path!r}: {reason}') from error


def probabilities_and_features(
  model: AlexNet, params: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Softmax outputs `[N, num_classes]` and fc7 `[N, 4096]`, both float32."""
  variables = {'params': params}
  logits: Any = model.apply(variables, images)
  features: Any = model.apply(variables, images, method='features')
  return jax.nn.softmax(logits), features.astype(np.float32)


def likeliest(
  probabilities: np.ndarray, class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
  """The five likeliest classes of one picture, the likeliest first.

  Args:
    probabilities: `[num_classes]`.
    class_names: by label; ImageNet's synsets are spelt out.

  Returns:
    For each `label`, `name`, `probability`, and `synset` where there is one.
  """
  classes = []
  for label in np.argsort(-probabilities, kind='stable')[:_LIKELIEST]:
    known = label < len(class_names)
    name = class_names[label] if known else f'class {label}'
    entry = {
      'label': int(label),
      'name': imagenet.words(name),
      'probability': float(probabilities[label]),
    }
    if entry['name'] != name:
      entry['synset'] = name
    classes.append(entry)
  return classes


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
  paths = find_pictures(flags.images)
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
    write_aside(
      flags.features,
      lambda file: np.savez(
        file, features=np.concatenate(all_features), paths=np.array(paths)
      ),
    )
  if flags.plot:
    shown = results[:_PLOTTED]
    plots.plot_labels(
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
