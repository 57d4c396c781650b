"""From a stored picture to the network's input (sections 2 and 4.1).

All that is random is drawn by `draw`, at once for an epoch; the rest are pure
functions of it. Pixels are RGB in grey levels, 0 to 255, throughout.

A view is made in two steps: `train_view` or `eval_views` gives whole grey
levels, `finish` subtracts the mean, lights and scales. The second may also run
on the device: `learning/finish.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from alexnet_jax.data import decoding
from alexnet_jax.data.preprocessing import Preprocessing, five_places

if TYPE_CHECKING:  # It imports JAX, which Beam's workers need not.
  from alexnet_jax.model.architectures import Blocks

# What `draw` and the views give, by name.
Draws = dict[str, tf.Tensor]
View = dict[str, tf.Tensor]

_PIXEL_RANGE = 255.0
# torchvision's RandomResizedCrop: draws, share of the area, width / height.
_ATTEMPTS = 10
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)


def draw(p: Preprocessing, n: int, seed: int) -> Draws:
  """Draws what is random about an epoch: each picture draws for itself.

  (The authors' code drew one crop and one flip for each chunk of 32.) At once,
  not picture by picture: of a picture of the 256 x 256 set ten small operations
  are a good part of the time.

  Args:
    p: the training set's preprocessing.
    n: pictures in the set.
    seed: of the epoch; what is drawn depends on it and on nothing else.

  Returns:
    By position in the epoch's order: `place`, int32 `[n, 3]`: top and left of
    the crop in the square, and 1 where it is flipped; with lighting
    `lighting`, float32 `[n, 3]`; and for 'random_resized', in place of top and
    left, `u`, float32 `[n, 22]`, uniform in [0, 1).
  """

  def uniform(k, stream):
    return tf.random.stateless_uniform([n, k], [seed, stream], alg='philox')

  draws = {}
  top_left = tf.zeros([n, 2], tf.int32)
  if p.train_crop == 'random':
    top_left = random_crop_offset(p.resize_size, p.crop_size, uniform(2, 0))
  else:
    draws['u'] = uniform(2 * _ATTEMPTS + 2, 0)
  flip = tf.cast(uniform(1, 3) < 0.5, tf.int32) * int(p.flip)
  draws['place'] = tf.concat([top_left, flip], axis=1)
  if p.lighting != 'none':
    assert p.eigenvalues is not None
    assert p.eigenvectors is not None
    normal = tf.random.stateless_normal([n, 3], [seed, 1], alg='philox')
    draws['lighting'] = lighting_offset(
      normal, p.eigenvalues, p.eigenvectors, p.lighting, p.lighting_std
    )
  return draws


def random_crop_offset(size: int, crop_size: int, u: tf.Tensor) -> tf.Tensor:
  """Tops and lefts of crops, uniform over every position there is.

  Both ends are included: 30 x 30 positions of a 227 crop in 256 x 256.

  Args:
    size: of the square, in pixels.
    crop_size: of the crop.
    u: uniform in [0, 1), `[n, 2]`.

  Returns:
    int32 `[n, 2]`.
  """
  positions = float(size - crop_size + 1)
  # Rounding can lift the product to the bound itself.
  return tf.cast(tf.minimum(tf.floor(u * positions), positions - 1), tf.int32)


def random_part(shape: tf.Tensor, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """A random part of a picture (torchvision's RandomResizedCrop).

  Its area is 8 to 100% of the picture's, uniformly, and its width 3/4 to 4/3 of
  its height, uniformly in the logarithm. The first of ten draws that fits is
  taken; if none does, the largest central part of such a shape.

  Args:
    shape: height and width, int32 `[2]`.
    u: uniform in [0, 1), `[22]`.

  Returns:
    Top and left, and height and width, in pixels, each int32 `[2]`.
  """
  h, w = tf.unstack(tf.cast(shape, tf.float32))
  v, u = u[-2:], tf.reshape(u[:-2], [2, _ATTEMPTS])
  area = h * w * (_AREA[0] + u[0] * (_AREA[1] - _AREA[0]))
  log_ratio = np.log(_RATIO, dtype=np.float32)
  ratio = tf.exp(log_ratio[0] + u[1] * (log_ratio[1] - log_ratio[0]))
  widths, heights = (
    tf.round(tf.sqrt(area * ratio)),
    tf.round(tf.sqrt(area / ratio)),
  )
  fits = (widths >= 1) & (widths <= w) & (heights >= 1) & (heights <= h)
  # The fallback follows the draws: it is the first that fits where none does.
  central_ratio = tf.clip_by_value(w / h, *_RATIO)
  widths = tf.concat([widths, [tf.minimum(w, tf.round(h * central_ratio))]], 0)
  heights = tf.concat(
    [heights, [tf.minimum(h, tf.round(w / central_ratio))]], 0
  )
  first = tf.argmax(tf.concat([fits, [True]], 0), output_type=tf.int32)
  extent = tf.stack([heights[first], widths[first]])
  places = tf.stack([h, w]) - extent + 1
  offset = tf.where(
    first < _ATTEMPTS,
    tf.minimum(tf.floor(v * places), places - 1),
    tf.floor((places - 1) / 2),
  )
  return tf.cast(offset, tf.int32), tf.cast(extent, tf.int32)


def lighting_offset(
  normal: tf.Tensor,
  eigenvalues: np.ndarray,
  eigenvectors: np.ndarray,
  mode: str = 'sqrt_eigenvalue',
  std: float = 0.1,
) -> tf.Tensor:
  """PCA lighting (section 4.1): one colour added to all pixels of a picture.

  The paper adds the principal components of the training set's RGB pixels
  "with magnitudes proportional to the corresponding eigenvalues times a random
  variable" of mean 0 and deviation 0.1. Text and practice disagree:

  * 'sqrt_eigenvalue' is what the authors' code did: components times
    0.1 N(0, 1) times *standard deviations* (the roots of the eigenvalues, on
    ImageNet 121.8, 37.1 and 19.7 grey levels).
  * 'eigenvalue' is the text, on pixels scaled to [0, 1], as many ports have
    it (2 to 17 times weaker). Read on 0..255, as the text stands, it would
    shift pictures by over a thousand grey levels.

  Args:
    normal: draws of the standard normal, `[n, 3]`.
    eigenvalues: `[3]`, of the covariance of 0..255 pixels.
    eigenvectors: `[3, 3]`, in columns.
    mode: 'sqrt_eigenvalue' or 'eigenvalue'.
    std: deviation of the random variable.

  Returns:
    The offsets of R, G and B in grey levels, float32 `[n, 3]`.
  """
  if mode == 'sqrt_eigenvalue':
    magnitudes = np.sqrt(eigenvalues)
  elif mode == 'eigenvalue':
    magnitudes = eigenvalues / _PIXEL_RANGE
  else:
    raise ValueError(f'lighting {mode!r}: sqrt_eigenvalue or eigenvalue')
  components = tf.constant(eigenvectors * magnitudes * std, tf.float32)
  return tf.linalg.matmul(normal, components, transpose_b=True)


def ten_crops(image: tf.Tensor, size: int) -> tf.Tensor:
  """Four corners and the centre, then their mirror images (section 4.1).

  Args:
    image: `[H, W, 3]`.
    size: side of the crops, in pixels.

  Returns:
    `[10, size, size, 3]`: top left, top right, bottom left, bottom right,
    centre, and the five mirrored.
  """
  side = image.shape[0]
  crops = tf.stack(
    [
      decoding.crop(image, top, left, size)
      for top, left in five_places(side, size)
    ]
  )
  return tf.concat([crops, tf.reverse(crops, axis=[2])], axis=0)


def train_view(
  encoded: tf.Tensor,
  drawn: Draws,
  p: Preprocessing,
  is_square_jpeg: bool = False,
) -> View:
  """One random view of a stored picture, in whole grey levels.

  The crop is one of the resized square (`train_crop` 'random', the paper) or
  any part of the picture (`random_part`).

  Args:
    encoded: the file, a scalar string.
    drawn: this picture's row of each of `draw`'s.
    p: the training set's preprocessing.
    is_square_jpeg: whether the file is known to be a JPEG of `resize_size`.

  Returns:
    `image`, uint8 `[crop_size, crop_size, 3]`, cropped and flipped; with
    lighting, `lighting`, float32 `[3]`; and where the mean image is cropped
    with the picture, `place`, int32 `[3]`: top, left, and 1 where flipped.
  """
  if p.train_crop == 'random_resized':
    image = decoding.decode_part(
      encoded, lambda shape: random_part(shape, drawn['u']), p.crop_size
    )
  else:
    top_left = drawn['place'][:2]
    image = decoding.decode_crop(
      encoded, p.resize, p.resize_size, top_left, p.crop_size, is_square_jpeg
    )
  if p.flip:
    image = _mirror_if(drawn['place'][2] > 0, image)
  view = {'image': image}
  if 'lighting' in drawn:
    view['lighting'] = drawn['lighting']
  if p.mean_moves:
    view['place'] = drawn['place']
  return view


def _mirror_if(flip, image):
  # A slice of stride -1 takes longer than to decode the picture.
  return tf.cond(flip, lambda: tf.reverse(image, axis=[1]), lambda: image)


def eval_views(
  encoded: tf.Tensor,
  p: Preprocessing,
  crops: int,
  is_square_jpeg: bool = False,
) -> View:
  """The views that are scored: the central one, or ten.

  Returns:
    `image`, uint8 `[crops, crop_size, crop_size, 3]`.
  """
  image = decoding.decode_square(
    encoded, p.resize, p.resize_size, is_square_jpeg
  )
  if crops == 1:
    return {'image': decoding.center_crop(image, p.crop_size)[None]}
  if crops == 10:
    return {'image': ten_crops(image, p.crop_size)}
  raise ValueError(f'{crops} crops: 1 or 10')


def finish(view: View, p: Preprocessing) -> tf.Tensor:
  """The network's input: minus the mean, lit, and scaled.

  Args:
    view: of `train_view` or `eval_views`.
    p: the same preprocessing.

  Returns:
    float32, of the shape of `view['image']`.
  """
  image = tf.cast(view['image'], tf.float32)
  size = p.crop_size
  if 'place' in view:
    top, left, flip = tf.unstack(view['place'])
    mean = decoding.crop(tf.constant(p.mean, tf.float32), top, left, size)
    image -= _mirror_if(flip > 0, mean)
  else:
    crops = image.shape[0] if image.shape.rank == 4 else 1
    image -= tf.constant(p.mean_of_crops(crops))
  if 'lighting' in view:
    # As a row of pixels: TensorFlow adds three numbers at a time slowly.
    row = tf.tile(view['lighting'], [size])
    image = tf.reshape(tf.reshape(image, [size, -1]) + row, image.shape)
  scale = p.pixel_scale(lit='lighting' in view)
  return image if scale is None else image * tf.constant(scale)


def to_blocks(image: tf.Tensor, blocks: Blocks) -> tf.Tensor:
  """`[..., H, W, 3]` to `[..., H', W', size * size * 3]`: space to depth.

  The host does it for conv1 on TPU, where rearranging pixels takes longer than
  what it saves.
  """
  *outer, h, w, _ = image.shape
  size, before, after = blocks.size, blocks.before, blocks.after
  image = image[..., : h + min(after, 0), : w + min(after, 0), :]
  sides = (before, max(after, 0))
  image = tf.pad(image, [(0, 0)] * len(outer) + [sides, sides, (0, 0)])
  image = tf.reshape(image, [-1, *image.shape[-3:]])
  image = tf.nn.space_to_depth(image, size)
  return tf.reshape(image, [*outer, *image.shape[1:]])
