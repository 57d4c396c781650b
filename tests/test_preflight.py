"""Preflight without libtpu (tests/tpu_compile.py tests it with libtpu)."""

import dataclasses
import json
import types

import narrow
import numpy as np
import pytest
import zygote
from etils import epath
from tensorflow.compiler.xla.service import hlo_pb2

from alexnet_jax.cli.errors import UserError
from alexnet_jax.model import ARCHITECTURES
from alexnet_jax.preflight import (
  checks,
  collectives,
  compilation,
  executables,
  fitting,
  report,
  topologies,
)
from configs import default, digits

GIB = 2**30


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('v9:2x2', 'unknown topology .* known: v5e:1x1'),
    ('v5e', 'unknown topology'),
    ('v5e:3x3', 'v5e has 1x1, 2x2'),
    ('v4:2x2', 'v4 has 2x2x1, .* multiples of four'),
    ('v4:8x4x4', 'from small to large'),
    ('v4:16x16x32', 'at most 4096'),
    ('h100:2x2', 'unknown topology'),
    ('h100:0', '1 to 8 GPUs'),
    ('h100:12', 'multiple of 8'),
  ],
)
def test_an_unknown_topology_lists_the_known_ones(name, words):
  with pytest.raises(UserError, match=words):
    topologies.find(name)


@pytest.mark.parametrize(
  ('name', 'extra'), [('v5e:2x2', 'jax[tpu]'), ('h100:4', 'jax[cuda12]')]
)
def test_a_missing_package_is_named(monkeypatch, name, extra):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError) as error:
    topologies.find(name)
  assert f"pip install '{extra}'" in str(error.value)
  assert 'make venv EXTRAS=' in str(error.value)


def test_hosts_that_do_not_match():
  assert len(topologies.find('local', 1).devices) == 8
  with pytest.raises(UserError, match=r'local has 1 host\(s\) of 8 devices'):
    topologies.find('local', 2)


def test_out_of_memory_is_read_from_the_compilers_message():
  for text, expected in (
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (18.50G) exceeds available HBM (15.75G).',
      (18.5 * GIB, 15.75 * GIB),
    ),
    (
      'RESOURCE_EXHAUSTED: Used 512.0M of 0.25G hbm.',
      (0.5 * GIB, 0.25 * GIB),
    ),
    ('INTERNAL: Used 2.0G of 1.0G hbm', None),
  ):
    assert topologies.out_of_memory(RuntimeError(text)) == expected


def device_topology(memory_bytes, num_devices=4):
  device = types.SimpleNamespace(platform='tpu', device_kind='a chip')
  return topologies.Topology(
    'a', [device] * num_devices, 1, memory_bytes=memory_bytes
  )


