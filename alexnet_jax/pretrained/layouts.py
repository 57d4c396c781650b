"""Weights as PyTorch and Caffe lay them out, and as this project does.

Theirs are `[out, in / groups, kh, kw]` and `[out, in]`, with maps flattened as
channels, rows, columns; ours `[kh, kw, in / groups, out]` and `[in, out]`, with
maps flattened as rows, columns, channels.
"""

import math
from collections.abc import Mapping

import numpy as np

from alexnet_jax.model.architectures import Architecture, Conv

Params = dict[str, dict[str, np.ndarray]]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # Weight and bias.


def source_shapes(
  architecture: Architecture, num_classes: int
) -> dict[str, Shapes]:
  """Shapes of each layer's weight and bias in PyTorch and Caffe.

  Convolutions are `[out, in / groups, kh, kw]`, dense layers `[out, in]`; the
  first dense layer sees the maps flattened as channels, rows, columns.
  """
  shapes: dict[str, Shapes] = {}
  inputs = 3
  maps = architecture.spatial_size(architecture.input_size) ** 2
  for name, layer in zip(
    architecture.layer_names, architecture.layers, strict=True
  ):
    if isinstance(layer, Conv):
      weight: tuple[int, ...] = (
        layer.features,
        inputs // layer.groups,
        layer.kernel,
        layer.kernel,
      )
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
  """Parameters from weights and biases of `source_shapes`.

  Args:
    architecture: the network.
    weights: weight and bias by layer, float32.
    bgr: whether the first layer sees blue, green, red.
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
  """Weights and biases of `source_shapes`: the inverse of `to_params`."""
  maps = _first_dense_maps(architecture)
  weights = {}
  for name in architecture.layer_names:
    kernel, bias = params[name]['kernel'], params[name]['bias']
    if kernel.ndim == 4:
      weight = kernel.transpose(3, 2, 0, 1)
    elif name in maps:
      channels = maps[name][0]
      size = math.isqrt(len(kernel) // channels)  # Of the run's own crops.
      weight = kernel.reshape(size, size, channels, -1).transpose(3, 2, 0, 1)
      weight = weight.reshape(-1, len(kernel))
    else:
      weight = kernel.T
    weights[name] = (np.ascontiguousarray(weight), np.asarray(bias))
  return weights


def _first_dense_maps(
  architecture: Architecture,
) -> dict[str, tuple[int, int, int]]:
  """Channels, height and width of what the first dense layer flattens."""
  convs = [layer for layer in architecture.layers if isinstance(layer, Conv)]
  size = architecture.spatial_size(architecture.input_size)
  first = architecture.layer_names[len(convs)]
  return {first: (convs[-1].features, size, size)}
