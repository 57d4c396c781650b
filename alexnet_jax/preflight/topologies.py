"""Devices to compile for: those of this machine, or targets without hardware.

libtpu compiles for any TPU slice, and JAX's CUDA plugin for a described GPU, on
a machine that has neither.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from alexnet_jax.cli.errors import UserError
from alexnet_jax.preflight import hardware
from alexnet_jax.preflight.hardware import GPUS, GPUS_PER_HOST, TPUS, Tpu

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices, and what is known about them.

  Attributes:
    name: as the user typed it.
    devices: all of them, on all hosts.
    num_hosts: machines, each with an equal share of the devices.
    memory_bytes: the memory of one device that a program may use; None if
      unknown.
    clock_hz: cycles a second, for devices whose compiler estimates cycles.
    bandwidth: bytes a second between a GPU and its memory, as published.
    link_bandwidth: bytes a second out of a device, over all its links to other
      devices, as published.
    compiler_options: for `Lowered.compile`.
    present: whether programs can run on it.
  """

  name: str
  devices: Sequence[Any]
  num_hosts: int
  memory_bytes: int | None = None
  clock_hz: float | None = None
  bandwidth: float | None = None
  link_bandwidth: float | None = None
  compiler_options: dict[str, str] = dataclasses.field(default_factory=dict)
  present: bool = False

  @property
  def device_kind(self) -> str:
    """JAX's name for the devices, such as 'TPU v5 lite'."""
    return self.devices[0].device_kind

  @property
  def platform(self) -> str:
    """'tpu', 'cuda' or 'cpu'."""
    return self.devices[0].platform


def find(name: str, num_hosts: int | None = None) -> Topology:
  """Returns the topology of a name.

  Example:
    >>> find('local').name
    'local'

  Args:
    name: 'local', or a generation and a slice such as 'v5e:4x4' or 'h100:8'.
    num_hosts: the number of hosts that it must have, if given.

  Raises:
    UserError: the name is unknown, the compiler for it is not installed, or it
      has another number of hosts.
  """
  match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
  kind, size = match.groups() if match else ('', '')
  if name == 'local':
    found = _local()
  elif kind in TPUS:
    found = _tpu(name, TPUS[kind], size, num_hosts)
  elif kind in GPUS and 'x' not in size:
    found = _gpu(name, GPUS[kind], int(size))
  else:
    raise UserError(
      f'unknown topology {name!r} (--topology); known: {hardware.KNOWN}'
    )
  if num_hosts not in (None, found.num_hosts):
    raise UserError(
      f'--hosts={num_hosts}: {name} has {found.num_hosts} host(s) of '
      f'{len(found.devices) // found.num_hosts} devices'
    )
  return found


def _local() -> Topology:
  try:
    devices = jax.devices()
  except RuntimeError as error:  # For example, another process holds them.
    reason = ' '.join(str(error).split())
    raise UserError(f'--topology=local: {reason}') from error
  stats = devices[0].memory_stats() or {}
  memory = stats.get('bytes_limit')
  if devices[0].platform == 'cpu':
    # CPU devices share the machine's memory.
    pages = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    memory = pages // len(devices)
  generation = TPUS.get(hardware.TPU_KINDS.get(devices[0].device_kind, ''))
  return Topology(
    'local',
    devices,
    jax.process_count(),
    memory_bytes=memory,
    clock_hz=generation.clock_hz if generation else None,
    link_bandwidth=generation.link_bandwidth if generation else None,
    present=True,
  )


