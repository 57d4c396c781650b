"""Compiles a training step in each form of parallelism, and compares them."""

import sys
from typing import Any

from alexnet_jax.cli.errors import UserError
from alexnet_jax.config import values
from alexnet_jax.config.loading import Config
from alexnet_jax.preflight import compilation, report
from alexnet_jax.preflight.topologies import Topology

# The simplest first. A later one is recommended if it is faster by more.
MARGIN = 0.03


def forms(config: Config) -> dict[str, Config]:
  """Returns the configs to compare, by name, the simplest first.

  They are copies of the config that differ in `parallelism`. The last also
  reduces gradients in bfloat16, if the config does not.
  """
  found = {}
  for name in ('data', 'hybrid', 'data_bfloat16'):
    copy = config.copy_and_resolve_references()
    copy.parallelism, _, dtype = name.partition('_')
    if dtype and copy.optimizer.get('reduce_dtype', dtype) == dtype:
      continue
    if dtype:
      copy.optimizer.reduce_dtype = dtype
    found[name] = copy
  return found


def compare(
  config: Config,
  topology: Topology,
  images: int,
  names: tuple[str, ...] = ('data', 'hybrid', 'data_bfloat16'),
  compiled: compilation.Step | None = None,
) -> dict[str, Any]:
  """Returns the facts about each form, and which is recommended, for JSON.

  A form that cannot be has an `error` instead of facts.

  Args:
    config: the config of the run.
    topology: the devices.
    images: of an epoch.
    names: the forms to compile.
    compiled: the step of the config's own form, which is not compiled again.
  """
  columns: dict[str, Any] = {}
  for name, form in forms(config).items():
    if name not in names:
      continue
    try:
      step = compiled if name == config.parallelism else None
      if step is None:
        values.validate(form)
        print(f'compiling {name} ...', file=sys.stderr, flush=True)
        step = compilation.Steps(form, topology).train(form.batch_size)
    except UserError as error:
      columns[name] = {'error': str(error)}
      continue
    columns[name] = report.facts(step, topology)
    columns[name]['fits'] = step.fits(topology)
    report.add_hours(columns[name], form, images, topology)
  best, reason = recommended(columns)
  return {'compare': columns, 'recommended': best, 'reason': reason}


def recommended(columns: dict[str, Any]) -> tuple[str | None, str]:
  """Returns the recommended form, None if unknown, and the reason.

  Example:
    >>> column = lambda ms: {'fits': True, 'estimate': {'step_seconds': ms}}
    >>> recommended({'data': column(9.0), 'hybrid': column(6.0)})[0]
    'hybrid'

  Args:
    columns: the facts of each form, the simplest first.
  """
  fitting = [name for name, facts in columns.items() if facts.get('fits')]
  if not fitting:
    return None, 'none is possible and fits into memory'
  if len(fitting) == 1:
    return fitting[0], 'no other is possible and fits into memory'
  seconds = {
    name: columns[name]['estimate']['step_seconds']
    for name in fitting
    if 'estimate' in columns[name]
  }
  if not seconds:
    return None, 'the compiler for these devices estimates no time'
  fastest = min(seconds, key=lambda name: seconds[name])
  best = next(
    name for name in seconds if seconds[name] <= (1 + MARGIN) * seconds[fastest]
  )
  if best != fastest:
    slower = seconds[best] / seconds[fastest] - 1
    return best, (
      f'it is simpler than {fastest}, and its estimated step takes only '
      f'{slower:.1%} longer'
    )
  others = [name for name in seconds if name != best]
  other = min(others, key=lambda name: seconds[name])
  return best, (
    f'its estimated step is the fastest that fits into memory, '
    f'{1 - seconds[best] / seconds[other]:.1%} shorter than that of {other}'
  )
