"""The last preprocessing steps, on the device (`config.data.finish`).

The host sends uint8 grey levels, a quarter of the bytes of float32. Mean,
lighting and scale are applied here, in the order and with the numbers of
`data.preprocess.finish`, so the results of both are bit-identical.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import AlexNet
from alexnet_jax.model.conv import to_blocks
from alexnet_jax.model.layer_types import Blocks

Finish = Callable[[dict[str, jax.Array]], jax.Array]


def finished_on_host(batch: dict[str, jax.Array]) -> jax.Array:
  """Returns the images of a batch that the host has finished."""
  return batch['image']


def finisher(
  p: Preprocessing, crops: int = 1, blocks: Blocks | None = None
) -> Finish:
  """Returns a function that computes the network's input from a batch.

  Args:
    p: the training split's preprocessing.
    crops: number of views of an image in an evaluation.
    blocks: how the host has cut the images into blocks, if it has.

  Returns:
    A function of a batch that returns float32 images. It returns images that
    are not uint8 unchanged: the host has finished those. The batch holds

      image: uint8 `[n, H, W, 3]`, in an evaluation `[n, crops, H, W, 3]`; as
        blocks, `[..., H', W', size * size * 3]`.
      lighting: float32 `[n, 3]`, if lighting is on.
      place: int32 `[n, 3]` (top, left, flipped), if a mean image is cropped
        with each image.
  """
  size = p.crop_size
  fixed = p.mean_of_crops(crops)
  # An image's padding stays 0.
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
  """Returns how the host cuts images for conv1 on TPU; None elsewhere.

  Images of three channels leave most of a TPU's matrix units idle. Rearranging
  the pixels on the TPU would cost as much as it saves (docs/speed.md).

  Args:
    model: the network.
    crop_size: height and width of the images, in pixels.
    platform: platform of the devices; by default JAX's current one.
  """
  if (platform or jax.default_backend()) != 'tpu':
    return None
  return model.architecture.input_blocks(crop_size)
