"""From a stored picture to the network's input (sections 2 and 4.1).

Pure functions of tensors and stateless seeds: they draw nothing, read nothing
and remember nothing. Pixels are RGB in grey levels, 0 to 255, throughout.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import tensorflow as tf

_PIXEL_RANGE = 255.0
_MAX_ASPECT = 100
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
    )
    if not all(fits) or not 0 < self.crop_size <= size:
      raise ValueError(
        f'resize {self.resize!r} to {size}, crop {self.crop_size}, mean of '
        f'shape {np.shape(self.mean)}, std of shape {np.shape(self.std)}'
      )
    for pixels in (self.mean, self.std):
      if not np.isfinite(pixels).all() or not np.all(self.std):
        raise ValueError('mean or std is not finite, or std is 0')

  def to_json(self) -> str:
    """Small things first: the mean image is long."""
    fields = dataclasses.asdict(self)
    mean = fields.pop('mean')
    return json.dumps({**fields, 'mean': mean}, default=_to_list, indent=None)

  @classmethod
  def from_json(cls, text: str) -> 'Preprocessing':
    """The inverse of `to_json`; arrays come back as float64."""
    fields = json.loads(text)
    for name in ('mean', 'std', 'eigenvalues', 'eigenvectors'):
      if fields[name] is not None:
        fields[name] = np.asarray(fields[name])
    fields['class_names'] = tuple(fields['class_names'])
    return cls(**fields)


def _to_list(array: np.ndarray) -> list:
  return array.tolist()


def decode(encoded: tf.Tensor) -> tf.Tensor:
  """Decodes JPEG, PNG, GIF or BMP to uint8 `[H, W, 3]`.

  Grey pictures become grey RGB; CMYK JPEGs are converted. One whose sides are
  more than 100:1 is no picture: its short side, resized, would make gigabytes
  of it (tf.errors.InvalidArgumentError, as of what cannot be decoded).
  """
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  image.set_shape([None, None, 3])
  sides = tf.shape(image)[:2]
  thin = tf.debugging.assert_less_equal(
    tf.reduce_max(sides),
    _MAX_ASPECT * tf.reduce_min(sides),
    message=f'one side is over {_MAX_ASPECT} times the other',
  )
  with tf.control_dependencies([] if thin is None else [thin]):
    return tf.identity(image)


def resize(image: tf.Tensor, how: str, size: int) -> tf.Tensor:
  """A picture of any shape to float32 `[size, size, 3]`.

  'short_side' is the paper's (section 2): the shorter side to `size`, then the
  central square. 'warp' stretches both sides to `size` (Caffe). Bilinear,
  antialiased when it shrinks.
  """
  if how == 'warp':
    target = [size, size]
  elif how == 'short_side':
    shape = tf.shape(image)[:2]
    # Truncated, as torchvision does.
    target = shape * size // tf.reduce_min(shape)
  else:
    raise ValueError(f'resize {how!r}: short_side or warp')
  image = tf.image.resize(image, target, antialias=True)
  return center_crop(image, size)


def center_crop(image: tf.Tensor, size: int) -> tf.Tensor:
  """The central `size` x `size` part of `[H, W, 3]`."""
  shape = tf.shape(image)
  return _crop(image, (shape[0] - size) // 2, (shape[1] - size) // 2, size)


def _crop(image, top, left, size):
  crop = tf.slice(image, [top, left, 0], [size, size, -1])
  crop.set_shape([size, size, 3])
  return crop


def random_crop_offset(
  height: int, width: int, size: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Top and left of a crop, uniform over every position there is.

  Both ends are included: 30 x 30 positions of a 227 crop in 256 x 256.
  """
  u = tf.random.stateless_uniform([2], seed, alg='philox')
  positions = tf.constant([height - size + 1, width - size + 1], tf.float32)
  # Rounding can lift the product to the bound itself.
  offset = tf.minimum(tf.floor(u * positions), positions - 1)
  top, left = tf.unstack(tf.cast(offset, tf.int32))
  return top, left


def random_resized_crop(
  image: tf.Tensor, size: int, seed: tf.Tensor
) -> tf.Tensor:
  """A random part of a picture, resized (torchvision's RandomResizedCrop).

  Its area is 8 to 100% of the picture's, uniformly, and its width 3/4 to 4/3 of
  its height, uniformly in the logarithm. The first of ten draws that fits is
  taken; if none does, the largest central part of such a shape.

  Args:
    image: `[H, W, 3]`.
    size: of the result, in pixels.
    seed: a stateless seed, `[2]`.

  Returns:
    float32 `[size, size, 3]`; bilinear, antialiased when it shrinks.
  """
  shape_seed, place_seed = tf.unstack(
    tf.random.split(seed, num=2, alg='philox')
  )
  top, left, height, width = _random_part(
    tf.shape(image)[0], tf.shape(image)[1], shape_seed, place_seed
  )
  part = tf.slice(image, [top, left, 0], [height, width, -1])
  part = tf.image.resize(part, [size, size], antialias=True)
  return tf.ensure_shape(part, [size, size, 3])