@pytest.mark.parametrize('fixed', [0, 3 * GIB, 14 * GIB, 20 * GIB])
@pytest.mark.parametrize('each', [1 << 20, 37 << 20])
@pytest.mark.parametrize('bent', [1.0, 0.7])
def test_the_largest_batch_that_fits(fixed, each, bent):
  """Memory may grow less than linearly."""
  topology = device_topology(16 * GIB)

  def compile_at(batch_size):
    tried.append(batch_size)
    needed = int(fixed + each * (batch_size // 4) ** bent)
    needed = round(needed / GIB, 2) * GIB  # As libtpu prints it.
    memory = executables.Memory(0, 0, 0, 0, needed)
    return compilation.Step(batch_size, 1.0, memory, needed)

  tried = []
  over = compile_at(1 << 21)
  if over.fits(topology):
    over = compile_at(1 << 30)
  low, high = fitting.largest_that_fits(compile_at, over, topology)
  assert low % 4 == high % 4 == 0
  assert low < high
  assert not low or compile_at(low).fits(topology)
  assert not compile_at(high).fits(topology)
  assert fixed < 16 * GIB or not low
  assert high - low <= max(4, low / 8)
  assert len(tried) <= 14  # Each takes a minute; four are this test's.


def test_the_largest_batch_in_equal_parts():
  """Four devices, three parts of each device's images."""
  topology = device_topology(16 * GIB)

  def compile_at(batch_size):
    assert batch_size % 12 == 0
    needed = batch_size << 20
    memory = executables.Memory(0, 0, 0, 0, needed)
    return compilation.Step(batch_size, 1.0, memory, needed)

  over = compile_at(12 << 15)
  low, high = fitting.largest_that_fits(compile_at, over, topology, 3)
  assert low <= 16 << 10 < high
  assert high - low <= low / 8


def test_an_evaluation_step_that_does_not_compile():
  topology = device_topology(16 * GIB)
  evaluation = compilation.Step(256, 1.0, None, 17 * GIB)
  memory = executables.Memory(0, 0, 0, 0, GIB)
  train = compilation.Step(128, 1.0, memory, GIB, collectives={})
  result = report.facts(train, topology)
  result |= {'eval': report.facts(evaluation, topology), 'checks': []}
  result |= {'topology': 'a', 'num_devices': 4, 'device_kind': 'a chip'}
  text = '\n'.join(report.lines({**result, 'num_hosts': 1}, topology))
  assert '17.00 GiB needed' in text


def test_flops_do_not_depend_on_the_parts_of_a_batch():
  config = narrow.get_config()
  local = topologies.find('local')
  config.batch_size = 8 * len(local.devices)
  flops = []
  for config.grad_accumulation in (1, 4):
    steps = compilation.Steps(config, local)
    parts_of = compilation.Steps._train_parts
    flops.append(steps._flops(parts_of, config.batch_size))
  assert flops[0] == flops[1]


def instruction(name, opcode, dimensions=(), scope='', cycles=None, **more):
  i = hlo_pb2.HloInstructionProto(name=name, opcode=opcode, **more)
  i.shape.element_type = 11  # F32
  i.shape.dimensions.extend(dimensions)
  i.metadata.op_name = f'jit(f)/transpose(jvp(AlexNet))/AlexNet._layers/{scope}'
  if cycles is not None:
    config = {'window_config': {'estimated_cycles': str(cycles)}}
    i.backend_config = json.dumps(config).encode()
  return i


def test_a_config_that_is_not_json_counts_as_none():
  call = instruction('t', 'custom-call', custom_call_target='TopK', id=1)
  call.backend_config = b'{is_stable = true, order = "TOTAL"}'
  entry = hlo_pb2.HloComputationProto(id=1, instructions=[call])
  module = hlo_pb2.HloModuleProto(entry_computation_id=1, computations=[entry])
  assert executables.Program(module).cycles(()) == ({}, [])


def test_cycles_belong_to_the_layers_in_a_fusion():
  product = hlo_pb2.HloComputationProto(
    id=1,
    instructions=[
      instruction('c', 'convolution', (10, 10), 'conv1/cond/conv', id=1),
      instruction('m', 'multiply', (1000, 10), 'lrn1/AlexNet._apply/mul', id=2),
    ],
  )
  elementwise = hlo_pb2.HloComputationProto(
    id=2,
    instructions=[
      instruction('m', 'multiply', (30, 10), 'lrn1/AlexNet._apply/mul', id=1),
      instruction('r', 'reduce', (10, 10), 'conv1/reduce_sum', id=2),
    ],
  )
  entry = hlo_pb2.HloComputationProto(
    id=3,
    instructions=[
      instruction('a', 'fusion', (1,), 'lrn1/mul', 600, id=1,
                  called_computation_ids=[1]),
      instruction('b', 'fusion', (1,), 'conv1/x', 400, id=2,
                  called_computation_ids=[2]),
      # A copy has no name: it belongs to what it copies.
      instruction('d', 'copy', (1,), '', 7, id=3, operand_ids=[2]),
      instruction('p', 'parameter', (100, 10), '', id=4),
      instruction('e', 'all-reduce', (100, 10), 'all_reduce/psum', id=5,
                  operand_ids=[4]),
      instruction('s', 'select-and-scatter', (9,), 'pool1/x', id=6),
      # Parameters have no part: it belongs to what reads it.
      instruction('f', 'convert', (1,), '', 20, id=7, operand_ids=[4]),
      instruction('g', 'bitcast', (1,), '', id=8, operand_ids=[7]),
      instruction('h', 'multiply', (1,), 'lrn1/mul', 3, id=9, operand_ids=[8]),
      instruction('o', 'iota', (1,), '', 5, id=10),
    ],
  )  # fmt: skip
  program = executables.Program(
    hlo_pb2.HloModuleProto(
      entry_computation_id=3, computations=[product, elementwise, entry]
    )
  )
  scopes = ('conv1', 'lrn1', 'pool1', 'all_reduce')
  cycles, without = program.cycles(scopes)
  assert cycles == {'conv1': 707, 'lrn1': 323, 'other': 5}
  assert without == ['select-and-scatter (pool1)']
  # The parameter is not executed.
  assert program.shares(scopes) == {
    'a': {'conv1': 1, 'lrn1': 0},
    'b': {'conv1': 0.25, 'lrn1': 0.75},
    'd': {'conv1': 1},
    'e': {'all_reduce': 1},
    's': {'pool1': 1},
    'f': {'lrn1': 1},
    'h': {'lrn1': 1},
    'o': {'other': 1},
  }
  assert collectives.collectives(program, 2) == {'all-reduce': (1, 4000, 4000)}
  kernels = program.kernels()
  assert kernels.launched == 8
  assert kernels.by_kind['fusion'] == 2


def test_parts_of_the_step_have_names():
  assert ARCHITECTURES['paper'].scope_names == (
    'conv1', 'lrn1', 'pool1', 'conv2', 'lrn2', 'pool2', 'conv3', 'conv4',
    'conv5', 'pool5', 'fc6', 'dropout6', 'fc7', 'dropout7', 'fc8',
  )  # fmt: skip
  config = digits.get_config()
  config.batch_size = 8
  steps = compilation.Steps(config, topologies.find('local'))
  assert 'lrn1' in steps._scopes
  assert 'optimizer' in steps._scopes
  # A state of 20 M parameters, their velocity, and scalars.
  assert steps.checkpoint_bytes == pytest.approx(2 * 4 * 20_209_034, rel=1e-4)


@pytest.mark.parametrize('finish', ['host', 'device'])
def test_batches_are_like_those_of_training(tiny_dir, finish):
  """Shapes and dtypes must match, or the compiled step is another one."""
  from alexnet_jax.data import input_pipeline
  from alexnet_jax.data.dataset import open_dataset

  config = default.get_config()
  config.data.finish = finish
  config.data.mean_crop = 'same'
  steps = compilation.Steps(config, topologies.find('local'))
  dataset = open_dataset('tiny:1.0.0', str(tiny_dir))
  of_training = next(
    input_pipeline.train_batches(
      dataset,
      'train',
      steps.preprocessing,
      batch_size=16,
      seed=0,
      epoch=0,
      finish=finish,
    )
  )
  of_evaluation = next(
    input_pipeline.eval_batches(
      dataset, 'validation', steps.preprocessing, batch_size=16, finish=finish
    )
  )
  for real, like in (
    (of_training, steps.train_batch(16)),
    (of_evaluation, steps.eval_batch(16)),
  ):
    assert {k: (x.shape, x.dtype) for k, x in real.items()} == {
      k: ((x.shape[0] * x.shape[1], *x.shape[2:]), np.dtype(x.dtype))
      for k, x in like.items()
    }


def rows(found):
  return {row.name: row for row in found.rows}


def test_a_missing_dataset_is_a_row_with_its_fix(tmp_path):
  config = default.get_config()
  config.data.data_dir = str(tmp_path)
  found = checks.Checks()
  assert checks.check_data(found, config) == (None, None)
  assert not found.ok
  assert 'data.prepare imagenet2012' in rows(found)['data'].found


def test_a_truncated_file_is_found(tiny_dir, tmp_path):
  import shutil

  copy = shutil.copytree(tiny_dir, tmp_path / 'copy')
  for path in copy.rglob('*validation.tfrecord*'):
    path.write_bytes(path.read_bytes()[:100])
  config = default.get_config()
  config.data.name = 'tiny:1.0.0'
  config.data.data_dir = str(copy)
  found = checks.Checks()
  checks.check_data(found, config)
  assert not rows(found)['data'].ok
  assert 'validation' in rows(found)['data'].found


def test_invalid_workdirs(tmp_path):
  config = digits.get_config()
  (tmp_path / 'file').write_text('')
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'metrics.jsonl').symlink_to('elsewhere')
  for name, ok in (('new/run', True), ('run', False), ('file/run', False)):
    found = checks.Checks()
    checks.check_workdir(found, config, epath.Path(tmp_path / name), None, 1000)
    assert rows(found)['workdir'].ok is ok, name
  # Nothing was created.
  assert not (tmp_path / 'new').exists()
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'run']


