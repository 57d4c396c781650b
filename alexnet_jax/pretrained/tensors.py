"""The tensors of a file of published weights, checked against a network."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.model import Architecture
from alexnet_jax.pretrained.layouts import source_shapes


class Tensor(NamedTuple):
  """A tensor of a file: its shape, and a function that reads its values.

  A file may claim any shape, so shapes are checked before values are read.
  """

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


def check_tensors(
  path: str,
  architecture: Architecture,
  tensors: Mapping[str, Tensor],
  names: Mapping[str, str],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns weight and bias by layer, if a file holds exactly these tensors.

  The number of classes is the last layer's in the file.

  Args:
    path: the file's, for error messages.
    architecture: the network that the file should hold.
    tensors: the file's, by name.
    names: the file's name for each layer.

  Raises:
    UserError: a tensor is missing, unexpected, of another shape or not finite;
      the message names the first.
  """
  head = tensors.get(f'{names[architecture.layer_names[-1]]}.weight')
  num_classes = (head.shape[0] if head and head.shape else 0) or 1000
  expected = {}
  for layer, shapes in source_shapes(architecture, num_classes).items():
    for kind, shape in zip(('weight', 'bias'), shapes, strict=True):
      expected[f'{names[layer]}.{kind}'] = shape
  for name in (*expected, *tensors):
    found = tensors[name].shape if name in tensors else 'no such tensor'
    wanted = expected.get(name, 'no such tensor')
    if found != wanted:
      raise UserError(
        f'{path} does not fit the network {architecture.name!r}: '
        f'{name}: expected {wanted}, found {found}'
      )
  arrays = {name: tensors[name].read() for name in expected}
  for name, array in arrays.items():
    if not np.isfinite(array).all():
      raise UserError(f'{path}: {name} holds values that are not finite')
  return {
    layer: (arrays[f'{names[layer]}.weight'], arrays[f'{names[layer]}.bias'])
    for layer in architecture.layer_names
  }
