"""Preflight's results: as a JSON object, and as lines of text."""

import math
import os
from typing import Any

from alexnet_jax.config.loading import Config
from alexnet_jax.config.saved import num_train_steps
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.preflight import compilation
from alexnet_jax.preflight.topologies import GIB, Topology

# The facts of a step that was not compiled.
UNKNOWN: dict[str, Any] = {
  'hbm_needed_bytes': None,
  'flops_per_image': None,
  'estimated_cycles': None,
  'layers': {},
  'collective_bytes': None,
  'collectives': {},
  'collective_bytes_sent': None,
}
# Images of an epoch where the dataset is not at hand: ImageNet's.
IMAGES = 1_281_167


def facts(step: compilation.Step, topology: Topology) -> dict[str, Any]:
  """Returns the facts about a step, for JSON; times are in seconds."""
  n = len(topology.devices)
  known: dict[str, Any] = {
    'batch_size': step.batch_size,
    'compile_seconds': round(step.seconds, 1),
    'hbm_needed_bytes': step.needed_bytes,
    'hbm': step.memory and step.memory._asdict(),
    'largest_batch_size': step.largest_that_fits,
    'flops_per_image': step.flops and step.flops * n / step.batch_size,
  }
  by_kind = step.collectives
  if by_kind is not None:  # Else the step does not compile.
    known['collectives'] = {kind: c._asdict() for kind, c in by_kind.items()}
    known['collective_bytes'] = sum(c.bytes for c in by_kind.values())
    sent = sum(c.bytes_sent for c in by_kind.values())
    known['collective_bytes_sent'] = sent
    if topology.link_bandwidth:
      known['collective_floor_seconds'] = sent / topology.link_bandwidth
  if step.kernels:
    known['kernels'] = step.kernels._asdict()
    if topology.bandwidth:
      known['traffic_seconds'] = step.kernels.bytes_moved / topology.bandwidth
  total = sum(step.cycles.values())
  known['estimated_cycles'] = total or None
  known['layers'] = {
    name: {'cycles': cycles, 'share': cycles / total}
    for name, cycles in step.cycles.items()
  }
  if total and topology.clock_hz:
    computing = total / topology.clock_hz
    sending = known.get('collective_floor_seconds', 0.0)
    # One after the other: libtpu overlaps few collectives with computation.
    seconds = computing + sending
    known['estimate'] = {
      'clock_hz': topology.clock_hz,
      'compute_seconds': computing,
      'collective_seconds': sending,
      'step_seconds': seconds,
      'images_per_second_per_chip': step.batch_size / n / seconds,
      'images_per_second': step.batch_size / seconds,
      'images_per_second_per_host': (
        step.batch_size / topology.num_hosts / seconds
      ),
      'without_estimate': step.without_estimate,
    }
  return known


