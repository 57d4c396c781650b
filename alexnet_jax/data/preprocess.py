"""Makes views of an image: crops, flips, lighting, ten crops (section 4.1).

For training, `draw` draws all random numbers of an epoch; `train_view` is a
pure function of them. For evaluation, `eval_views` gives the central crop or
the ten. Both return integer grey levels, from which `finish` subtracts the mean
image (section 2), adds the lighting and scales. The last step may run on the
device instead: `learning/finish.py`.

Pixels are RGB in grey levels, 0 to 255, throughout.
"""

import numpy as np
import tensorflow as tf

from alexnet_jax.data import decoding
from alexnet_jax.data.preprocessing import Preprocessing, five_places

# The tensors that `draw` and the views return, by name.
Draws = dict[str, tf.Tensor]
View = dict[str, tf.Tensor]

_PIXEL_RANGE = 255.0
# torchvision's RandomResizedCrop: attempts, share of the area, width / height.
_ATTEMPTS = 10
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)


def draw(p: Preprocessing, n: int, seed: int) -> Draws:
  """Draws the random crops, flips and lighting of an epoch, for each image.

  (The authors' code drew one crop and one flip for each chunk of 32.) All are
  drawn in one operation: for an image of 256 x 256, ten small operations would
  take a good part of the time.

  Args:
    p: the preprocessing of the training split.
    n: number of images in the split.
    seed: the seed of the epoch; the draws depend on nothing else.

  Returns:
    Tensors with a row for each position in the epoch's order:
    `place`, int32 `[n, 3]`: top and left of the crop in the resized square (0
      for 'random_resized'), and 1 if it is flipped;
    `lighting`, float32 `[n, 3]`, if there is lighting;
    `u`, float32 `[n, 22]`, uniform in [0, 1), for 'random_resized'.
  """

  def uniform(k, stream):
    return tf.random.stateless_uniform([n, k], [seed, stream], alg='philox')

  draws = {}
  top_left = tf.zeros([n, 2], tf.int32)
  if p.train_crop == 'random':
    top_left = random_crop_offset(p.resize_size, p.crop_size, uniform(2, 0))
  elif p.train_crop == 'center':
    top_left += (p.resize_size - p.crop_size) // 2
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
  """Returns tops and lefts of crops, uniform over all positions (section 4.1).

  Both ends are included: a crop of 227 has 30 x 30 positions in 256 x 256. (The
  paper counts 32 x 32 of 224.)

  Args:
    size: side of the square, in pixels.
    crop_size: side of the crop, in pixels.
    u: uniform in [0, 1), `[n, 2]`.

  Returns:
    int32 `[n, 2]`.

  Example:
    >>> u = tf.constant([[0.0, 0.5], [0.5, 0.999]])
    >>> random_crop_offset(256, 227, u).numpy().tolist()
    [[0, 15], [15, 29]]
  """
  positions = float(size - crop_size + 1)
  # Rounding can lift the product to the bound itself.
  return tf.cast(tf.minimum(tf.floor(u * positions), positions - 1), tf.int32)


def random_part(shape: tf.Tensor, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns a random part of an image (torchvision's RandomResizedCrop).

  Its area is uniform between 8% and 100% of the image's. Its width is 3/4 to
  4/3 of its height, uniform in the logarithm. The first of ten draws that fits
  is used; if none fits, the largest central part of such a shape.

  Args:
    shape: height and width of the image, int32 `[2]`.
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
  # The fallback comes last and always fits.
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
  """Returns PCA lighting (section 4.1): one color to add to all pixels.

  The paper adds the principal components of the training set's RGB pixels
  "with magnitudes proportional to the corresponding eigenvalues times a random
  variable" of mean 0 and standard deviation 0.1. Text and practice disagree:

  * 'sqrt_eigenvalue' is the authors' code: components times 0.1 N(0, 1) times
    *standard deviations* (the roots of the eigenvalues, on ImageNet 121.8, 37.1
    and 19.7 grey levels).
  * 'eigenvalue' is the text, on pixels scaled to [0, 1], as in many ports (2 to
    13 times weaker on ImageNet). On pixels of 0..255, the text would shift
    images by over a thousand grey levels.

  Args:
    normal: draws of the standard normal, `[n, 3]`.
    eigenvalues: `[3]`, of the covariance of 0..255 pixels.
    eigenvectors: `[3, 3]`, in columns.
    mode: 'sqrt_eigenvalue' or 'eigenvalue'.
    std: standard deviation of the random variable.

  Returns:
    The offsets of R, G and B in grey levels, float32 `[n, 3]`.

  Example:
    >>> eigenvalues = np.array([120.0, 40.0, 20.0]) ** 2
    >>> normal = np.ones([1, 3], np.float32)
    >>> lighting_offset(normal, eigenvalues, np.eye(3)).numpy().tolist()
    [[12.0, 4.0, 2.0]]
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
  """Returns the four corner crops, the center and their mirrors (section 4.1).

  Args:
    image: a square, `[H, H, 3]`.
    size: side of the crops, in pixels.

  Returns:
    `[10, size, size, 3]`: top left, top right, bottom left, bottom right,
    center, and the five mirrored.
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
  """Returns a random view of an image file, in integer grey levels.

  With `train_crop` 'random' (the paper) it is a crop of the resized square,
  with 'center' always the central one, and with 'random_resized' any part of
  the image, resized (`random_part`).

  Args:
    encoded: the file, a scalar string.
    drawn: the image's row of each tensor of `draw`.
    p: the preprocessing of the training split.
    is_square_jpeg: whether the file is known to be a JPEG of `resize_size`.

  Returns:
    `image`, uint8 `[crop_size, crop_size, 3]`, cropped and flipped;
    `lighting`, float32 `[3]`, if there is lighting;
    `place`, int32 `[3]`: top, left, and 1 if flipped, if the mean that is
      subtracted depends on them.
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
  # Slicing with a stride of -1 would take longer than decoding the image.
  return tf.cond(flip, lambda: tf.reverse(image, axis=[1]), lambda: image)


def eval_views(
  encoded: tf.Tensor,
  p: Preprocessing,
  crops: int,
  is_square_jpeg: bool = False,
) -> View:
  """Returns the views of an image file to score: the central crop, or ten.

  Args:
    encoded: the file, a scalar string.
    p: the network's preprocessing.
    crops: 1 or 10.
    is_square_jpeg: whether the file is known to be a JPEG of `resize_size`.

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
  """Subtracts the mean, adds the lighting and scales: the network's input.

  Args:
    view: of `train_view` or `eval_views`.
    p: the preprocessing that the view was made with.

  Returns:
    float32, in the shape of `view['image']`.
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
    # Adds a row at a time: TensorFlow is slow at adding three numbers.
    row = tf.tile(view['lighting'], [size])
    image = tf.reshape(tf.reshape(image, [size, -1]) + row, image.shape)
  scale = p.pixel_scale(lit='lighting' in view)
  return image if scale is None else image * tf.constant(scale)
