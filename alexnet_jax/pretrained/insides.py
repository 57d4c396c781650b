"""What a network sees: its maps, gradients, occlusions and strongest images.

Images are central crops in grey levels, uint8 `[crop_size, crop_size, 3]`, as
an evaluation sees them before the mean is subtracted.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import input_pipeline
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.learning.finish import finisher
from alexnet_jax.pretrained.loading import Pretrained


def outputs(
  network: Pretrained, image: np.ndarray, layer: str
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the logits of an image and the activations of a layer.

  Args:
    network: the network.
    image: uint8 `[H, W, 3]`.
    layer: one of `architecture.feature_names`.

  Returns:
    Logits, `[num_classes]`, and the activations, float32 `[H', W', channels]`
    or `[units]`.
  """

  @jax.jit
  def compute(params, x):
    variables = {'params': params}
    found: Any = network.model.apply(
      variables, x, method='features', layers=(layer,)
    )
    return network.model.apply(variables, x), found[layer]

  logits, activations = compute(network.params, _input(network, image))
  return np.asarray(logits[0]), np.asarray(activations[0], np.float32)


def class_gradient(
  network: Pretrained, image: np.ndarray, label: int
) -> np.ndarray:
  """Computes the gradient of a class's logit by the pixels.

  The logit is the score before the softmax. Source: Simonyan, Vedaldi and
  Zisserman, Deep Inside Convolutional Networks (2014), section 3.

  Args:
    network: the network.
    image: uint8 `[H, W, 3]`.
    label: the class.

  Returns:
    `[H, W, 3]`, in logit per grey level.
  """

  @jax.jit
  def gradient(params, x):
    def logit(x):
      logits: Any = network.model.apply({'params': params}, x)
      return logits[0, label]

    return jax.grad(logit)(x)[0]

  found = np.asarray(gradient(network.params, _input(network, image)))
  # The network's input is (pixel - mean) * scale.
  scale = network.preprocessing.pixel_scale(lit=False)
  return found if scale is None else found * scale


def occlusion(
  network: Pretrained, image: np.ndarray, label: int, patch: int, stride: int
) -> np.ndarray:
  """Computes a class's probability with a square over each place of an image.

  The square has the value 0 after normalization: the mean of the training
  images. The places are the cells of a grid, and each square is centered on its
  cell and cut at the edges of the image: the square of cell i begins at pixel
  `i * stride + (stride - patch) // 2`. Source: Zeiler and Fergus, Visualizing
  and Understanding Convolutional Networks (2014), section 4.2.

  Args:
    network: the network.
    image: uint8 `[H, H, 3]`.
    label: the class.
    patch: side of the square, in pixels.
    stride: side of a cell, in pixels.

  Returns:
    Probabilities, float32 `[n, n]` with n = H / stride, rounded up.
  """
  x = _input(network, image)
  begins = square_begins(len(image), patch, stride)

  @jax.jit
  def of_row(params, x, top):
    hidden = _covered(len(image), top[None], patch)[:, :, None]
    hidden &= _covered(len(image), begins, patch)[:, None, :]
    images = jnp.where(hidden[..., None], 0, x)
    logits: Any = network.model.apply({'params': params}, images)
    return jax.nn.softmax(logits)[:, label].astype(jnp.float32)

  params = jax.device_put(network.params)
  rows = tqdm(begins, 'occlusion', leave=False, disable=None, unit='row')
  return np.stack([of_row(params, x, top) for top in rows])


def square_begins(size: int, patch: int, stride: int) -> np.ndarray:
  """Returns the first pixel of each square of `occlusion`, in one direction.

  Example:
    >>> square_begins(size=8, patch=4, stride=2)
    array([-1,  1,  3,  5])
  """
  return np.arange(0, size, stride) + (stride - patch) // 2


def _covered(size, begins, patch):
  """Returns whether each pixel is in each square, `[squares, size]`."""
  offsets = jnp.arange(size) - begins[:, None]
  return (offsets >= 0) & (offsets < patch)


class Strongest(NamedTuple):
  """An image of a split that drives a unit.

  Attributes:
    activation: the maximum of the unit's map.
    position: of the image in the split.
    place: row and column of the maximum in the map.
    image: uint8 `[crop_size, crop_size, 3]`.
  """

  activation: float
  position: int
  place: tuple[int, int]
  image: np.ndarray


def strongest(
  network: Pretrained,
  dataset: Dataset,
  split: str,
  layer: str,
  unit: int,
  number: int = 9,
) -> list[Strongest]:
  """Finds the images in which a unit's map has the largest maxima.

  Args:
    network: the network.
    dataset: a prepared dataset, of any classes.
    split: the name of one of its splits; all its images are looked at.
    layer: one of `architecture.feature_names` that gives maps.
    unit: the channel.
    number: images to return, at most.

  Returns:
    The images, the largest maximum first. Ties go to the earlier image, and in
    an image to the first position in row-major order.

  Raises:
    UserError: an image cannot be read.
  """
  finish = finisher(network.preprocessing)

  @jax.jit
  def compute(params, images):
    found: Any = network.model.apply(
      {'params': params},
      finish({'image': images}),
      method='features',
      layers=(layer,),
    )
    maps = found[layer][..., unit].astype(jnp.float32)
    flat = maps.reshape(len(maps), -1)
    row, column = jnp.unravel_index(flat.argmax(axis=1), maps.shape[1:])
    return flat.max(axis=1), row, column

  params = jax.device_put(network.params)
  batches = input_pipeline.eval_batches(
    dataset,
    split,
    network.preprocessing,
    batch_size=min(100, dataset.num_examples(split)),
    finish='device',
  )
  best: list[Strongest] = []
  done = 0
  for batch in tqdm(batches, split, leave=False, disable=None, unit='batch'):
    images = batch['image'][:, 0]
    found = jax.device_get(compute(params, images))
    count = int((batch['mask'] > 0).sum())  # The last batch is padded.
    best += [
      Strongest(float(value), done + i, (int(row), int(column)), images[i])
      for i, (value, row, column) in enumerate(zip(*found, strict=True))
      if i < count
    ]
    best = sorted(best, key=lambda one: (-one.activation, one.position))
    best = best[:number]
    done += count
  return best


def _input(network: Pretrained, image: np.ndarray) -> jax.Array:
  """Returns an image as the network's input, `[1, H, W, 3]`."""
  finish = finisher(network.preprocessing)
  dtype = jnp.promote_types(network.model.dtype, jnp.float32)
  return finish({'image': jnp.asarray(image)[None]}).astype(dtype)
