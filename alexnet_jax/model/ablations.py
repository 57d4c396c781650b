"""What the paper says a part is worth: networks with that part changed.

`config.model.ablations` names any of `ABLATIONS`, applied in order; dropout has
a field of its own (`model.dropout_rate`), and what is not of the network
(lighting, crops) is a field of `config.data` or `config.eval`.
"""

import dataclasses
from collections.abc import Callable, Sequence

from alexnet_jax.model.architectures import (
  LRN,
  Architecture,
  Conv,
  MaxPool,
  SpatialLRN,
)


def no_lrn(architecture: Architecture) -> Architecture:
  """Without any response normalization (section 3.3)."""
  return architecture.with_ops(
    lambda op: None if isinstance(op, LRN | SpatialLRN) else op
  )


def no_overlap(architecture: Architecture) -> Architecture:
  """Pooling windows as large as their stride, z = s (section 3.4).

  AlexNet's maps keep their sizes: 55, 27, 13 and 6 pixels.
  """
  return architecture.with_ops(
    lambda op: (
      dataclasses.replace(op, window=op.stride)
      if isinstance(op, MaxPool)
      else op
    )
  )


def no_groups(architecture: Architecture) -> Architecture:
  """Every kernel sees every map of the layer before, as many kernels."""
  return _each_conv(
    architecture.with_ops(_across_columns),
    lambda conv: dataclasses.replace(conv, groups=1),
  )


def one_column(architecture: Architecture) -> Architecture:
  """The paper's net for one GPU (section 3.5): one column's kernels.

  Half the kernels in each convolution but the last, which keeps them all, so
  that there are about as many parameters: most are fc6's. (The paper's
  footnote: the comparison favours this one.)
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
  """Tanh in place of ReLU (section 3.1)."""
  return dataclasses.replace(architecture, activation='tanh')


ABLATIONS: dict[str, Callable[[Architecture], Architecture]] = {
  function.__name__: function
  for function in (no_lrn, no_overlap, no_groups, one_column, tanh)
}


def ablated(architecture: Architecture, names: Sequence[str]) -> Architecture:
  """A network with each of the named changes.

  Args:
    architecture: any.
    names: keys of `ABLATIONS`, applied in order.
  """
  for name in names:
    architecture = ABLATIONS[name](architecture)
  return architecture


def _across_columns(op):
  """LRN over all maps, where it was over each column's (krizhevsky2012)."""
  return dataclasses.replace(op, groups=1) if isinstance(op, LRN) else op


def _each_conv(architecture, change):
  layers = tuple(
    change(layer) if isinstance(layer, Conv) else layer
    for layer in architecture.layers
  )
  return dataclasses.replace(architecture, layers=layers)
