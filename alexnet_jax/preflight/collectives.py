"""Counts the collective operations of a compiled program, by kind.

libtpu fuses collectives in two ways, which its optimized HLO shows:

- A reduce-scatter is a fusion of an all-reduce and a dynamic-slice of its
  result ('all-reduce-scatter').
- A collective that runs beside other work is a chain of fusions. Each holds
  the same collective; the first also holds a call of AsyncCollectiveStart.
"""

import math
from typing import Any, NamedTuple

from alexnet_jax.preflight.executables import COLLECTIVES, Program, num_bytes


class Collective(NamedTuple):
  """The collectives of one kind in one step of one device.

  Attributes:
    operations: their number.
    bytes: that the device passes to them: their operands.
    bytes_sent: that must leave the device, at least.
  """

  operations: int
  bytes: int
  bytes_sent: int


def bytes_sent(kind: str, operands: int, group: int) -> int:
  """Returns the bytes that must leave a device, at least.

  Example:
    >>> bytes_sent('all-reduce', 1000, 4), bytes_sent('all-gather', 1000, 4)
    (1500, 3000)

  Args:
    kind: one of COLLECTIVES.
    operands: the bytes that the device passes.
    group: the number of devices that exchange them.
  """
  if kind == 'collective-permute':
    return operands
  others = group - 1
  if kind == 'all-gather':
    return others * operands
  times = 2 if kind == 'all-reduce' else 1
  return times * others * operands // group


def collectives(program: Program, num_devices: int) -> dict[str, Collective]:
  """Returns what a device passes to collectives in one step, by kind.

  Args:
    program: the compiled step.
    num_devices: the group of an operation that names none.

  Returns:
    The kinds that occur, in the order of COLLECTIVES.
  """
  found: dict[str, list[tuple[int, int, int]]] = {}

  def add(kind, i, operands, times):
    size = sum(num_bytes(o.shape) for o in operands)
    sent = bytes_sent(kind, size, _group(i) or num_devices)
    found.setdefault(kind, []).append((times, times * size, times * sent))

  for i, by_id, times in program.instructions():
    kind = i.opcode.removesuffix('-start')
    if kind in COLLECTIVES:
      add(kind, i, [by_id[number] for number in i.operand_ids], times)
    for inner, siblings in program.fused(i):
      if inner.opcode in COLLECTIVES and _is_first(inner, siblings):
        kind, operands = _fused(inner, siblings)
        add(kind, inner, operands, times)
  return {
    kind: Collective(*map(sum, zip(*found[kind], strict=True)))
    for kind in COLLECTIVES
    if kind in found
  }


def _is_first(i, siblings: dict[int, Any]) -> bool:
  """Returns whether a fused collective is not a later part of a chain."""
  if b'"async_collective_fusion_config"' not in i.backend_config:
    return True
  targets = {other.custom_call_target for other in siblings.values()}
  return 'AsyncCollectiveStart' in targets


def _fused(i, siblings: dict[int, Any]) -> tuple[str, list[Any]]:
  """Returns the kind of a fused collective, and its operands.

  The padding of a reduce-scatter is not sent.
  """
  operands = [siblings[number] for number in i.operand_ids]
  scatters = i.opcode == 'all-reduce' and any(
    other.opcode == 'dynamic-slice' and i.id == other.operand_ids[0]
    for other in siblings.values()
  )
  if not scatters:
    return i.opcode, operands
  return 'reduce-scatter', [
    siblings[o.operand_ids[0]] if o.opcode == 'pad' else o for o in operands
  ]


def _group(i) -> int:
  """Returns the number of devices in a group; 0 if all are in one.

  XLA writes groups in one of four forms.
  """
  lists = i.collective_device_list
  for groups in (i.replica_groups, lists.replica_groups):
    if groups:
      return len(groups[0].replica_ids)
  for iota in (i.iota_collective_device_list, lists.iota_replica_group_list):
    if iota.num_devices_per_group:
      return iota.num_devices_per_group
  of_mesh = i.mesh_axes_replica_group_list
  axes = [of_mesh.mesh.axes[axis.mesh_axis_index] for axis in of_mesh.axes]
  return math.prod(axis.size for axis in axes) if axes else 0