def _tpu(
  name: str, generation: Tpu, size: str, num_hosts: int | None
) -> Topology:
  sides = [int(side) for side in size.split('x')]
  chips = math.prod(sides)
  is_3d = len(generation.slices[0].split('x')) == 3
  of_fours = chips and not any(side % 4 for side in sides)
  is_cubes = is_3d and len(sides) == 3 and sides == sorted(sides) and of_fours
  if size not in generation.slices and not is_cubes:
    more = ', or three multiples of four, from small to large' if is_3d else ''
    raise UserError(
      f'unknown topology {name!r} (--topology): {name.split(":")[0]} has '
      f'{", ".join(generation.slices)}{more}'
    )
  if chips > generation.max_chips:
    raise UserError(
      f'{name} (--topology) has {chips} chips: a slice has at most '
      f'{generation.max_chips}'
    )
  _need_module('libtpu', name, 'tpu', 'jax[tpu]')
  _on_cpu()
  # Without these libtpu queries the machine that it runs on.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  hosts_bounds: dict[str, Any] = {}
  if size == '1x1':
    hosts_bounds = {'chips_per_host_bounds': (1, 1, 1)}
  elif size == '2x4' and num_hosts != 2:
    # Eight chips on one host. (GKE has two hosts of four.)
    hosts_bounds = {'chips_per_host_bounds': (2, 4, 1)}
  devices: Any = topologies.get_topology_desc(
    topology_name=name, platform='tpu', **generation.options, **hosts_bounds
  ).devices
  return Topology(
    name,
    devices,
    len({device.process_index for device in devices}),
    memory_bytes=_tpu_memory(devices[0]),
    clock_hz=generation.clock_hz,
    link_bandwidth=generation.link_bandwidth,
  )


def _tpu_memory(device: Any) -> int | None:
  """Returns the HBM that libtpu gives a program, by asking for too much."""
  here = jax.sharding.SingleDeviceSharding(device)
  too_much = jax.ShapeDtypeStruct((2**38,), jax.numpy.float32)
  try:
    jax.jit(lambda x: x + 1, in_shardings=here, out_shardings=here).lower(
      too_much
    ).compile()
  except jax.errors.JaxRuntimeError as error:
    if over := out_of_memory(error):
      return over[1]
  return None


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def out_of_memory(error: Exception) -> tuple[int, int] | None:
  """Returns the bytes needed and available if memory is the error.

  Example:
    >>> out_of_memory(ValueError('RESOURCE_EXHAUSTED: Used 3K of 2K hbm'))
    (3072, 2048)
  """
  if 'RESOURCE_EXHAUSTED' not in str(error):
    return None
  # '... required for HLO temporaries (88.01G) exceeds available HBM (15.75G)',
  # or 'Used 20.00G of 15.75G hbm'.
  found = re.search(
    r'\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)'
    r'|Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm',
    str(error),
  )
  if not found:
    return None
  a, unit_a, b, unit_b = (x for x in found.groups() if x is not None)
  return int(float(a) * _UNITS[unit_a]), int(float(b) * _UNITS[unit_b])


def _gpu(name: str, card: dict[str, Any], number: int) -> Topology:
  hosts, rest = divmod(number, GPUS_PER_HOST)
  if not number or (hosts and rest):
    raise UserError(
      f'{name} (--topology): give 1 to {GPUS_PER_HOST} GPUs on one host, or a '
      f'multiple of {GPUS_PER_HOST}'
    )
  _need_module('jax_plugins.xla_cuda12', name, 'cuda', 'jax[cuda12]')
  _on_cpu()
  jax.devices()  # Registers the plugin.
  hosts = max(hosts, 1)
  devices = topologies.get_topology_desc(
    platform='cuda',
    target_config=hardware.GPU_TEXT.format(**card),
    topology=f'1x{hosts}x{number // hosts}',
  ).devices
  return Topology(
    name,
    devices,
    hosts,
    memory_bytes=int(card['memory_bytes'] * _gpu_share()),
    bandwidth=float(card['bandwidth']),
    # Autotuning would run kernels, which takes a GPU.
    compiler_options={'xla_gpu_autotune_level': '0'},
  )


def _gpu_share() -> float:
  """Returns the share of a GPU's memory that JAX takes; 0.75 by default."""
  for name in ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION'):
    if name in os.environ:
      return float(os.environ[name])
  return 0.75


def _need_module(module: str, name: str, extra: str, package: str) -> None:
  try:
    found = importlib.util.find_spec(module)
  except ModuleNotFoundError:
    found = None
  if found is None:
    raise UserError(
      f'--topology={name} needs {module}, which compiles for it on any x86-64 '
      f"Linux machine: make venv EXTRAS={extra}, or pip install '{package}'"
    )


def _on_cpu() -> None:
  """Leaves this machine's accelerators, if any, to other processes."""
  jax.config.update('jax_platforms', 'cpu')
