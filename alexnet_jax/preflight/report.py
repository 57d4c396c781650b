"""Preflight's results: as a JSON object, and as lines of text."""

import math
import os
from typing import Any

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
}


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
    'collective_bytes': step.collective_bytes,
  }
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
    seconds = total / topology.clock_hz
    known['estimate'] = {
      'clock_hz': topology.clock_hz,
      'step_seconds': seconds,
      'images_per_second_per_chip': step.batch_size / n / seconds,
      'without_estimate': step.without_estimate,
    }
  if topology.link_bandwidth and step.collective_bytes is not None:
    # In a ring each device sends (n - 1) / n of all bytes, twice.
    passed = 2 * (n - 1) / n * step.collective_bytes
    known['collective_floor_seconds'] = passed / topology.link_bandwidth
  return known


def verdict(
  rate: float, result: dict[str, Any], topology: Topology, dataset: Dataset
) -> dict[str, Any]:
  """Returns whether the input keeps up with the devices.

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
  if rate * topology.num_hosts >= total:
    given['verdict'] = 'compute-bound'
    return given
  hosts = math.ceil(total / rate) if rate else None
  given['hosts_needed'] = hosts
  other = '' if dataset.resized else ' or the 256 x 256 form (docs/input.md)'
  given['verdict'] = f'input-bound: needs {hosts} hosts like this one{other}'
  return given


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
  if 'input' in result:
    given = result['input']
    rate = given['images_per_second_of_this_host']
    text += [
      '',
      f'this host ({given["cores"]} cores) feeds {rate:,.0f} images/s',
    ]
    if 'verdict' in given:
      text[-1] += f', the devices need {given["images_per_second_wanted"]:,.0f}'
      text.append(given['verdict'])
  text += ['', 'checks']
  for row in result['checks']:
    mark = 'ok    ' if row['ok'] else 'FAILED'
    text.append(f'  {mark}  {row["name"]:<18}{row["found"]}')
  return text


def _step_lines(title, facts, topology) -> list[str]:
  lines = ['', f'{title}, batch {facts["batch_size"]}']

  def line(name, value):
    lines.append(f'  {name:<22}{value}')

  memory = f'{facts["hbm_needed_bytes"] / GIB:.2f} GiB needed'
  if topology.memory_bytes:
    memory += f', {topology.memory_bytes / GIB:.2f} GiB available'
  line('memory per device', memory)
  if facts['flops_per_image']:
    line('FLOP per image', f'{facts["flops_per_image"] / 1e9:.2f} G')
  if facts['collective_bytes'] is not None:
    collective = f'{facts["collective_bytes"] / 1e6:,.1f} MB per step'
    if facts.get('collective_floor_seconds'):
      milliseconds = facts['collective_floor_seconds'] * 1e3
      collective += f', at least {milliseconds:.2f} ms on the wire'
    line('collectives', collective)
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