def test_room_for_checkpoints(tmp_path):
  config = digits.get_config()
  for size, ok in ((1000, True), (1 << 60, False)):
    found = checks.Checks()
    checks.check_workdir(found, config, epath.Path(tmp_path), None, size)
    assert rows(found)['disk space'].ok is ok


def test_a_batch_that_the_devices_do_not_divide():
  config = digits.get_config()
  config.batch_size = 30
  found = checks.Checks()
  checks.check_batch(found, config, 4)
  assert found.rows == [
    checks.Check(
      'batch',
      False,
      'batch_size 30 is not divisible by the 4 devices: use 28 or 32',
    )
  ]


def preflight(*arguments, status=0, devices=2):
  done = zygote.start(
    *arguments, module='alexnet_jax.preflight', devices=devices
  )
  assert done.wait() == status, done.output
  return done


@pytest.mark.long
def test_the_devices_present(tmp_path):
  done = preflight(
    '--config=tests/narrow.py',
    '--topology=local',
    f'--workdir={tmp_path / "run"}',
    '--json',
  )
  result = json.loads(done.stdout)
  assert result['num_devices'] == 2
  assert [row['name'] for row in result['checks']] == [
    'config', 'data', 'training', 'workdir', 'disk space', 'batch',
    'training memory', 'evaluation memory', 'input',
  ]  # fmt: skip
  assert all(row['ok'] for row in result['checks'])
  # Two devices each send half of a divided kernel and half of its gradient, and
  # as many bytes of the other gradients as there are; and a few sums.
  assert result['collective_bytes_sent'] == pytest.approx(4 * 62_458, rel=1e-3)
  kinds = result['collectives']
  assert kinds.keys() == {'all-reduce', 'all-gather', 'reduce-scatter'}
  gathered = kinds['all-gather']['bytes_sent']
  assert gathered == kinds['reduce-scatter']['bytes_sent'] == 4 * 21_760 / 2
  assert result['hbm_needed_bytes'] < result['hbm_bytes']
  assert result['flops_per_image'] > 1e6
  assert result['measured_images_per_second_per_device'] > 0
  assert result['input']['images_per_second_of_this_host'] > 0
  assert result['input']['images_per_second_wanted'] == pytest.approx(
    2 * result['measured_images_per_second_per_device']
  )
  assert result['measured_hours'] > 0
  # A host that is too slow for its devices is no failure.
  assert result['checks'][-1]['slow'] is ('hosts_needed' in result['input'])
  assert not (tmp_path / 'run').exists()


