"""Looks for what would go wrong before a machine is rented for a run.

  python -m alexnet_jax.preflight --config=configs/imagenet.py \
    --topology=v5e:4x4 [--workdir=DIR] [--json] [--compile_only] [--hosts=N]

Compiles the run's own training and evaluation steps, as they are, for devices
that need not be there: slices of TPU v4, v5e, v5p and v6e (by libtpu), H100 and
A100 GPUs (by JAX's CUDA plugin); 'local' are those of this machine. It tells
how much memory they need, the compiler's estimate of the time, what passes
between the devices, and whether this host's input keeps up.

Exit status: 0 all is well; 2 a check failed, or a usage error.
"""

import dataclasses
import json
import math
import os
import pathlib
import sys
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# libtpu and its like talk on stderr of what concerns nobody here.
os.environ.setdefault('TPU_MIN_LOG_LEVEL', '4')
os.environ.setdefault('TPU_STDERR_LOG_LEVEL', '4')

from absl import app, flags
from ml_collections import config_flags

from alexnet_jax import command
from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from alexnet_jax.preflight import checks as checks_lib
from alexnet_jax.preflight import compilation, topologies
from alexnet_jax.preflight.topologies import GIB, Topology

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, such as configs/imagenet.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run, local or gs://; default runs/CONFIG.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, f'Devices to compile for: {topologies.KNOWN}.'
)
_HOSTS = flags.DEFINE_integer(
  'hosts', None, 'Hosts that the run will have, to compare with the topology.'
)
_JSON = flags.DEFINE_bool('json', False, 'One JSON object in place of tables.')
_COMPILE_ONLY = flags.DEFINE_bool(
  'compile_only', False, 'Compile, and leave all other checks out.'
)


def main(argv: list[str]) -> None:
  """Checks as the flags say."""
  del argv  # Parsed already.
  if _TOPOLOGY.value is None:
    raise UserError(f'no topology: give --topology, {topologies.KNOWN}')
  config = _config_error or _CONFIG.value
  if config is None:
    raise UserError('no config: give --config=configs/imagenet.py or another')
  topology = topologies.find(_TOPOLOGY.value, _HOSTS.value)
  result = preflight(config, topology)
  if _JSON.value:
    print(json.dumps(result), flush=True)
  else:
    print('\n'.join(report(result, topology)), flush=True)
  if not all(row['ok'] for row in result['checks']):
    sys.exit(2)


# What is wrong with the config, where it does not even load: a failed check.
_config_error: UserError | None = None


def preflight(
  config: config_lib.Config | UserError, topology: Topology
) -> dict[str, Any]:
  """All that `--json` prints.

  Args:
    config: of the run, or what is wrong with it.
    topology: what it is to run on.
  """
  checks = checks_lib.Checks()
  result: dict[str, Any] = {
    'topology': topology.name,
    'device_kind': topology.device_kind,
    'num_devices': len(topology.devices),
    'num_hosts': topology.num_hosts,
    'hbm_bytes': topology.memory_bytes,
  }
  if isinstance(config, UserError):
    checks.add('config', False, str(config))
  else:
    checks_lib.check_config(checks, config)
  if checks.ok:
    assert not isinstance(config, UserError)
    _check_run(config, topology, checks, result)
  result['checks'] = [dataclasses.asdict(row) for row in checks.rows]
  return result


def _check_run(config, topology, checks, result) -> None:
  """What can be checked of a config whose values are right."""
  steps = compilation.Steps(config, topology)
  dataset = None
  if not _COMPILE_ONLY.value:
    dataset = checks_lib.check_data(checks, config)
    path = config_flags.get_config_filename(flags.FLAGS['config'])
    workdir = _WORKDIR.value or f'runs/{pathlib.Path(path).stem}'
    checks_lib.check_workdir(
      checks,
      config,
      config_lib.absolute(workdir),
      dataset,
      steps.checkpoint_bytes,
    )
  checks_lib.check_batch(checks, config, len(topology.devices))
  if not checks.rows[-1].ok:
    return
  train = _compiled(
    'training', steps.train, config.batch_size, topology, checks
  )
  n = len(topology.devices)
  eval_size = config.eval.batch_size + -config.eval.batch_size % n
  evaluation = _compiled(
    'evaluation', steps.evaluate, eval_size, topology, checks
  )
  result |= _facts(train, topology)
  result |= {
    'network': config.model.name,
    'dtype': config.model.dtype,
    'eval': _facts(evaluation, topology),
  }
  if topology.present and train.compiled and not _COMPILE_ONLY.value:
    _say('running the training step ...')
    result['measured_images_per_second_per_device'] = (
      steps.measure(train.compiled, config.batch_size) / n
    )
  if dataset:
    _say('measuring the input ...')
    rate = checks_lib.input_rate(
      config, dataset, steps.preprocessing, topology.num_hosts
    )
    result['input'] = _verdict(rate, result, topology, dataset)


