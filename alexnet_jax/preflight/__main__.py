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

from alexnet_jax.cli import command
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config.loading import Config, parse_flags
from alexnet_jax.preflight import checks as checks_lib
from alexnet_jax.preflight import compilation, report, topologies
from alexnet_jax.preflight.topologies import GIB, Topology
from alexnet_jax.runs.scoring import num_images

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
    print('\n'.join(report.lines(result, topology)), flush=True)
  if not all(row['ok'] for row in result['checks']):
    sys.exit(2)


# What is wrong with the config, where it does not even load: a failed check.
_config_error: UserError | None = None


def preflight(config: Config | UserError, topology: Topology) -> dict[str, Any]:
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
    **report.NOTHING_KNOWN,
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
    dataset, steps_per_epoch = checks_lib.check_data(checks, config)
    path = config_flags.get_config_filename(flags.FLAGS['config'])
    workdir = _WORKDIR.value or f'runs/{pathlib.Path(path).stem}'
    checks_lib.check_workdir(
      checks,
      config,
      absolute(workdir),
      steps_per_epoch,
      steps.checkpoint_bytes,
    )
  checks_lib.check_batch(checks, config, len(topology.devices))
  if not checks.rows[-1].ok:
    return
  n = len(topology.devices)
  crops = config.eval.crops
  eval_size = num_images(config.eval.batch_size, crops, n)
  eval_field = 'eval.batch_size'
  if crops > 1:
    eval_field += f', which counts {crops} views of each'
  train = None
  with checks.failing('training step'):
    train = _compiled(
      'training',
      steps.train,
      config.batch_size,
      'batch_size',
      topology,
      checks,
    )
    result |= report.facts(train, topology)
    result |= {'network': config.model.name, 'dtype': config.model.dtype}
  with checks.failing('evaluation step'):
    evaluation = _compiled(
      'evaluation', steps.evaluate, eval_size, eval_field, topology, checks
    )
    result['eval'] = report.facts(evaluation, topology)
  if _COMPILE_ONLY.value:
    return
  if topology.present and train and train.fits(topology):
    _say('running the training step ...')
    with checks.failing('running the step'):
      result['measured_images_per_second_per_device'] = (
        steps.measure(train.compiled, config.batch_size) / n
      )
  if dataset and config.data.on_error == 'stop':
    _say('measuring the input ...')
    with checks.row('input') as found:
      rate = checks_lib.input_rate(config, dataset, steps, topology.num_hosts)
      found.append(f'{rate:,.0f} images/s on this host')
      result['input'] = report.verdict(rate, result, topology, dataset)


def _compiled(what, compile_at, batch_size, field, topology, checks):
  """A step, and a row that says whether it fits."""
  _say(f'compiling the {what} step for {topology.name} ...')
  step = compile_at(batch_size)
  _say(f'  compiled in {step.seconds:.0f} s')
  there = topology.memory_bytes
  needs = f'{step.needed_bytes / GIB:.2f} GiB'
  if there:
    needs += f' of {there / GIB:.2f} GiB a device'
  else:
    there = step.needed_bytes  # It is not known.
  if step.fits(topology):
    checks.add(f'{what} memory', True, f'batch {batch_size}: {needs}')
    return step
  _say(f'  it does not fit ({needs}): looking for the largest that does ...')
  fits, fits_not = 0, step.batch_size
  if topology.memory_bytes:
    fits, fits_not = compilation.largest_that_fits(compile_at, step, topology)
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


def _parse(argv: list[str]) -> list[str]:
  """Flags; a config that does not load is a check that fails."""
  global _config_error
  try:
    return parse_flags(argv)
  except UserError as error:
    rest = [a for a in argv if not a.lstrip('-').startswith('config')]
    if len(rest) == len(argv):
      raise
    _config_error = error
  return parse_flags(rest)


def run() -> None:
  """`main` with its flags parsed."""
  app.run(main, flags_parser=_parse)


if __name__ == '__main__':
  command.run(run)