def test_a_config_that_does_not_load_is_a_row(tmp_path):
  for arguments, words in (
    (('--config=nope.py',), 'no config file'),
    (('--config=tests/narrow.py', '--config.sed=1'), 'did you mean'),
    (('--config=tests/narrow.py', '--config.profile=9'), 'profile is'),
  ):
    done = preflight(*arguments, '--topology=local', '--json', status=2)
    (row,) = json.loads(done.stdout)['checks']
    assert (row['name'], row['ok']) == ('config', False)
    assert words in row['found']


@pytest.mark.parametrize(
  ('rate', 'num_hosts', 'resized', 'verdict'),
  [
    (1000.0, 1, None, 'compute-bound'),
    (250.0, 4, None, 'compute-bound'),
    (
      240.0,
      4,
      None,
      'input-bound: needs 5 hosts like this one or the 256 x 256 form '
      '(docs/input.md)',
    ),
    (100.0, 1, {'source': 'a'}, 'input-bound: needs 10 hosts like this one'),
  ],
)
def test_whether_the_input_keeps_up(rate, num_hosts, resized, verdict):
  """Four chips that need 250 images/s each."""
  topology = dataclasses.replace(device_topology(None), num_hosts=num_hosts)
  result = {'estimate': {'images_per_second_per_chip': 250.0}}
  dataset = types.SimpleNamespace(resized=resized)
  given = report.verdict(rate, result, topology, dataset)
  assert given['verdict'] == verdict
  assert given['images_per_second_wanted'] == 1000
  # The speed of GPUs without hardware is unknown: no verdict.
  assert 'verdict' not in report.verdict(rate, {}, topology, dataset)


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (('--config=tests/narrow.py',), 'no topology: give --topology'),
    (('--topology=local',), 'no config'),
    (('--config=tests/narrow.py', '--topology=v1:1'), 'unknown topology'),
    (('--config=tests/narrow.py', '--tpoology=local'), 'tpoology'),
  ],
)
def test_usage_errors_are_one_line(arguments, words):
  done = preflight(*arguments, status=2)
  assert words in done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
  ('config', 'name'),
  [
    ('tests/narrow.py', 'narrow'),
    ('configs/paper/base.py:digits', 'base_digits'),
  ],
)
def test_the_default_workdir_is_that_of_training(config, name):
  done = preflight(
    f'--config={config}',
    '--topology=local',
    '--json',
    '--config.batch_size=31',
    status=2,
  )
  (found,) = [row['found'] for row in json.loads(done.stdout)['checks']
              if row['name'] == 'workdir']  # fmt: skip
  assert found.split(':')[0].endswith(f'/runs/{name}')
