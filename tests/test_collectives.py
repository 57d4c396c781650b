"""Collectives of compiled programs (small ones, made by hand), and their time.

The forms are those of libtpu 0.0.42 (jax 0.10) and 0.0.50 (jax 0.12).
"""

import re
import types

import pytest
from tensorflow.compiler.xla.service import hlo_pb2

from alexnet_jax.cli.errors import UserError
from alexnet_jax.preflight import (
  collectives,
  compare,
  compilation,
  executables,
  report,
  topologies,
)
from configs import imagenet

GIB = 2**30
CHAIN = b'{"async_collective_fusion_config":{"flag_start":"2"}}'
# The bytes of an operand.
ROW = 1000 * 4


def op(number, opcode, dimensions=(1000,), operands=(), **more):
  i = hlo_pb2.HloInstructionProto(
    id=number, name=f'{opcode}.{number}', opcode=opcode, operand_ids=operands,
    **more,
  )  # fmt: skip
  i.shape.element_type = 11  # F32
  i.shape.dimensions.extend(dimensions)
  return i


def computation(number, *instructions):
  return hlo_pb2.HloComputationProto(
    id=number, instructions=instructions, root_id=instructions[-1].id
  )


def counted(*computations, num_devices=4):
  """Returns the collectives of a program; the last computation is its entry."""
  module = hlo_pb2.HloModuleProto(
    entry_computation_id=computations[-1].id, computations=computations
  )
  found = collectives.collectives(executables.Program(module), num_devices)
  return {kind: tuple(numbers) for kind, numbers in found.items()}


@pytest.mark.parametrize(
  ('kind', 'sent'),
  [
    ('all-reduce', 2 * 3 / 4 * ROW),
    ('reduce-scatter', 3 / 4 * ROW),
    ('all-gather', 3 * ROW),
    ('all-to-all', 3 / 4 * ROW),
    ('collective-permute', ROW),
  ],
)
@pytest.mark.parametrize('start', ['', '-start'])
def test_each_kind_of_four_devices(kind, sent, start):
  """A pair of -start and -done is one operation."""
  entry = [op(1, 'parameter'), op(2, kind + start, operands=[1])]
  if start:
    entry.append(op(3, f'{kind}-done', operands=[2]))
  assert counted(computation(1, *entry)) == {kind: (1, ROW, sent)}


def test_one_operation_may_have_several_operands():
  found = counted(computation(
    1, op(1, 'parameter'), op(2, 'parameter', (10,)),
    op(3, 'all-reduce', operands=[1, 2]),
  ))  # fmt: skip
  assert found == {'all-reduce': (1, ROW + 40, 1.5 * (ROW + 40))}


def two_devices(form):
  """Returns an all-reduce in groups of two devices, as XLA writes them."""
  i = op(2, 'all-reduce', operands=[1])
  if form == 'replica_groups':
    i.replica_groups.add(replica_ids=[0, 1])
  elif form == 'device_list':
    i.collective_device_list.replica_groups.add(replica_ids=[0, 1])
  elif form == 'iota':
    i.iota_collective_device_list.num_devices_per_group = 2
  elif form == 'mesh':  # jax 0.12: mesh['a'=2, 'b'=4] {'a'}
    of_mesh = i.mesh_axes_replica_group_list
    for size in (2, 4):
      of_mesh.mesh.axes.add(size=size)
    of_mesh.axes.add(mesh_axis_index=0)
  return i


@pytest.mark.parametrize(
  'form', ['replica_groups', 'device_list', 'iota', 'mesh']
)
def test_a_group_may_be_a_part_of_the_devices(form):
  found = counted(
    computation(1, op(1, 'parameter'), two_devices(form)), num_devices=8
  )
  assert found == {'all-reduce': (1, ROW, ROW)}


def test_a_fused_reduce_scatter():
  """libtpu's all-reduce-scatter, whose padding is not sent."""
  fused = computation(
    1, op(1, 'parameter'), op(2, 'pad', (1024,), [1]),
    op(3, 'all-reduce', (1024,), [2]), op(4, 'partition-id', ()),
    op(5, 'dynamic-slice', (256,), [3, 4]),
  )  # fmt: skip
  entry = computation(
    2, op(1, 'parameter'),
    op(2, 'fusion', (256,), [1], called_computation_ids=[1]),
  )  # fmt: skip
  assert counted(fused, entry) == {'reduce-scatter': (1, ROW, 3 / 4 * ROW)}


def test_a_fused_all_reduce_is_one():
  fused = computation(
    1, op(1, 'parameter'), op(2, 'all-reduce', operands=[1]),
    op(3, 'negate', operands=[2]),
  )  # fmt: skip
  nested = computation(
    2, op(1, 'parameter'),
    op(2, 'fusion', operands=[1], called_computation_ids=[1]),
  )  # fmt: skip
  entry = computation(
    3, op(1, 'parameter'),
    op(2, 'fusion', operands=[1], called_computation_ids=[2]),
  )  # fmt: skip
  assert counted(fused, nested, entry) == {'all-reduce': (1, ROW, 1.5 * ROW)}


