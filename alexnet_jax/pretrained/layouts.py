"""Converts weights between the layouts of PyTorch and Caffe and our own.

| | PyTorch and Caffe | here |
|---|---|---|
| convolution | `[out, in / groups, kh, kw]` | `[kh, kw, in / groups, out]` |
| dense layer | `[out, in]` | `[in, out]` |
| flattened maps | channels, rows, columns | rows, columns, channels |
"""

import math
from collections.abc import Mapping

import numpy as np

from alexnet_jax.model.layer_types import Architecture, Conv

Params = dict[str, dict[str, np.ndarray]]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # Weight and bias.


def source_shapes(
  architecture: Architecture, num_classes: int
) -> dict[str, Shapes]:
  """Returns the shapes of each layer's weight and bias in PyTorch and Caffe.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> source_shapes(ARCHITECTURES['caffe'], 1000)['conv2']
    ((256, 48, 5, 5), (256,))
  """
  shapes: dict[str, Shapes] = {}
  weight: tuple[int, ...]
  inputs = 3
  maps = architecture.spatial_size(architecture.input_size) ** 2
  for name, layer in zip(
    architecture.layer_names, architecture.layers, strict=True
  ):
    if isinstance(layer, Conv):
      kernel = (layer.kernel, layer.kernel)
      weight = (layer.features, inputs // layer.groups, *kernel)
    else:
      weight = (layer.features or num_classes, inputs * maps)
      maps = 1
    inputs = weight[0]
    shapes[name] = (weight, (inputs,))
  return shapes


def to_params(
  architecture: Architecture,
  weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
  bgr: bool = False,
) -> Params:
  """Converts weights from the layout of PyTorch and Caffe to our own.

  Args:
    architecture: the network.
    weights: weight and bias by layer, of `source_shapes`.
    bgr: whether the first layer takes blue, green, red, as Caffe's does.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> weights = {'conv1': (np.zeros((96, 3, 11, 11)), np.zeros(96))}
    >>> params = to_params(ARCHITECTURES['caffe'], weights, bgr=True)
    >>> params['conv1']['kernel'].shape
    (11, 11, 3, 96)
  """
  maps = _first_dense_maps(architecture)
  params = {}
  for name, (weight, bias) in weights.items():
    if weight.ndim == 4:
      kernel = weight.transpose(2, 3, 1, 0)  # OIHW to HWIO.
      if bgr and name == architecture.layer_names[0]:
        kernel = kernel[:, :, ::-1]
    elif name in maps:
      # [out, C * H * W] to [H * W * C, out].
      c, h, w = maps[name]
      kernel = weight.reshape(-1, c, h, w).transpose(2, 3, 1, 0)
      kernel = kernel.reshape(h * w * c, -1)
    else:
      kernel = weight.T
    params[name] = {
      'kernel': np.ascontiguousarray(kernel),
      'bias': np.ascontiguousarray(bias),
    }
  return params


def from_params(
  architecture: Architecture, params: Params
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Converts parameters to the layout of PyTorch and Caffe.

  The inverse of `to_params`, except that the colors stay red, green, blue.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> network = ARCHITECTURES['cifar10_relu']
    >>> shapes = source_shapes(network, 10)
    >>> weights = {k: (np.ones(w), np.ones(b)) for k, (w, b) in shapes.items()}
    >>> again = from_params(network, to_params(network, weights))
    >>> again['conv3'][0].shape == shapes['conv3'][0]
    True
  """
  weights = {}
  for name in architecture.layer_names:
    kernel, bias = params[name]['kernel'], params[name]['bias']
    weight = source_weight(architecture, name, kernel)
    weights[name] = (weight, np.asarray(bias))
  return weights


def source_weight(
  architecture: Architecture, name: str, kernel: np.ndarray
) -> np.ndarray:
  """Converts one kernel to the layout of PyTorch and Caffe.

  Args:
    architecture: the network.
    name: the layer's.
    kernel: `[kh, kw, in / groups, out]` or `[in, out]`.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> kernel = np.zeros((5, 5, 48, 256))
    >>> source_weight(ARCHITECTURES['caffe'], 'conv2', kernel).shape
    (256, 48, 5, 5)
  """
  maps = _first_dense_maps(architecture)
  if kernel.ndim == 4:
    weight = kernel.transpose(3, 2, 0, 1)
  elif name in maps:
    channels = maps[name][0]
    # The run may have trained on crops of another size than the original.
    size = math.isqrt(len(kernel) // channels)
    weight = kernel.reshape(size, size, channels, -1).transpose(3, 2, 0, 1)
    weight = weight.reshape(-1, len(kernel))
  else:
    weight = kernel.T
  return np.ascontiguousarray(weight)


def _first_dense_maps(
  architecture: Architecture,
) -> dict[str, tuple[int, int, int]]:
  """Channels, height and width of the maps that the first dense layer takes."""
  convs = [layer for layer in architecture.layers if isinstance(layer, Conv)]
  size = architecture.spatial_size(architecture.input_size)
  first = architecture.layer_names[len(convs)]
  return {first: (convs[-1].features, size, size)}
