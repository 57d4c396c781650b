"""Class probabilities and features of image files."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorflow as tf

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import warn
from alexnet_jax.data import decoding, imagenet, images, preprocess
from alexnet_jax.model import AlexNet
from alexnet_jax.pretrained.loading import Pretrained

_LIKELIEST = 5


class Prediction(NamedTuple):
  """What a network says of an image file.

  Attributes:
    path: the file's.
    probabilities: float32 `[num_classes]`; None if the file cannot be read.
    features: fc7 after its ReLU, float32 `[4096]`; with `layers`, a dict of one
      float32 array a layer; None if the file cannot be read.
    error: why the file cannot be read.
  """

  path: str
  probabilities: np.ndarray | None = None
  features: Any = None
  error: str | None = None


def find_images(names: list[str]) -> list[str]:
  """Returns the paths of files, and of the images in folders, in sorted order.

  Warns of other files in a folder.

  Args:
    names: files, and folders that are searched recursively; local or gs://.

  Raises:
    UserError: a file is missing, or a folder holds no images.
  """
  paths, others = [], []
  for name in names:
    try:
      is_folder, exists = tf.io.gfile.isdir(name), tf.io.gfile.exists(name)
    except UnicodeError:  # TensorFlow takes no names that are not UTF-8.
      is_folder, exists = os.path.isdir(name), os.path.exists(name)
    except (tf.errors.OpError, ValueError) as error:
      raise UserError(f'cannot look at {name!r} (IMAGE): {error}') from error
    if not exists:
      raise UserError(f'no image or folder {name!r} (IMAGE)')
    if not is_folder:
      paths.append(name)
      continue
    found = list(images.walk(name))
    if not any(is_image for _, is_image in found):
      raise UserError(f'no images in the folder {name!r}')
    paths += [path for path, is_image in found if is_image]
    others += [path for path, is_image in found if not is_image]
  if others:
    more = ', ...' if len(others) > 3 else ''
    warn(
      f'passed over {len(others)} files whose names are not those of images: '
      f'{", ".join(others[:3])}{more}'
    )
  return paths


def read_image(path: str) -> np.ndarray:
  """Returns the pixels of an image file, uint8 `[H, W, 3]`."""
  return decoding.decode(images.read(path)).numpy()


def predict(
  network: Pretrained,
  paths: Sequence[str],
  batch_size: int = 32,
  layers: Sequence[str] | None = None,
) -> Iterator[Prediction]:
  """Computes class probabilities and features of image files.

  Args:
    network: the network, of a workdir.
    paths: the files', local or gs://. They need not fit in memory.
    batch_size: images per batch.
    layers: those whose features are wanted, as for `AlexNet.features`; the
      default is fc7.

  Yields:
    A prediction for each file, in order.

  Raises:
    UserError: there is no such layer, or the network returns values that are
      not finite.
  """
  if layers is not None:
    check_layers(network, layers)
    layers = tuple(layers)
  step = jax.jit(
    functools.partial(probabilities_and_features, network.model, layers=layers)
  )
  params = jax.device_put(network.params)
  batch: list[tuple[str, np.ndarray | str]] = []
  for path, view in _views(network, paths, 2 * batch_size):
    batch.append((path, view))
    if sum(not isinstance(view, str) for _, view in batch) == batch_size:
      yield from _predict(step, params, batch)
      batch = []
  yield from _predict(step, params, batch)


def _predict(step, params, batch) -> Iterator[Prediction]:
  views = [view for _, view in batch if not isinstance(view, str)]
  if views:
    probabilities, features = jax.device_get(step(params, np.stack(views)))
    if not np.isfinite(probabilities).all():
      raise UserError('the network returns values that are not finite')
    rows = iter(
      (row, jax.tree.map(lambda x, i=i: x[i], features))
      for i, row in enumerate(probabilities)
    )
  for path, view in batch:
    if isinstance(view, str):
      yield Prediction(path, error=view)
    else:
      yield Prediction(path, *next(rows))


def _views(
  network: Pretrained, paths: Sequence[str], ahead: int
) -> Iterator[tuple[str, np.ndarray | str]]:
  """Yields the network's input for each file, or why it cannot be read."""

  @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
  def finished(encoded):
    view = preprocess.eval_views(encoded, network.preprocessing, crops=1)
    return preprocess.finish(view, network.preprocessing)[0]

  graph = finished.get_concrete_function()

  def view(path):
    try:
      return graph(tf.constant(images.read(path))).numpy()
    except ValueError as error:
      return str(error)
    except tf.errors.OpError as error:
      return f'cannot be decoded: {decoding.reason(error)}'

  yield from zip(paths, images.map_ahead(view, paths, ahead), strict=True)


def check_layers(network: Pretrained, layers: Sequence[str]) -> None:
  """Checks the names of layers.

  Raises:
    UserError: the network has no such layer.
  """
  try:
    network.model.architecture.up_to(layers)
  except ValueError as error:
    raise UserError(f'{error} (--layers)') from error


def probabilities_and_features(
  model: AlexNet,
  params: Any,
  images: jax.Array,
  layers: Sequence[str] | None = None,
) -> tuple[jax.Array, Any]:
  """Computes softmax `[N, num_classes]` and fc7 `[N, 4096]`, both float32.

  With `layers`, a dict of their features takes the place of fc7.
  """
  variables = {'params': params}
  logits: Any = model.apply(variables, images)
  features: Any = model.apply(
    variables, images, layers=layers, method='features'
  )
  return jax.nn.softmax(logits), jax.tree.map(
    lambda x: x.astype(np.float32), features
  )


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