def _compiled(what, compile_at, batch_size, topology, checks):
  """A step, and a row that says whether it fits."""
  _say(f'compiling the {what} step for {topology.name} ...')
  step = compile_at(batch_size)
  _say(f'  compiled in {step.seconds:.0f} s')
  there = topology.memory_bytes
  needs = f'{step.needed_bytes / GIB:.2f} GiB'
  if there:
    needs += f' of {there / GIB:.2f} GiB a device'
  if step.fits(topology):
    checks.add(f'{what} memory', True, f'batch {batch_size}: {needs}')
    return step
  _say(f'  it does not fit ({needs}): looking for the largest that does ...')
  fits, fits_not = compilation.largest_that_fits(compile_at, step, topology)
  field = 'batch_size' if what == 'training' else 'eval.batch_size'
  largest = (
    f'{fits} fits, {fits_not} does not' if fits else 'no batch was found to fit'
  )
  checks.add(
    f'{what} memory',
    False,
    f'batch {batch_size} needs {needs}, '
    f'{(step.needed_bytes - there) / GIB:.2f} GiB too much: {largest} '
    f'({field}); model.dtype=bfloat16 and more devices need less on each',
  )
  return dataclasses.replace(step, largest_that_fits=fits)


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _facts(step: compilation.Step, topology: Topology) -> dict[str, Any]:
  """What is known of a step, for JSON."""
  n = len(topology.devices)
  facts: dict[str, Any] = {
    'batch_size': step.batch_size,
    'compile_seconds': round(step.seconds, 1),
    'hbm_needed_bytes': step.needed_bytes,
    'hbm': step.memory and step.memory._asdict(),
    'largest_batch_size': step.largest_that_fits,
    'flops_per_image': step.flops and step.flops * n / step.batch_size,
    'collective_bytes': step.collective_bytes,
  }
  if step.kernels and topology.bandwidth:
    facts['kernels'] = step.kernels._asdict()
    facts['floor_seconds'] = step.kernels.bytes_moved / topology.bandwidth
  total = sum(step.cycles.values())
  facts['estimated_cycles'] = total or None
  facts['layers'] = {
    name: {'cycles': cycles, 'share': cycles / total}
    for name, cycles in step.cycles.items()
  }
  if total and topology.clock_hz:
    seconds = total / topology.clock_hz
    facts['estimate'] = {
      'clock_hz': topology.clock_hz,
      'step_seconds': seconds,
      'images_per_second_per_chip': step.batch_size / n / seconds,
      'without_estimate': step.without_estimate,
    }
  if topology.link_bandwidth:
    # Of each device, in a ring: (n - 1) / n of all bytes, twice.
    passed = 2 * (n - 1) / n * step.collective_bytes
    facts['collective_floor_seconds'] = passed / topology.link_bandwidth
  return facts


def _verdict(rate, result, topology, dataset) -> dict[str, Any]:
  """Whether the input keeps up with the devices of a host."""
  facts: dict[str, Any] = {
    'images_per_second_of_this_host': rate,
    'cores': os.cpu_count(),
  }
  wanted = result.get('measured_images_per_second_per_device') or result.get(
    'estimate', {}
  ).get('images_per_second_per_chip')
  if wanted is None:
    return facts
  total = wanted * len(topology.devices)
  facts['images_per_second_wanted'] = total
  if rate * topology.num_hosts >= total:
    facts['verdict'] = 'compute-bound'
    return facts
  hosts = math.ceil(total / rate) if rate else None
  facts['hosts_needed'] = hosts
  other = '' if dataset.resized else ' or the 256 set (docs/input.md)'
  facts['verdict'] = f'input-bound: needs {hosts} hosts like this one{other}'
  return facts