def _random_part(full_height, full_width, shape_seed, place_seed):
  """Top, left, height and width of a part, in pixels."""
  h, w = tf.cast(full_height, tf.float32), tf.cast(full_width, tf.float32)
  u = tf.random.stateless_uniform([2, _ATTEMPTS], shape_seed, alg='philox')
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
  width, height = widths[first], heights[first]
  places = tf.stack([h - height, w - width]) + 1
  v = tf.random.stateless_uniform([2], place_seed, alg='philox')
  offset = tf.where(
    first < _ATTEMPTS,
    tf.minimum(tf.floor(v * places), places - 1),
    tf.floor((places - 1) / 2),
  )
  return tuple(
    tf.cast(x, tf.int32) for x in (offset[0], offset[1], height, width)
  )


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Mirrors `[H, W, 3]` left to right with probability one half."""
  u = tf.random.stateless_uniform([], seed, alg='philox')
  return tf.cond(u < 0.5, lambda: tf.reverse(image, axis=[1]), lambda: image)


def lighting_offset(
  seed: tf.Tensor,
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
    seed: a stateless seed, `[2]`.
    eigenvalues: `[3]`, of the covariance of 0..255 pixels.
    eigenvectors: `[3, 3]`, in columns.
    mode: 'sqrt_eigenvalue' or 'eigenvalue'.
    std: deviation of the random variable.

  Returns:
    The offset of R, G and B in grey levels, float32 `[3]`.
  """
  if mode == 'sqrt_eigenvalue':
    magnitudes = np.sqrt(eigenvalues)
  elif mode == 'eigenvalue':
    magnitudes = eigenvalues / _PIXEL_RANGE
  else:
    raise ValueError(f'lighting {mode!r}: sqrt_eigenvalue or eigenvalue')
  alpha = std * tf.random.stateless_normal([3], seed, alg='philox')
  components = tf.constant(eigenvectors * magnitudes, tf.float32)
  return tf.linalg.matvec(components, alpha)


def ten_crops(image: tf.Tensor, size: int) -> tf.Tensor:
  """Four corners and the centre, then their mirror images (section 4.1).

  Args:
    image: `[H, W, 3]`.
    size: side of the crops, in pixels.

  Returns:
    `[10, size, size, 3]`: top left, top right, bottom left, bottom right,
    centre, and the five mirrored.
  """
  shape = tf.shape(image)
  bottom, right = shape[0] - size, shape[1] - size
  crops = tf.stack(
    [
      _crop(image, 0, 0, size),
      _crop(image, 0, right, size),
      _crop(image, bottom, 0, size),
      _crop(image, bottom, right, size),
      center_crop(image, size),
    ]
  )
  return tf.concat([crops, tf.reverse(crops, axis=[2])], axis=0)


def train_view(
  encoded: tf.Tensor, seed: tf.Tensor, p: Preprocessing
) -> tf.Tensor:
  """One random view of a stored picture: crop, flip, lighting, mean, std.

  The crop is one of the resized square (`train_crop` 'random', the paper) or
  any part of the picture (`random_resized_crop`).

  Each picture draws for itself (the authors' code drew one crop and one flip
  for each chunk of 32).

  Args:
    encoded: the file, a scalar string.
    seed: a stateless seed, `[2]`, of this picture in this epoch.
    p: the training set's preprocessing.

  Returns:
    float32 `[crop_size, crop_size, 3]`.
  """
  crop_seed, flip_seed, lighting_seed = tf.unstack(
    tf.random.split(seed, num=3, alg='philox')
  )
  image = decode(encoded)
  if p.train_crop == 'random_resized':
    image = random_resized_crop(image, p.crop_size, crop_seed)
  else:
    image = resize(image, p.resize, p.resize_size)
    top, left = random_crop_offset(
      p.resize_size, p.resize_size, p.crop_size, crop_seed
    )
    if _mean_moves(p):
      image -= tf.constant(p.mean, tf.float32)
    image = _crop(image, top, left, p.crop_size)
  if not _mean_moves(p):
    image -= _fixed_mean(p)
  if p.flip:
    image = random_flip(image, flip_seed)
  if p.lighting != 'none':
    assert p.eigenvalues is not None
    assert p.eigenvectors is not None
    image += lighting_offset(
      lighting_seed, p.eigenvalues, p.eigenvectors, p.lighting, p.lighting_std
    )
    if p.lighting_rescale:
      image /= 1 + p.lighting_std
  return image / tf.constant(p.std, tf.float32)


def at_epoch(p: Preprocessing, epoch: int) -> Preprocessing:
  """The same, as it is in one epoch (from 0): lighting may end at one."""
  if p.lighting_epochs is None or epoch < p.lighting_epochs:
    return p
  return dataclasses.replace(p, lighting='none')


def eval_views(encoded: tf.Tensor, p: Preprocessing, crops: int) -> tf.Tensor:
  """The views that are scored: the central one, or ten.

  Returns:
    float32 `[crops, crop_size, crop_size, 3]`.
  """
  image = resize(decode(encoded), p.resize, p.resize_size)
  if _mean_moves(p):
    image -= tf.constant(p.mean, tf.float32)
  if crops == 1:
    views = center_crop(image, p.crop_size)[None]
  elif crops == 10:
    views = ten_crops(image, p.crop_size)
  else:
    raise ValueError(f'{crops} crops: 1 or 10')
  if not _mean_moves(p):
    views -= _fixed_mean(p)
  return views / tf.constant(p.std, tf.float32)


def _mean_moves(p: Preprocessing) -> bool:
  """Whether the part of the mean that is subtracted depends on the crop."""
  return p.mean.ndim == 3 and p.mean_crop == 'same'


def _fixed_mean(p: Preprocessing) -> tf.Tensor:
  mean = np.asarray(p.mean, np.float32)
  if mean.ndim == 3:
    margin = (p.resize_size - p.crop_size) // 2
    mean = mean[margin:, margin:][: p.crop_size, : p.crop_size]
  return tf.constant(mean)
