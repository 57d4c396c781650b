"""The last steps of the input, on the device (`config.data.finish`).

The host sends whole grey levels, a quarter of the bytes; the mean, the lighting
and the scale follow here, in the order and with the numbers of
`data.preprocess.finish`, so that the result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
  from alexnet_jax.data.preprocess import Preprocessing

Finish = Callable[[dict[str, jax.Array]], jax.Array]


def finished_on_host(batch: dict[str, jax.Array]) -> jax.Array:
  """The images of a batch that the host finished."""
  return batch['image']


def finisher(p: Preprocessing, crops: int = 1) -> Finish:
  """A function from a batch to the network's input.

  Args:
    p: the training set's preprocessing.
    crops: views of a picture in an evaluation.

  Returns:
    It takes uint8 `image`, `[n, H, W, 3]` or of an evaluation
    `[n, crops, H, W, 3]`, with lighting `lighting`, float32 `[n, 3]`, and with
    a mean image that is cropped with the picture `place`, int32 `[n, 3]` (top,
    left, flipped), and gives float32 images. Those that the host finished
    (float32) it leaves as they are.
  """
  size = p.crop_size
  fixed = p.mean_of_crops(crops)

  def moving_mean(place):
    mean = jnp.asarray(p.mean, jnp.float32)
    part = jax.lax.dynamic_slice(mean, (place[0], place[1], 0), (size, size, 3))
    return jnp.where(place[2] > 0, part[:, ::-1], part)

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
      images += batch['lighting'][:, None, None, :]
    scale = p.pixel_scale(lit)
    return images if scale is None else images * scale

  return finish