def report(result: dict[str, Any], topology: Topology) -> list[str]:
  """The lines for people."""
  lines = [
    f'{result["topology"]}: {result["num_devices"]} x {result["device_kind"]}, '
    f'{result["num_hosts"]} host(s)'
  ]
  if 'batch_size' in result:
    lines += _step_lines('training step', result, topology)
    lines += _step_lines('evaluation step', result['eval'], topology)
  if measured := result.get('measured_images_per_second_per_device'):
    lines += ['', f'measured here: {measured:,.1f} images/s a device']
  if 'input' in result:
    given = result['input']
    rate = given['images_per_second_of_this_host']
    lines += [
      '',
      f'this host ({given["cores"]} cores) feeds {rate:,.0f} images/s',
    ]
    if 'verdict' in given:
      lines[-1] += (
        f', the devices would take {given["images_per_second_wanted"]:,.0f}'
      )
      lines.append(given['verdict'])
  lines += ['', 'checks']
  for row in result['checks']:
    mark = 'ok    ' if row['ok'] else 'FAILED'
    lines.append(f'  {mark}  {row["name"]:<18}{row["found"]}')
  return lines


def _step_lines(title, facts, topology) -> list[str]:
  lines = ['', f'{title}, batch {facts["batch_size"]}']

  def line(name, value):
    lines.append(f'  {name:<22}{value}')

  memory = f'{facts["hbm_needed_bytes"] / GIB:.2f} GiB needed'
  if topology.memory_bytes:
    memory += f', {topology.memory_bytes / GIB:.2f} GiB there'
  line('memory a device', memory)
  if facts['flops_per_image']:
    line('FLOP an image', f'{facts["flops_per_image"] / 1e9:.2f} G')
  collective = f'{facts["collective_bytes"] / 1e6:,.1f} MB a step'
  if facts.get('collective_floor_seconds'):
    milliseconds = facts['collective_floor_seconds'] * 1e3
    collective += f', at least {milliseconds:.2f} ms on the wire'
  line('collectives', collective)
  if 'kernels' in facts:
    kernels = facts['kernels']
    line('kernels', f'{kernels["launched"]} launched')
    for kind, number in kernels['by_kind'].items():
      lines.append(f'    {number:>6}  {kind}')
    line(
      'bytes moved',
      f'{kernels["bytes_moved"] / 1e9:.2f} GB, at the published bandwidth '
      f'{facts["floor_seconds"] * 1e3:.2f} ms: a floor, not a time',
    )
  if 'estimate' in facts:
    estimate = facts['estimate']
    line(
      'ESTIMATE, not measured',
      f'{facts["estimated_cycles"] / 1e6:.1f} M cycles, '
      f'{estimate["step_seconds"] * 1e3:.2f} ms, '
      f'{estimate["images_per_second_per_chip"]:,.0f} images/s a chip',
    )
    if estimate['without_estimate']:
      line('  not in it', ', '.join(estimate['without_estimate']))
    width = 30 / max(part['share'] for part in facts['layers'].values())
    for name, part in facts['layers'].items():
      bar = '#' * round(part['share'] * width)
      lines.append(
        f'    {name:<12}{part["cycles"] / 1e6:>8.2f} M{part["share"]:>7.1%}  '
        f'{bar}'
      )
  return lines


def _parse(argv: list[str]) -> list[str]:
  """Flags; a config that does not load is a check that fails."""
  global _config_error
  try:
    return config_lib.parse_flags(argv)
  except UserError as error:
    rest = [a for a in argv if not a.lstrip('-').startswith('config')]
    if len(rest) == len(argv):
      raise
    _config_error = error
  return config_lib.parse_flags(rest)


def run() -> None:
  """`main` with its flags parsed."""
  app.run(main, flags_parser=_parse)


if __name__ == '__main__':
  command.run(run)
