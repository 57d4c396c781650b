"""The tensors of a file of weights, checked against a network."""

import difflib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.model import Architecture
from alexnet_jax.pretrained.layouts import source_shapes

Shape = tuple[int, ...]


class Tensor(NamedTuple):
  """A tensor of a file: its shape, and a function that reads its values.

  A file may claim any shape, so shapes are checked before values are read.
  """

  shape: Shape
  read: Callable[[], np.ndarray]


class Weights(NamedTuple):
  """What was found in a file.

  Attributes:
    place: the file and the place in it, for messages.
    network: the name of the network that it should hold.
    tensors: by name, such as `conv1.weight`; not yet checked.
    notes: what was chosen, as lines for the user.
  """

  place: str
  network: str
  tensors: Mapping[str, Tensor]
  notes: tuple[str, ...] = ()


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
  if wrong := mismatch(architecture, tensors, names):
    raise UserError(
      f'{path} does not fit the network {architecture.name!r}: {wrong}'
    )
  arrays = {}
  for name, tensor in tensors.items():
    arrays[name] = tensor.read()
    if not np.isfinite(arrays[name]).all():
      raise UserError(f'{path}: {name} holds values that are not finite')
  return {
    layer: (arrays[f'{names[layer]}.weight'], arrays[f'{names[layer]}.bias'])
    for layer in architecture.layer_names
  }


def mismatch(
  architecture: Architecture,
  tensors: Mapping[str, Tensor],
  names: Mapping[str, str],
) -> str | None:
  """Returns the first tensor that does not fit, or None if all do.

  Args:
    architecture: the network that a file should hold.
    tensors: the file's, by name.
    names: the file's name for each layer.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> network = ARCHITECTURES['caffe']
    >>> names = {layer: layer for layer in network.layer_names}
    >>> found = {'first.weight': Tensor((96, 3, 7, 7), lambda: np.zeros(0))}
    >>> mismatch(network, found, names).split('; ')[1]
    'the nearest is first.weight (96, 3, 7, 7)'
  """
  expected = expected_shapes(architecture, tensors, names)
  for name in (*expected, *tensors):
    found: object = 'no such tensor'
    if name in tensors:
      found = tensors[name].shape
    if found != expected.get(name):
      near = '' if name in tensors else _nearest(name, expected, tensors)
      wanted = expected.get(name, 'no such tensor')
      return f'{name}: expected {wanted}, found {found}{near}'
  return None


def expected_shapes(
  architecture: Architecture,
  tensors: Mapping[str, Tensor],
  names: Mapping[str, str],
) -> dict[str, Shape]:
  """Returns the shapes of a network that has as many classes as a file.

  Args:
    architecture: the network.
    tensors: the file's, by name; without a last layer, 1000 classes count.
    names: the file's name for each layer.
  """
  head = tensors.get(f'{names[architecture.layer_names[-1]]}.weight')
  num_classes = (head.shape[0] if head and head.shape else 0) or 1000
  return {
    f'{names[layer]}.{kind}': shape
    for layer, shapes in source_shapes(architecture, num_classes).items()
    for kind, shape in zip(('weight', 'bias'), shapes, strict=True)
  }


def _nearest(
  name: str, expected: Mapping[str, Shape], tensors: Mapping[str, Tensor]
) -> str:
  """Names the unexpected tensor that is most like a missing one."""

  def likeness(other: str) -> tuple[int, float]:
    pairs = zip(expected[name], tensors[other].shape, strict=True)
    alike = difflib.SequenceMatcher(None, name, other).ratio()
    return sum(a == b for a, b in pairs), alike

  others = [
    other
    for other, tensor in tensors.items()
    if other not in expected and len(tensor.shape) == len(expected[name])
  ]
  if not others:
    return ''
  nearest = max(others, key=likeness)
  return f'; the nearest is {nearest} {tensors[nearest].shape}'
