"""The paper's ablations: networks with one part removed or changed.

`config.model.ablations` names members of `ABLATIONS`, applied in order. Dropout
has its own field (`model.dropout_rate`); lighting and crops are fields of
`config.data` and `config.eval`.
"""

import dataclasses
from collections.abc import Callable, Sequence

from alexnet_jax.model.layer_types import (
  LRN,
  Architecture,
  Conv,
  MaxPool,
  SpatialLRN,
)


def no_lrn(architecture: Architecture) -> Architecture:
  """Removes response normalization (section 3.3)."""
  return architecture.with_ops(
    lambda op: None if isinstance(op, LRN | SpatialLRN) else op
  )


def no_overlap(architecture: Architecture) -> Architecture:
  """Makes pooling windows as large as their stride, z = s (section 3.4).

  AlexNet's feature maps keep their sizes: 55, 27, 13 and 6 pixels.
  """
  return architecture.with_ops(
    lambda op: (
      dataclasses.replace(op, window=op.stride)
      if isinstance(op, MaxPool)
      else op
    )
  )


def no_groups(architecture: Architecture) -> Architecture:
  """Connects every kernel to all input channels (section 3.2).

  The number of kernels stays, so the network has more parameters.
  """
  return _each_conv(
    architecture.with_ops(_across_columns),
    lambda conv: dataclasses.replace(conv, groups=1),
  )


def one_column(architecture: Architecture) -> Architecture:
  """Returns the paper's network for one GPU (section 3.2, footnote 2).

  Every convolution has half the kernels, except the last, which keeps all of
  them. The number of parameters hardly changes, since most belong to fc6. (The
  footnote says that the comparison favours this network.)
  """
  architecture = architecture.with_ops(_across_columns)
  last = [layer for layer in architecture.layers if isinstance(layer, Conv)][-1]
  return _each_conv(
    architecture,
    lambda conv: dataclasses.replace(
      conv,
      groups=1,
      features=conv.features // (1 if conv is last else 2),
    ),
  )


def tanh(architecture: Architecture) -> Architecture:
  """Replaces ReLU by tanh (section 3.1)."""
  return dataclasses.replace(architecture, activation='tanh')


ABLATIONS: dict[str, Callable[[Architecture], Architecture]] = {
  function.__name__: function
  for function in (no_lrn, no_overlap, no_groups, one_column, tanh)
}


def ablated(architecture: Architecture, names: Sequence[str]) -> Architecture:
  """Returns a network with the named changes.

  Args:
    architecture: the network to change.
    names: keys of `ABLATIONS`, applied in order.

  Example:
    >>> from alexnet_jax.model import ARCHITECTURES
    >>> ablated(ARCHITECTURES['paper'], ['no_lrn', 'no_groups']).layers[1].then
    (Activation(), MaxPool(window=3, stride=2))
  """
  for name in names:
    architecture = ABLATIONS[name](architecture)
  return architecture


def _across_columns(op):
  """Normalizes across both columns at once (krizhevsky2012 does not)."""
  return dataclasses.replace(op, groups=1) if isinstance(op, LRN) else op


def _each_conv(architecture, change):
  layers = tuple(
    change(layer) if isinstance(layer, Conv) else layer
    for layer in architecture.layers
  )
  return dataclasses.replace(architecture, layers=layers)