def add_hours(
  facts: dict[str, Any], config: Config, images: int, topology: Topology
) -> None:
  """Adds how long all training steps take, if the input keeps up.

  Args:
    facts: of the training step: its `estimate` gets `hours`, and what is
      measured `measured_hours`.
    config: the config of the run.
    images: of an epoch.
    topology: the devices.
  """
  steps = num_train_steps(config, images // config.batch_size)
  trained = steps * config.batch_size
  if 'estimate' in facts:
    facts['estimate'] |= {
      'hours': trained / facts['estimate']['images_per_second'] / 3600,
      'steps': steps,
      'epochs': round(trained / images, 1),
      'images': images,
    }
  if each := facts.get('measured_images_per_second_per_device'):
    hours = trained / (each * len(topology.devices)) / 3600
    facts['measured_hours'] = hours


def verdict(
  rate: float, result: dict[str, Any], topology: Topology, dataset: Dataset
) -> dict[str, Any]:
  """Returns whether the input keeps up with the devices.

  If it does not: the number of hosts like this one that would
  (`hosts_needed`), and how long all training steps take with the hosts of the
  topology (`hours`).

  Args:
    rate: images/s of this host's input.
    result: the facts about the training step.
    topology: the devices, and the number of hosts that feed them.
    dataset: the dataset of the run.
  """
  given: dict[str, Any] = {
    'images_per_second_of_this_host': rate,
    'cores': os.cpu_count(),
  }
  wanted = result.get('measured_images_per_second_per_device') or result.get(
    'estimate', {}
  ).get('images_per_second_per_chip')
  if wanted is None:
    return given
  total = wanted * len(topology.devices)
  given['images_per_second_wanted'] = total
  given['images_per_second_wanted_per_host'] = total / topology.num_hosts
  if rate * topology.num_hosts >= total:
    given['verdict'] = 'compute-bound'
    return given
  hosts = math.ceil(total / rate) if rate else None
  given['hosts_needed'] = hosts
  hours = result.get('measured_hours') or result.get('estimate', {}).get(
    'hours'
  )
  if hours and rate:
    given['hours'] = hours * total / (rate * topology.num_hosts)
  other = '' if dataset.resized else ' or the 256 x 256 form (docs/input.md)'
  given['verdict'] = f'input-bound: needs {hosts} hosts like this one{other}'
  return given


def input_found(given: dict[str, Any]) -> str:
  """Returns the row of the input's check.

  Args:
    given: from `verdict`.
  """
  rate = f'{given["images_per_second_of_this_host"]:,.0f}'
  if 'verdict' not in given:
    return f'{rate} images/s on this host'
  each = given['images_per_second_wanted_per_host']
  return (
    f'{given["verdict"]}; this host feeds {rate} images/s, and each host must '
    f'feed {each:,.0f}'
  )


def lines(result: dict[str, Any], topology: Topology) -> list[str]:
  """Returns the lines of text."""
  text = [
    f'{result["topology"]}: {result["num_devices"]} x {result["device_kind"]}, '
    f'{result["num_hosts"]} host(s)'
  ]
  if 'batch_size' in result:
    text += _step_lines('training step', result, topology)
  if 'eval' in result:
    text += _step_lines('evaluation step', result['eval'], topology)
  if measured := result.get('measured_images_per_second_per_device'):
    text += ['', f'measured here: {measured:,.1f} images/s on each device']
    if 'measured_hours' in result:
      text[-1] += f', {result["measured_hours"]:.1f} h of training'
  if 'compare' in result:
    text += _comparison(result)
  if 'input' in result:
    given = result['input']
    rate = given['images_per_second_of_this_host']
    text += [
      '',
      f'this host ({given["cores"]} cores) feeds {rate:,.0f} images/s',
    ]
    if 'verdict' in given:
      each = given['images_per_second_wanted_per_host']
      text[-1] += f', the devices need {each:,.0f} from each host'
      text.append(given['verdict'])
    if 'hours' in given:
      text.append(
        f'at its rate, all training steps take {given["hours"]:.1f} h'
      )
  text += ['', 'checks']
  for row in result['checks']:
    mark = 'slow' if row['slow'] else 'ok' if row['ok'] else 'FAILED'
    text.append(f'  {mark:<6}  {row["name"]:<18}{row["found"]}')
  return text


def _comparison(result) -> list[str]:
  """Returns the lines of a table with a column for each form."""
  columns = result['compare']
  rows: list[tuple[str, list[str]]] = [('training step, ESTIMATED', [*columns])]

  def row(name, show):
    cells = []
    for facts in columns.values():
      try:
        cells.append(show(facts))
      except (KeyError, TypeError):  # No facts, or no estimate.
        cells.append('-')
    rows.append((name, cells))

  row(
    'memory per device',
    lambda f: (
      f'{f["hbm_needed_bytes"] / GIB:.2f} GiB' + ('' if f['fits'] else ', FULL')
    ),
  )
  row('cycles', lambda f: f'{f["estimated_cycles"] / 1e6:.2f} M')
  row('sent per device', lambda f: f'{f["collective_bytes_sent"] / 1e6:.1f} MB')
  kinds = {
    kind for f in columns.values() for kind in f.get('collectives') or ()
  }
  for kind in sorted(kinds):
    row(
      f'  {kind}',
      lambda f, kind=kind: (
        f'{f["collectives"][kind]["bytes_sent"] / 1e6:.1f} MB'
      ),
    )
  row('step', lambda f: f'{f["estimate"]["step_seconds"] * 1e3:.2f} ms')
  row(
    'images/s per chip',
    lambda f: f'{f["estimate"]["images_per_second_per_chip"]:,.0f}',
  )
  row('hours of training', lambda f: f'{f["estimate"]["hours"]:.3f}')
  text = ['']
  for name, cells in rows:
    text.append(f'{name:<24}' + ''.join(f'{cell:>16}' for cell in cells))
  for name, facts in columns.items():
    if 'error' in facts:
      text.append(f'{name} is not possible: {facts["error"]}')
  best = result['recommended'] or 'none'
  return [*text, f'recommended: {best}: {result["reason"]}']


def _step_lines(title, facts, topology) -> list[str]:
  lines = ['', f'{title}, batch {facts["batch_size"]}']

  def line(name, value):
    lines.append(f'  {name:<23}{value}')

  memory = f'{facts["hbm_needed_bytes"] / GIB:.2f} GiB needed'
  if topology.memory_bytes:
    memory += f', {topology.memory_bytes / GIB:.2f} GiB available'
  line('memory per device', memory)
  if facts['flops_per_image']:
    line('FLOP per image', f'{facts["flops_per_image"] / 1e9:.2f} G')
  if 'collectives' in facts:
    collective = f'{facts["collective_bytes"] / 1e6:,.1f} MB per step'
    if facts.get('collective_floor_seconds'):
      milliseconds = facts['collective_floor_seconds'] * 1e3
      collective += f', at least {milliseconds:.2f} ms on the wire'
    line('collectives', collective)
    for kind, of_kind in facts['collectives'].items():
      line(
        f'  {kind}',
        f'{of_kind["operations"]} of {of_kind["bytes"] / 1e6:,.1f} MB, '
        f'{of_kind["bytes_sent"] / 1e6:,.1f} MB leave a device',
      )
  if 'kernels' in facts:
    kernels = facts['kernels']
    line('kernels', f'{kernels["launched"]} launched')
    for kind, number in kernels['by_kind'].items():
      lines.append(f'    {number:>6}  {kind}')
    moved = f'{kernels["bytes_moved"] / 1e9:.2f} GB'
    if 'traffic_seconds' in facts:
      milliseconds = facts['traffic_seconds'] * 1e3
      moved += (
        f', {milliseconds:.2f} ms at the published bandwidth (not a time)'
      )
    line('bytes moved', moved)
  if 'estimate' in facts:
    estimate = facts['estimate']
    line(
      'ESTIMATE, not measured',
      f'{facts["estimated_cycles"] / 1e6:.1f} M cycles, '
      f'{estimate["step_seconds"] * 1e3:.2f} ms, '
      f'{estimate["images_per_second_per_chip"]:,.0f} images/s per chip',
    )
    if estimate['collective_seconds']:
      line(
        '  of which',
        f'{estimate["compute_seconds"] * 1e3:.2f} ms computing, then '
        f'{estimate["collective_seconds"] * 1e3:.2f} ms on the wire',
      )
    if 'hours' in estimate:
      line(
        '  training',
        f'{estimate["hours"]:.3f} h for {estimate["epochs"]:g} epochs of '
        f'{estimate["images"]:,} images,',
      )
      each = f'{estimate["images_per_second_per_host"]:,.0f}'
      line('', f'if the input of each host feeds {each} images/s')
    if estimate['without_estimate']:
      line('  not included', ', '.join(estimate['without_estimate']))
    width = 30 / max(part['share'] for part in facts['layers'].values())
    for name, part in facts['layers'].items():
      bar = '#' * round(part['share'] * width)
      lines.append(
        f'    {name:<12}{part["cycles"] / 1e6:>8.2f} M{part["share"]:>7.1%}  '
        f'{bar}'
      )
  return lines
