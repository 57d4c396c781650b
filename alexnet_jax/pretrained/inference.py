"""Class probabilities and features of image files."""

import functools
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import decoding, imagenet, input_pipeline, preprocess
from alexnet_jax.model import AlexNet
from alexnet_jax.pretrained.loading import Pretrained

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.bmp')
_LIKELIEST = 5


def find_images(names: list[str]) -> list[str]:
  """Returns the paths of files, and of the images in folders, in sorted order.

  Args:
    names: files, and folders that are searched recursively; local or gs://.

  Raises:
    UserError: a file is missing, or a folder holds no images.
  """
  paths = []
  for name in names:
    try:
      is_folder, exists = tf.io.gfile.isdir(name), tf.io.gfile.exists(name)
    except (tf.errors.OpError, ValueError) as error:
      raise UserError(f'cannot look at {name!r} (IMAGE): {error}') from error
    if not exists:
      raise UserError(f'no image or folder {name!r} (IMAGE)')
    if not is_folder:
      paths.append(name)
      continue
    # os.walk does not follow links, which may form a loop.
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


def read_image(path: str) -> np.ndarray:
  """Returns the pixels of an image file, uint8 `[H, W, 3]`."""
  return decoding.decode(tf.io.read_file(path)).numpy()


def predict(
  network: Pretrained, paths: list[str], batch_size: int = 32
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
  """Computes class probabilities and features of image files.

  Args:
    network: the network, of a workdir.
    paths: the files', local or gs://.
    batch_size: images per batch.

  Yields:
    For each batch the paths, the probabilities, float32 `[n, num_classes]`,
    and fc7 after its ReLU, float32 `[n, 4096]`.

  Raises:
    UserError: a file is not an image; the message names it.
  """
  # The pipeline reads the files, so that they need not fit in memory.
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
        raise UserError('the network returns values that are not finite')
      names = paths[done : done + len(features)]
      yield names, probabilities, features
      done += len(names)
  except (tf.errors.OpError, UnicodeError) as error:
    _name_unreadable(paths[done : done + batch_size])
    raise UserError(f'cannot read an image: {error}') from error


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
  """Computes softmax `[N, num_classes]` and fc7 `[N, 4096]`, both float32."""
  variables = {'params': params}
  logits: Any = model.apply(variables, images)
  features: Any = model.apply(variables, images, method='features')
  return jax.nn.softmax(logits), features.astype(np.float32)


def likeliest(
  probabilities: np.ndarray, class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
  """Returns the five most probable classes of one image, in order.

  All classes are returned if there are no more than five.

  Args:
    probabilities: `[num_classes]`.
    class_names: by label; ImageNet's synsets are replaced by their words.

  Returns:
    For each class `label`, `name`, `probability`, and `synset` if its name is
    one of ImageNet's.

  Example:
    >>> likeliest(np.array([0.1, 0.7, 0.2]), ('cat', 'dog', 'fish'))[0]
    {'label': 1, 'name': 'dog', 'probability': 0.7}
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
