"""A table of a network's layers."""

from typing import Any

import jax

from alexnet_jax.model import Architecture


def parameter_table(
  architecture: Architecture, params: dict[str, Any]
) -> list[str]:
  """Each layer's kernel and number of parameters, and the sum."""
  lines = [f'  {"layer":<8}{"kernel":<20}{"groups":>6}{"parameters":>14}']
  total = 0
  for name, layer in zip(
    architecture.layer_names, architecture.layers, strict=True
  ):
    number = sum(leaf.size for leaf in jax.tree.leaves(params[name]))
    total += number
    kernel = ' x '.join(map(str, params[name]['kernel'].shape))
    groups = getattr(layer, 'groups', 1)
    lines.append(f'  {name:<8}{kernel:<20}{groups:>6}{number:>14,}')
  lines.append(f'  {"total":<34}{total:>14,}')
  return lines
