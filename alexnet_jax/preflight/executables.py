"""Reads memory, cycles, kernels and traffic from a compiled program.

XLA's TPU compiler records the cycles that it expects each operation to take.
They are estimates, made to choose between ways of compiling. They are not
measurements, and some operations have none.
"""

import collections
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

# Operations that neither move data nor start a kernel.
_FREE = (
  'parameter',
  'constant',
  'bitcast',
  'tuple',
  'get-tuple-element',
  'partition-id',
  'replica-id',
  'after-all',
)
COLLECTIVES = (
  'all-reduce',
  'reduce-scatter',
  'all-gather',
  'all-to-all',
  'collective-permute',
)


class Memory(NamedTuple):
  """Bytes on one device.

  Attributes:
    arguments: the step's inputs: state and batch.
    outputs: those that do not overwrite an input.
    temporaries: intermediate results.
    code: the program itself.
    peak: the largest sum of the first three at any time.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int
  peak: int


def memory(compiled: jax.stages.Compiled) -> Memory:
  """Returns the memory that a program needs, by its compiler."""
  stats: Any = compiled.memory_analysis()
  parts = (
    stats.argument_size_in_bytes,
    stats.output_size_in_bytes - stats.alias_size_in_bytes,
    stats.temp_size_in_bytes,
  )
  code = stats.generated_code_size_in_bytes
  # On CPU, XLA's peak lacks the temporaries.
  peak = stats.peak_memory_in_bytes
  return Memory(*parts, code, peak if peak > max(parts) else sum(parts))


class Program:
  """The optimized HLO of one device's share of a step."""

  def __init__(self, module: hlo_pb2.HloModuleProto):
    self._module = module
    self._computations = {c.id: c for c in self._module.computations}

  @classmethod
  def of(cls, compiled: jax.stages.Compiled) -> 'Program':
    """Returns the program of a compiled step."""
    executable: Any = compiled.runtime_executable()
    (module,) = executable.hlo_modules()
    return cls(
      hlo_pb2.HloModuleProto.FromString(module.as_serialized_hlo_module_proto())
    )

  def instructions(self) -> Iterator[tuple[Any, dict[int, Any], int]]:
    """Yields all that is executed: (instruction, siblings, repetitions).

    Siblings are its computation's instructions by id. Loops of unknown length
    count once. What is inside a fusion is not included: see `fused`.
    """
    yield from self._walk(self._module.entry_computation_id, 1)

  def _walk(self, computation: int, times: int):
    instructions = self._computations[computation].instructions
    by_id = {i.id: i for i in instructions}
    for i in instructions:
      yield i, by_id, times
      if i.opcode == 'while':
        body = i.called_computation_ids[0]
        yield from self._walk(body, times * self._repetitions(i))
      elif i.opcode in ('call', 'conditional', 'async-start'):
        for called in i.called_computation_ids:
          yield from self._walk(called, times)

  def _repetitions(self, loop) -> int:
    """Returns how often a loop runs; 1 if unknown."""
    count = _config(loop).get('known_trip_count', {}).get('n')
    if count:
      return int(count)
    # libtpu does not record it. JAX counts from 0 while counter < constant.
    condition = self._computations[loop.called_computation_ids[1]]
    by_id = {i.id: i for i in condition.instructions}
    root = by_id[condition.root_id]
    if root.opcode == 'compare' and root.comparison_direction == 'LT':
      limit = by_id[root.operand_ids[1]].literal
      if limit.s32s:
        return limit.s32s[0]
    return 1

  def fused(self, i: Any) -> Iterator[tuple[Any, dict[int, Any]]]:
    """Yields all that is inside a fusion: (instruction, siblings)."""
    if i.opcode != 'fusion':
      return
    for called in i.called_computation_ids:
      instructions = self._computations[called].instructions
      by_id = {inner.id: inner for inner in instructions}
      for inner in instructions:
        yield inner, by_id
        yield from self.fused(inner)

  def cycles(self, scopes: tuple[str, ...]) -> tuple[dict[str, int], list[str]]:
    """Returns the compiler's estimate of cycles for each part of the step.

    Args:
      scopes: names of the parts (`Architecture.scope_names`,
        `steps.SCOPE_NAMES`). Operations outside of them are 'other'.

    Returns:
      Cycles by scope, and the operations that have no estimate. Collectives
      have none, and are not among the latter: see collectives.py.
    """
    cycles: dict[str, float] = collections.defaultdict(float)
    without: list[str] = []
    for i, by_id, times in self.instructions():
      estimate = _config(i).get('window_config', {}).get('estimated_cycles')
      if estimate is None:
        if i.opcode in ('select-and-scatter', 'sort', 'scatter'):
          without.append(f'{i.opcode} ({_scope(i, scopes) or "other"})')
        continue
      for scope, share in self._shares(i, by_id, scopes).items():
        cycles[scope] += share * times * int(estimate)
    names = (*scopes, 'other')
    rounded = {name: round(cycles[name]) for name in names if name in cycles}
    return rounded, without

  def shares(self, scopes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Returns each operation's shares of the parts of the step, by its name.

    Args:
      scopes: as in `cycles`. An operation's shares have the sum 1.
    """
    return {
      i.name: self._shares(i, by_id, scopes)
      for i, by_id, _ in self.instructions()
      if i.opcode not in (*_FREE, 'call', 'while', 'conditional')
    }

  def _shares(self, i, by_id, scopes) -> dict[str, float]:
    """Returns the shares of an operation that belong to each part; sum 1.

    A fusion may contain several parts. It belongs to its convolution or matrix
    product if it has one. Otherwise it is divided by the number of elements
    that each part computes.
    """
    work: collections.Counter[str] = collections.Counter()
    products: set[str] = set()
    for inner in self._inner(i):
      scope = _scope(inner, scopes)
      if scope and inner.opcode in ('convolution', 'dot'):
        products.add(scope)
      elif scope and inner.opcode not in (*_FREE, 'fusion'):
        work[scope] += max(1, _num_elements(inner.shape))
    if products:
      # Other parts in the fusion are listed, with no cycles.
      each = {scope: 1 / len(products) for scope in products}
      return {**dict.fromkeys(work, 0.0), **each}
    if not work:
      return {self._source(i, by_id, scopes): 1.0}
    total = sum(work.values())
    return {scope: n / total for scope, n in work.items()}

  def _inner(self, i):
    yield i
    for inner, _ in self.fused(i):
      yield inner

  def _source(self, i, by_id, scopes) -> str:
    """Returns the part whose output an unnamed operation copies or converts.

    If it reads no part's output, it belongs to the part that reads its own: a
    kernel's share is rounded before it is gathered.
    """

    def read_by(i):
      return [by_id[number] for number in i.operand_ids]

    def readers(i):
      return [other for other in by_id.values() if i.id in other.operand_ids]

    return (
      self._nearest(i, read_by, scopes)
      or self._nearest(i, readers, scopes)
      or 'other'
    )

  def _nearest(self, i, neighbors, scopes) -> str:
    """Returns the first named part on a path of first neighbors, or ''."""
    for _ in range(20):
      for inner in self._inner(i):
        if scope := _scope(inner, scopes):
          return scope
      found = neighbors(i)
      if not found:
        break
      i = found[0]
    return ''

  def kernels(self) -> 'Kernels':
    """Returns what a GPU executes in one step."""
    kinds: collections.Counter[str] = collections.Counter()
    moved = 0
    for i, by_id, times in self.instructions():
      # What they call is counted.
      if i.opcode in (*_FREE, 'call', 'while', 'conditional', 'async-start'):
        continue
      if i.opcode.endswith('-done'):
        continue
      kind = i.opcode
      if kind == 'custom-call':
        kind = i.custom_call_target
      elif kind == 'fusion':
        kind = _config(i).get('fusion_backend_config', {}).get('kind', kind)
      kinds[kind.removesuffix('-start')] += times
      if kind.removesuffix('-start') not in COLLECTIVES:
        operands = [by_id[number] for number in i.operand_ids]
        moved += times * sum(num_bytes(o.shape) for o in (i, *operands))
    return Kernels(sum(kinds.values()), dict(kinds.most_common()), moved)


class Kernels(NamedTuple):
  """What a GPU executes in one step.

  Attributes:
    launched: number of kernels and library calls.
    by_kind: their numbers by name: XLA's fusions, Triton's, cuDNN's, cuBLAS's.
    bytes_moved: read and written by all of them, each operand once.
  """

  launched: int
  by_kind: dict[str, int]
  bytes_moved: int


def _config(i) -> dict[str, Any]:
  # Since jax 0.12, a custom call has MLIR's text: {is_stable = true}.
  if not i.backend_config.startswith(b'{"'):
    return {}
  return json.loads(i.backend_config)


def _scope(i, scopes) -> str | None:
  """Returns the innermost part of the step in an operation's name."""
  # jit(step)/transpose(jvp(AlexNet))/AlexNet._layers/conv2/lrn2/mul
  path = i.metadata.op_name.replace('(', '/').replace(')', '/').split('/')
  return next((name for name in reversed(path) if name in scopes), None)


def _num_elements(shape) -> int:
  if shape.tuple_shapes:
    return sum(_num_elements(part) for part in shape.tuple_shapes)
  return math.prod(shape.dimensions)


def num_bytes(shape) -> int:
  """Returns the bytes of an array or a tuple of arrays, without padding."""
  if shape.tuple_shapes:
    return sum(num_bytes(part) for part in shape.tuple_shapes)
  name = xla_data_pb2.PrimitiveType.Name(shape.element_type)
  # The first number is the bits: F32, BF16, F8E4M3FN, U4. Tokens have none.
  found = re.search(r'\d+', name)
  bits = int(found[0]) if found else 8 * (name == 'PRED')
  return -(-math.prod(shape.dimensions) * bits // 8)