def test_a_chain_of_fusions_is_one_operation():
  """It starts, runs beside a product in a loop, and ends."""

  def part(number, *more):
    return computation(
      number, op(1, 'parameter'),
      op(2, 'all-gather', (4000,), [1], backend_config=CHAIN), *more,
    )  # fmt: skip

  start = part(
    1, op(3, 'custom-call', custom_call_target='AsyncCollectiveStart')
  )
  beside = part(2, op(3, 'convolution'))
  done = part(3, op(3, 'custom-call', custom_call_target='AsyncCollectiveDone'))
  entry = computation(4, op(1, 'parameter'), *(
    op(number + 1, 'fusion', operands=[number], called_computation_ids=[number])
    for number in (1, 2, 3)
  ))  # fmt: skip
  assert counted(start, beside, done, entry) == {
    'all-gather': (1, ROW, 3 * ROW)
  }


@pytest.mark.parametrize('recorded', [True, False])
def test_a_loop_repeats_its_collectives(recorded):
  """libtpu does not record how often: its condition shows it."""
  body = computation(1, op(1, 'parameter'), op(2, 'all-reduce', operands=[1]))
  limit = op(2, 'constant', ())
  limit.literal.s32s.append(5)
  condition = computation(
    2, op(1, 'parameter', ()), limit,
    op(3, 'compare', (), [1, 2], comparison_direction='LT'),
  )  # fmt: skip
  loop = op(2, 'while', operands=[1], called_computation_ids=[1, 2])
  if recorded:
    loop.backend_config = b'{"known_trip_count":{"n":"7"}}'
  entry = computation(
    3, op(1, 'parameter'), loop,
    # Called computations, too.
    op(3, 'call', operands=[1], called_computation_ids=[1]),
  )  # fmt: skip
  times = (7 if recorded else 5) + 1
  assert counted(body, condition, entry) == {
    'all-reduce': (times, times * ROW, times * 1.5 * ROW)
  }


def topology(num_devices=4, num_hosts=1, clock_hz=1e9):
  device = types.SimpleNamespace(platform='tpu', device_kind='a chip')
  return topologies.Topology(
    'a', [device] * num_devices, num_hosts, memory_bytes=16 * GIB,
    clock_hz=clock_hz, link_bandwidth=1e9,
  )  # fmt: skip


def step(milliseconds, batch_size=1000, gibibytes=1):
  """Returns a step that computes for 5 ms less, and sends for 5 ms."""
  needs = executables.Memory(0, 0, 0, 0, 0)
  return compilation.Step(
    batch_size, 1.0, needs, gibibytes * GIB,
    cycles={'conv1': round((milliseconds - 5) * 1e6)},
    collectives={
      'all-reduce': collectives.Collective(2, 2_000_000, 3_000_000),
      'all-gather': collectives.Collective(1, 1_000_000, 2_000_000),
    },
  )  # fmt: skip


def test_the_estimate_has_the_time_on_the_wire():
  facts = report.facts(step(20), topology(num_hosts=2))
  assert facts['collective_bytes'] == 3_000_000
  assert facts['collective_bytes_sent'] == 5_000_000
  assert facts['collectives']['all-gather'] == {
    'operations': 1, 'bytes': 1_000_000, 'bytes_sent': 2_000_000,
  }  # fmt: skip
  assert facts['collective_floor_seconds'] == pytest.approx(0.005)
  estimate = facts['estimate']
  assert estimate['compute_seconds'] == pytest.approx(0.015)
  assert estimate['step_seconds'] == pytest.approx(0.020)
  assert estimate['images_per_second'] == pytest.approx(50_000)
  assert estimate['images_per_second_per_chip'] == pytest.approx(12_500)
  assert estimate['images_per_second_per_host'] == pytest.approx(25_000)


def test_hours():
  config = imagenet.get_config()
  config.batch_size = 1000
  facts = report.facts(step(20), topology())
  report.add_hours(facts, config, 1_281_167, topology())
  # 90 epochs of 1281 steps of 20 ms.
  assert facts['estimate']['hours'] == pytest.approx(90 * 1281 * 0.02 / 3600)
  assert (facts['estimate']['steps'], facts['estimate']['epochs']) == (
    90 * 1281, 90,
  )  # fmt: skip
  # A host that feeds a tenth takes ten times as long.
  no_form = types.SimpleNamespace(resized={'source': 'a'})
  given = report.verdict(5000, facts, topology(), no_form)
  assert given['hosts_needed'] == 10
  assert given['hours'] == pytest.approx(10 * facts['estimate']['hours'])
  assert report.input_found(given) == (
    'input-bound: needs 10 hosts like this one; this host feeds 5,000 images/s,'
    ' and each host must feed 50,000'
  )
  assert 'hours' not in report.verdict(60_000, facts, topology(), no_form)
  config.num_train_steps = 500
  report.add_hours(facts, config, 1_281_167, topology())
  assert facts['estimate']['hours'] == pytest.approx(500 * 0.02 / 3600)
  measured = {'measured_images_per_second_per_device': 100}
  report.add_hours(measured, config, 1_281_167, topology())
  assert measured['measured_hours'] == pytest.approx(500 * 1000 / 400 / 3600)


