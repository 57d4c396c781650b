"""LPIPS: how different two images look to people, from AlexNet's features.

Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric" (2018); AlexNet's form, version 0.1 of their
package `lpips`.
"""

import importlib.util
import os
import pathlib
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.pretrained import formats, torch_files
from alexnet_jax.pretrained.loading import Pretrained

_LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
_CHANNELS = (64, 192, 384, 256, 256)
# Of pixels from -1 to 1: ImageNet's mean and standard deviation, as rounded in
# the package.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
# One weight a channel for each of the five layers.
Linear = Sequence[np.ndarray | jax.Array]


def perceptual_distance(
  network: Pretrained,
  x: jax.Array,
  y: jax.Array,
  linear: str | os.PathLike | Linear | None = None,
) -> jax.Array:
  """Computes LPIPS between images: 0 for equal ones, more for different ones.

  At each position of conv1 to conv5, after their ReLUs, the channels are scaled
  to unit length; the squared differences are weighted by channel, averaged over
  the positions and summed over the layers. Gradients by `x` and `y` are finite
  everywhere.

  Args:
    network: torchvision's, `load('torchvision')`. Its preprocessing is not
      used.
    x: `[N, H, W, 3]` RGB pixels, 0 to 255, not normalized; from 31 x 31 pixels.
    y: images of the same shape.
    linear: the weights by channel: a path of the package's
      `lpips/weights/v0.1/alex.pth`, or what `read_linear` returns. By default,
      the file of the installed package `lpips`.

  Returns:
    `[N]` float32 distances; float64 for float64 images.

  Raises:
    UserError: the network is another one, or the weights cannot be read.
    ValueError: the shapes differ, or are not `[N, H, W, 3]`.

  Example:
    from alexnet_jax.pretrained.perceptual import read_linear

    network, linear = load('torchvision'), read_linear()
    distance = jax.jit(lambda x, y: perceptual_distance(network, x, y, linear))
    gradient = jax.grad(lambda x: distance(x, y).sum())(x)
  """
  name = network.model.architecture.name
  if name != 'torchvision':
    raise UserError(
      f'LPIPS is defined for the network torchvision, not {name}: give '
      "alexnet_jax.load('torchvision')"
    )
  if np.shape(x) != np.shape(y) or np.shape(x)[3:] != (3,):
    raise ValueError(
      f'the images have shapes {np.shape(x)} and {np.shape(y)}, expected two '
      'equal shapes [N, H, W, 3]'
    )
  if linear is None or isinstance(linear, str | os.PathLike):
    linear = read_linear(linear)
  features = [_unit_features(network, images) for images in (x, y)]
  distance = jnp.zeros(())
  for of_x, of_y, weights in zip(*features, linear, strict=True):
    weighted = (of_x - of_y) ** 2 * jnp.asarray(weights, of_x.dtype)
    distance += weighted.sum(-1).mean((1, 2))
  return distance


def read_linear(path: str | os.PathLike | None = None) -> list[np.ndarray]:
  """Reads the weights by channel of LPIPS.

  Args:
    path: of the package's `alex.pth`, or of a file with the same tensors, in
      any of PyTorch's formats. By default, that of the installed package.

  Returns:
    Five arrays of 64, 192, 384, 256 and 256 float32 weights.

  Raises:
    UserError: the package is not installed, or the file holds other tensors.
  """
  if path is None:
    # Not imported: the package imports torchvision.
    spec = importlib.util.find_spec('lpips')
    if spec is None or not spec.submodule_search_locations:
      raise UserError(
        'LPIPS needs its weights: pip install lpips, or give the path of its '
        'lpips/weights/v0.1/alex.pth as `linear`'
      )
    folder = pathlib.Path(spec.submodule_search_locations[0])
    path = folder / 'weights/v0.1/alex.pth'
  path = os.fspath(path)
  loaded = torch_files.read(path, formats.kind_of(path))
  found = {}
  for name, tensor in loaded.items() if isinstance(loaded, dict) else ():
    # The number counts a dropout, which is there while LPIPS is trained.
    if match := re.fullmatch(r'lin(\d)\.model\.\d\.weight', str(name)):
      found[int(match[1])] = torch_files.to_tensor(tensor, name, path)
  expected = {i: (1, n, 1, 1) for i, n in enumerate(_CHANNELS)}
  shapes = {i: tensor.shape for i, tensor in sorted(found.items())}
  if shapes != expected:
    raise UserError(
      f'{path} does not hold the weights of LPIPS for AlexNet: expected lin0 '
      f'to lin4 of shapes {list(expected.values())}, found '
      f'{list(shapes.values())}'
    )
  weights = [found[i].read().reshape(-1) for i in expected]
  if not all(np.isfinite(w).all() for w in weights):
    raise UserError(f'{path} holds values that are not finite')
  return weights


def _unit_features(network, images):
  """Returns the features of the five layers, of unit length per position."""
  dtype = jnp.promote_types(jnp.result_type(images), jnp.float32)
  images = jnp.asarray(images, dtype) / 127.5 - 1
  images = (images - jnp.asarray(_SHIFT, dtype)) / jnp.asarray(_SCALE, dtype)
  # Under jit, the parameters are constants: fc6's would be 150 MB of them.
  variables = {'params': {name: network.params[name] for name in _LAYERS}}
  model = network.model.clone(dtype=dtype, conv_batch=None)
  features = model.apply(variables, images, method='features', layers=_LAYERS)
  return [_normalized(features[name]) for name in _LAYERS]


def _normalized(x):
  squares = (x**2).sum(-1, keepdims=True)
  # The square root has no finite derivative at 0.
  is_zero = squares == 0
  length = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))
  return x / (length + _EPSILON)
