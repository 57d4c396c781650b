"""Runs all of preflight's checks on a config and a topology."""

import dataclasses
import sys
from typing import Any

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config.loading import Config
from alexnet_jax.preflight import checks as checks_lib
from alexnet_jax.preflight import compare, compilation, fitting, report
from alexnet_jax.preflight.checks import Checks
from alexnet_jax.preflight.compilation import Step
from alexnet_jax.preflight.topologies import GIB, Topology
from alexnet_jax.runs.scoring import num_images


def run_checks(
  config: Config | UserError,
  topology: Topology,
  workdir: str,
  *,
  compile_only: bool,
  comparing: bool = False,
) -> dict[str, Any]:
  """Returns what `--json` prints.

  Args:
    config: the config of the run, or why it does not load.
    topology: the devices of the run.
    workdir: the workdir of the run, local or gs://.
    compile_only: whether to skip the checks of data, workdir and input.
    comparing: whether to compile the training step in each form of parallelism,
      too.
  """
  checks = Checks()
  result: dict[str, Any] = {
    'topology': topology.name,
    'device_kind': topology.device_kind,
    'num_devices': len(topology.devices),
    'num_hosts': topology.num_hosts,
    'hbm_bytes': topology.memory_bytes,
    **report.UNKNOWN,
  }
  if isinstance(config, UserError):
    checks.add('config', False, str(config))
  else:
    checks_lib.check_config(checks, config)
    if checks.ok:
      arguments = (workdir, compile_only, comparing, checks, result)
      _check_run(config, topology, *arguments)
  result['checks'] = [dataclasses.asdict(row) for row in checks.rows]
  return result


def _check_run(
  config, topology, workdir, compile_only, comparing, checks, result
) -> None:
  """Checks a run whose config has valid values."""
  steps = compilation.Steps(config, topology)
  dataset, n = None, len(topology.devices)
  if not compile_only:
    dataset, steps_per_epoch = checks_lib.check_data(checks, config)
    folder, size = absolute(workdir), steps.checkpoint_bytes
    checks_lib.check_workdir(checks, config, folder, steps_per_epoch, size)
  checks_lib.check_batch(checks, config, n)
  if not checks.rows[-1].ok:
    return
  train, images = None, report.IMAGES
  if dataset:
    images = dataset.num_examples(config.data.train_split)
  with checks.failing('training step'):
    size = config.batch_size
    train = _compiled(
      'training',
      steps.train,
      size,
      'batch_size',
      topology,
      checks,
      config.grad_accumulation,
    )
    result |= report.facts(train, topology)
    result |= {'network': config.model.name, 'dtype': config.model.dtype}
    report.add_hours(result, config, images, topology)
  with checks.failing('evaluation step'):
    crops, field = config.eval.crops, 'eval.batch_size'
    size = num_images(config.eval.batch_size, crops, n)
    if crops > 1:
      field += f', which counts {crops} crops of each image'
    evaluation = _compiled(
      'evaluation', steps.evaluate, size, field, topology, checks
    )
    result['eval'] = report.facts(evaluation, topology)
  if comparing:
    with checks.failing('comparison'):
      result |= compare.compare(config, topology, images, compiled=train)
  if compile_only:
    return
  if topology.present and train and train.fits(topology):
    _log('running the training step ...')
    with checks.failing('running the step'):
      result['measured_images_per_second_per_device'] = (
        steps.measure(train.compiled, config.batch_size) / n
      )
      report.add_hours(result, config, images, topology)
  if dataset and config.data.on_error == 'stop':
    _log('measuring the input ...')
    with checks.failing('input'):
      rate = checks_lib.input_rate(config, dataset, steps, topology.num_hosts)
      given = report.verdict(rate, result, topology, dataset)
      result['input'] = given
      slow = 'hosts_needed' in given
      checks.add('input', True, report.input_found(given), slow=slow)


def _compiled(
  name, compile_at, batch_size, field, topology, checks, parts=1
) -> Step:
  """Compiles a step, and adds the check that it fits into memory.

  Args:
    name: the name of the step.
    compile_at: compiles it for a batch size.
    batch_size: the batch size of the config.
    field: where the config has it.
    topology: the devices.
    checks: gets a row.
    parts: see `fitting.largest_that_fits`.
  """
  _log(f'compiling the {name} step for {topology.name} ...')
  step = compile_at(batch_size)
  _log(f'  compiled in {step.seconds:.0f} s')
  available = topology.memory_bytes
  needs = f'{step.needed_bytes / GIB:.2f} GiB'
  if available:
    needs += f' of {available / GIB:.2f} GiB on each device'
  if step.fits(topology):
    checks.add(f'{name} memory', True, f'batch {batch_size}: {needs}')
    return step
  _log(f'  it does not fit ({needs}): searching for the largest that fits ...')
  fits, fits_not = 0, step.batch_size
  if available:
    fits, fits_not = fitting.largest_that_fits(
      compile_at, step, topology, parts
    )
  over = (step.needed_bytes - (available or step.needed_bytes)) / GIB
  largest = (
    f'{fits} fits, {fits_not} does not' if fits else 'no batch was found to fit'
  )
  checks.add(
    f'{name} memory',
    False,
    f'batch {batch_size} needs {needs}, {over:.2f} GiB too much: {largest} '
    f'({field}). model.dtype=bfloat16 and more devices need less on each',
  )
  return dataclasses.replace(step, largest_that_fits=fits)


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
