"""What one asks to see: an image file, a layer and a class, all by name."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import warn
from alexnet_jax.data import decoding, imagenet, images, preprocess
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model.layer_types import Architecture, Conv


class View(NamedTuple):
  """An image file as a network sees it.

  Attributes:
    image: the central crop, uint8 `[crop_size, crop_size, 3]`.
    width: of the file's image, in pixels.
    height: of the file's image, in pixels.
  """

  image: np.ndarray
  width: int
  height: int


def read_view(path: str, p: Preprocessing) -> View:
  """Reads an image file, resizes it and cuts out the center.

  Warns if the image is enlarged.

  Args:
    path: the file's, local or gs://.
    p: the network's preprocessing.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    encoded = images.read(path)
    height, width, _ = decoding.decode(encoded).shape
    view = preprocess.eval_views(tf.constant(encoded), p, crops=1)
  except ValueError as error:
    raise UserError(f'cannot read {path} (--image): {error}') from error
  except tf.errors.OpError as error:
    raise UserError(
      f'cannot decode {path} (--image): {decoding.reason(error)}'
    ) from error
  if min(height, width) < p.resize_size:
    to = f'{p.resize_size}x{p.resize_size}'
    if p.resize == 'short_side':
      scale = min(height, width)
      to = '{}x{}'.format(
        *(x * p.resize_size // scale for x in (width, height))
      )
    warn(
      f'{path} is smaller than what the network takes: enlarged from '
      f'{width}x{height} to {to} pixels'
    )
  return View(view['image'][0].numpy(), width, height)


def find_layer(architecture: Architecture, name: str | None) -> str:
  """Returns a layer that gives maps; by default the last convolution.

  Raises:
    UserError: there is no such layer, or it has no maps.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> find_layer(ARCHITECTURES['paper'], None)
    'conv5'
  """
  convs = [n for n, part in architecture.named_layers if isinstance(part, Conv)]
  if name is None:
    return convs[-1]
  of_convs = [
    known
    for known in architecture.scope_names
    if isinstance(architecture.up_to([known])[-1][1], Conv)
  ]
  advice = f'give one of {", ".join(of_convs)} (/linear: before its activation)'
  if name not in architecture.feature_names:
    raise UserError(
      f'--layer={name}: there is no such layer in {architecture.name!r}; '
      f'{advice}'
    )
  if not isinstance(architecture.up_to([name])[-1][1], Conv):
    raise UserError(
      f'--layer={name} is fully connected, without maps; {advice}'
    )
  return name


def find_label(text: str, class_names: tuple[str, ...], number: int) -> int:
  """Returns the label of a class.

  Args:
    text: a class name, one of the words of an ImageNet class, or a label.
    class_names: by label; empty if unknown.
    number: of classes.

  Raises:
    UserError: there is no such class, or there are several.

  Example:
    >>> find_label('tench', ('n01440764', 'n02102040'), 2)
    0
  """
  wanted = text.strip().casefold()
  words = [imagenet.words(name).casefold() for name in class_names]
  for found in (
    [i for i, name in enumerate(class_names) if name.casefold() == wanted],
    [i for i, one in enumerate(words) if one == wanted],
    [i for i, one in enumerate(words) if wanted in one.split(', ')],
  ):
    if len(found) > 1:
      labels = ' and '.join(map(str, found))
      raise UserError(f'--class={text}: that is {labels}; give the number')
    if found:
      return found[0]
  if text.isdecimal() and int(text) < number:
    return int(text)
  shown = ', '.join(one.split(',')[0] for one in words[:10])
  more = ', ...' if len(words) > 10 else ''
  raise UserError(
    f'--class={text}: there is no such class; give a number from 0 to '
    f'{number - 1}' + (f', or a name: {shown}{more}' if words else '')
  )
