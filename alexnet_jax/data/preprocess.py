"""From a stored picture to the network's input (sections 2 and 4.1).

All that is random is drawn by `draw`, at once for an epoch; the rest are pure
functions of it. Pixels are RGB in grey levels, 0 to 255, throughout.

A view is made in two steps: `train_view` or `eval_views` gives whole grey
levels, `finish` subtracts the mean, lights and scales. The second may also run
on the device: `learning/finish.py`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from alexnet_jax.data import decoding

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


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """All that a picture needs to become an input: what training learned.

  Attributes:
    dataset: full name of the training set; None where weights were converted
      and nothing tells.
    class_names: by label; empty where nothing tells.
    resize: 'short_side' (then the central square) or 'warp'.
    resize_size: side of that square, in pixels.
    crop_size: side of the network's input, in pixels.
    mean: subtracted, in grey levels: `[3]`, or the mean image
      `[resize_size, resize_size, 3]`.
    mean_crop: which part of a mean image belongs to a crop: 'center' always
      (as the authors' code does), or 'same', the part under the crop before
      it is flipped (Caffe).
    std: the divisor, `[3]`.
    flip: whether training pictures are mirrored at random.
    lighting: 'sqrt_eigenvalue', 'eigenvalue' or 'none'; see
      `lighting_offset`.
    lighting_std: deviation of the lighting's three random numbers.
    lighting_epochs: the epoch, from 0, at which it is turned off; None: never.
    lighting_rescale: whether pixels are divided by `1 + lighting_std` while it
      is on, so that they spread as far as without it (the authors' code).
    train_crop: 'random' or 'random_resized'; see `train_view`.
    eigenvalues: variances along the principal components of the training
      set's RGB pixels, `[3]` in grey levels squared; None where not computed.
    eigenvectors: the components, in columns, `[3, 3]`.
    color_stats: what mean and components were computed over (`color_stats`).
  """

  dataset: str | None
  class_names: tuple[str, ...]
  resize: str
  resize_size: int
  crop_size: int
  mean: np.ndarray
  mean_crop: str
  std: np.ndarray
  flip: bool
  lighting: str
  lighting_std: float
  lighting_epochs: int | None = None
  lighting_rescale: bool = False
  train_crop: str = 'random'
  eigenvalues: np.ndarray | None = None
  eigenvectors: np.ndarray | None = None
  color_stats: dict[str, Any] | None = None

  def __post_init__(self):
    size = self.resize_size
    fits = (
      self.resize in ('short_side', 'warp'),
      isinstance(size, int) and isinstance(self.crop_size, int),
      # Not of what a file may hold in their place.
      np.shape(self.mean) in ((3,), (size, size, 3)),
      np.shape(self.std) == (3,),
      all(isinstance(name, str) for name in self.class_names),
      self.mean_crop in ('center', 'same'),
      self.train_crop in ('random', 'random_resized'),
      self.lighting in ('sqrt_eigenvalue', 'eigenvalue', 'none'),
      isinstance(self.lighting_std, int | float),
      isinstance(self.lighting_epochs, int | None),
      isinstance(self.dataset, str | None),
    )
    if not all(fits) or not 0 < self.crop_size <= size:
      raise ValueError(
        f'resize {self.resize!r} to {size}, crop {self.crop_size}, mean of '
        f'shape {np.shape(self.mean)}, std of shape {np.shape(self.std)}, '
        f'lighting {self.lighting!r}, or another field'
      )
    for pixels in (self.mean, self.std):
      if not np.isfinite(pixels).all() or not np.all(self.std):
        raise ValueError('mean or std is not finite, or std is 0')

  @property
  def mean_moves(self) -> bool:
    """Whether the part of the mean that is subtracted depends on the crop."""
    return self.mean.ndim == 3 and self.mean_crop == 'same'

  def mean_of_crops(self, crops: int = 1) -> np.ndarray:
    """What is subtracted from views whose places are known.

    Args:
      crops: views of a picture: 1 (any, or the centre) or the ten.

    Returns:
      float32 `[crop_size, crop_size, 3]`; of ten crops under which the mean
      image moves `[10, crop_size, crop_size, 3]`.
    """
    size = self.crop_size
    mean = np.asarray(self.mean, np.float32)
    if mean.ndim == 1:
      return np.broadcast_to(mean, (size, size, 3)).copy()
    parts = [
      mean[top : top + size, left : left + size]
      for top, left in five_places(self.resize_size, size)
    ]
    if crops == 10 and self.mean_moves:
      return np.stack(parts + [part[:, ::-1] for part in parts])
    return parts[-1]

  def pixel_scale(self, lit: bool) -> np.ndarray | None:
    """What pixels are multiplied by, float32 `[3]`; None where it is 1.

    A factor, not a divisor: a compiler may turn a division into one, and the
    device's numbers would not be the host's any more.
    """
    divisor = np.asarray(self.std, np.float64)
    if lit and self.lighting_rescale:
      divisor = divisor * (1 + self.lighting_std)
    return None if np.all(divisor == 1) else (1 / divisor).astype(np.float32)

  def to_json(self) -> str:
    """Small things first: the mean image is long."""
    fields = dataclasses.asdict(self)
    mean = fields.pop('mean')
    return json.dumps({**fields, 'mean': mean}, default=_to_list, indent=None)

  @classmethod
  def from_json(cls, text: str) -> Preprocessing:
    """The inverse of `to_json`; arrays come back as float64."""
    fields = json.loads(text)
    for name in ('mean', 'std', 'eigenvalues', 'eigenvectors'):
      if fields[name] is not None:
        fields[name] = np.asarray(fields[name])
    fields['class_names'] = tuple(fields['class_names'])
    components = (
      np.shape(fields['eigenvalues']),
      np.shape(fields['eigenvectors']),
    )
    if fields['lighting'] != 'none' and components != ((3,), (3, 3)):
      raise ValueError('lighting without three components')
    return cls(**fields)


def _to_list(array: np.ndarray) -> list:
  return array.tolist()


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


def five_places(side: int, size: int) -> tuple[tuple[int, int], ...]:
  """Top and left of the four corners of a square, and of its centre."""
  end, middle = side - size, (side - size) // 2
  return (0, 0), (0, end), (end, 0), (end, end), (middle, middle)


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


def at_epoch(p: Preprocessing, epoch: int) -> Preprocessing:
  """The same, as it is in one epoch (from 0): lighting may end at one."""
  if p.lighting_epochs is None or epoch < p.lighting_epochs:
    return p
  return dataclasses.replace(p, lighting='none')


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
