"""Class probabilities and features of image files."""

import functools
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet, input_pipeline, preprocess
from alexnet_jax.model import AlexNet

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.bmp')


_LIKELIEST = 5


def find_images(names: list[str]) -> list[str]:
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