@pytest.fixture
def config():
  """Returns a config with the fields that are compared."""
  config = imagenet.get_config()
  with config.unlocked():
    config.parallelism = 'data'
    config.optimizer.reduce_dtype = 'float32'
  config.batch_size = 1000
  return config


def compared(monkeypatch, config, steps, **more):
  """Compares stubs of compiled steps, by name; an error is raised."""
  compiled = []

  class Stub:
    def __init__(self, config, of_topology):
      self._name = config.parallelism
      if config.optimizer.reduce_dtype == 'bfloat16':
        self._name += '_bfloat16'

    def train(self, batch_size):
      assert batch_size == 1000
      compiled.append(self._name)
      if isinstance(steps[self._name], UserError):
        raise steps[self._name]
      return steps[self._name]

  monkeypatch.setattr(compilation, 'Steps', Stub)
  monkeypatch.setattr(compare.values, 'validate', lambda config: None)
  result = compare.compare(config, topology(), 1_281_167, **more)
  return result, compiled


@pytest.mark.parametrize(
  ('milliseconds', 'best', 'words'),
  [
    ((20, 15, 18), 'hybrid', 'fastest .* 16.7% shorter than .* data_bfloat16'),
    ((20, 25, 18), 'data_bfloat16', 'fastest .* 10.0% shorter than that of da'),
    ((20, 25, 21), 'data', 'fastest .* 4.8% shorter'),
    ((20, 19.5, 20), 'data', 'simpler than hybrid.* 2.6% longer'),
  ],
)
def test_the_fastest_is_recommended(
  monkeypatch, config, milliseconds, best, words
):
  names = ('data', 'hybrid', 'data_bfloat16')
  steps = dict(zip(names, map(step, milliseconds), strict=True))
  result, compiled = compared(monkeypatch, config, steps)
  assert compiled == [*names]
  assert result['recommended'] == best
  assert re.search(words, result['reason']), result['reason']
  for name, expected in zip(names, milliseconds, strict=True):
    estimate = result['compare'][name]['estimate']
    assert estimate['step_seconds'] == pytest.approx(expected / 1e3)
    assert estimate['hours'] > 0
  # The config itself has not changed.
  assert (config.parallelism, config.optimizer.reduce_dtype) == (
    'data', 'float32',
  )  # fmt: skip


def test_what_does_not_fit_or_cannot_be(monkeypatch, config):
  steps = {
    'data': step(20),
    'hybrid': UserError('3 devices do not divide fc6'),
    'data_bfloat16': step(10, gibibytes=17),
  }
  result, _ = compared(monkeypatch, config, steps)
  assert result['recommended'] == 'data'
  assert result['reason'] == 'no other is possible and fits into memory'
  assert result['compare']['hybrid'] == {'error': '3 devices do not divide fc6'}
  text = '\n'.join(report.lines(
    result | {'topology': 'a', 'num_devices': 4, 'device_kind': 'a chip',
              'num_hosts': 1, 'checks': []},
    topology(),
  ))  # fmt: skip
  assert 'hybrid is not possible: 3 devices do not divide fc6' in text
  assert '17.00 GiB, FULL' in text
  assert 'recommended: data: no other is possible' in text
  assert [
    line.split() for line in text.splitlines() if 'all-gather' in line
  ] == [['all-gather', '2.0', 'MB', '-', '2.0', 'MB']]


def test_the_step_that_is_compiled_already(monkeypatch, config):
  """A config that reduces in bfloat16 has no third form."""
  config.parallelism = 'hybrid'
  config.optimizer.reduce_dtype = 'bfloat16'
  result, compiled = compared(
    monkeypatch, config, {'data_bfloat16': step(20)}, compiled=step(10)
  )
  assert compiled == ['data_bfloat16']
  assert [*result['compare']] == ['data', 'hybrid']
  assert result['recommended'] == 'hybrid'


def test_a_column_without_estimates():
  columns = {'data': {'fits': True}, 'hybrid': {'fits': True}}
  assert compare.recommended(columns)[0] is None
  assert compare.recommended({'data': {'fits': False}})[0] is None
