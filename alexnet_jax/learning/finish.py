"""The last steps of the input, on the device (`config.data.finish`).

The host sends whole grey levels, a quarter of the bytes; the mean, the lighting
and the scale follow here, in the order and with the numbers of
`data.preprocess.finish`, so that the result is the same to the bit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import AlexNet
from alexnet_jax.model.architectures import Blocks
from alexnet_jax.model.conv import to_blocks

Finish = Callable[[dict[str, jax.Array]], jax.Array]


def finished_on_host(batch: dict[str, jax.Array]) -> jax.Array:
  """The images of a batch that the host finished."""
  return batch['image']


def finisher(
  p: Preprocessing, crops: int = 1, blocks: Blocks | None = None
) -> Finish:
  """A function from a batch to the network's input.

  Args:
    p: the training set's preprocessing.
    crops: views of a picture in an evaluation.
    blocks: how the host has cut the pictures, if it has.

  Returns:
    It takes uint8 `image`, `[n, H, W, 3]` or of an evaluation
    `[n, crops, H, W, 3]` (of blocks `[..., H', W', size * size * 3]`), with
    lighting `lighting`, float32 `[n, 3]`, and with a mean image that is cropped
    with the picture `place`, int32 `[n, 3]` (top, left, flipped), and gives
    float32 images. Those that the host finished it leaves as they are.
  """
  size = p.crop_size
  fixed = p.mean_of_crops(crops)
  # What pads a picture stays 0.
  inside = np.ones_like(fixed, bool)
  repeats = 1
  if blocks:
    fixed, inside = (to_blocks(x, blocks) for x in (fixed, inside))
    repeats = blocks.size**2
  padded = not inside.all()

  def moving_mean(place):
    mean = jnp.asarray(p.mean, jnp.float32)
    part = jax.lax.dynamic_slice(mean, (place[0], place[1], 0), (size, size, 3))
    part = jnp.where(place[2] > 0, part[:, ::-1], part)
    return to_blocks(part, blocks) if blocks else part

  def finish(batch):
    images = batch['image']
    if images.dtype != jnp.uint8:
      return images
    images = images.astype(jnp.float32)
    if 'place' in batch:
      images -= jax.vmap(moving_mean)(batch['place'])
    else:
      images -= fixed
    lit = 'lighting' in batch
    if lit:
      lighting = jnp.tile(batch['lighting'], repeats)
      images += lighting[:, None, None, :]
    scale = p.pixel_scale(lit)
    if scale is not None:
      images *= np.tile(scale, repeats)
    return jnp.where(inside, images, 0) if padded else images

  return finish


def input_blocks(
  model: AlexNet, crop_size: int, platform: str | None = None
) -> Blocks | None:
  """How the host cuts pictures for conv1, where it pays: on TPU.

  Three channels leave its matrix units idle, and to rearrange the pixels there
  takes what it saves (docs/speed.md).

  Args:
    model: the network.
    crop_size: height and width of the pictures, in pixels.
    platform: of the devices; JAX's own where not given.
  """
  if (platform or jax.default_backend()) != 'tpu':
    return None
  return model.architecture.input_blocks(crop_size)
