"""Devices to compile for: those present, and some that are not there.

libtpu compiles for any slice of a TPU, and JAX's CUDA plugin for a described
GPU, on a machine that has neither.
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

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices, and what is known of them.

  Attributes:
    name: as it was asked for.
    devices: all of them, on all hosts.
    num_hosts: machines, each with an equal part of the devices.
    memory_bytes: of one device, as far as a program may use it; None where
      nothing tells.
    clock_hz: cycles a second, where the compiler estimates cycles.
    bandwidth: bytes a second between a GPU and its memory, as published.
    link_bandwidth: bytes a second out of a device over all its links to
      others, as published.
    compiler_options: for `Lowered.compile`.
    present: whether programs can be run on it.
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
    """What JAX calls one of them: 'TPU v5 lite'."""
    return self.devices[0].device_kind

  @property
  def platform(self) -> str:
    """'tpu', 'cuda' or 'cpu'."""
    return self.devices[0].platform


@dataclasses.dataclass(frozen=True)
class _Tpu:
  """A generation of TPU, by its page in Cloud TPU's documentation.

  Attributes:
    clock_hz: published bfloat16 FLOP/s by 2 FLOP in each cell of the matrix
      units: 4 of 128 x 128 a core, 2 cores (v4, v5p). v6e's 918 TFLOP/s and two
      units of 256 x 256 do not give one; v5p's is assumed.
    link_bandwidth: bytes a second out of a chip: half of the published
      bidirectional bandwidth.
    slices: what can be rented, those with sides of other than multiples of
      four; of v4 and v5p also each a x b x c of multiples of four.
    max_chips: of a slice.
    options: `get_topology_desc` is given these.
  """

  clock_hz: float
  link_bandwidth: float
  slices: tuple[str, ...]
  max_chips: int
  options: dict[str, str] = dataclasses.field(default_factory=dict)


_SLICES_2D = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_SLICES_3D = ('2x2x1', '2x2x2', '2x2x4', '2x4x4')
# v4's and v5p's two cores are one device to JAX.
_MEGACORE = {'chip_config_name': 'megacore'}
_TPUS = {
  'v4': _Tpu(275e12 / 2**18, 300e9, _SLICES_3D, 4096, _MEGACORE),
  'v5e': _Tpu(197e12 / 2**17, 200e9, _SLICES_2D, 256),
  'v5p': _Tpu(459e12 / 2**18, 600e9, _SLICES_3D, 6144, _MEGACORE),
  'v6e': _Tpu(459e12 / 2**18, 400e9, _SLICES_2D, 256),
}
# By what JAX calls them.
_KINDS = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5': 'v5p',
  'TPU v6 lite': 'v6e',
}

# XLA's GpuTargetConfig. Of Hopper: NVIDIA H100 Tensor Core GPU Architecture;
# of Ampere: NVIDIA A100 Tensor Core GPU Architecture; and the occupancy tables
# of the CUDA C++ Programming Guide.
_GPU_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory_per_core}
  threads_per_core_limit: 2048 core_count: {core_count}
  fpus_per_core: {fpus_per_core}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth}
  l2_cache_size: {l2_cache_size} clock_rate_ghz: {clock_rate_ghz}
  device_memory_size: {memory_bytes}
  shared_memory_per_block_optin: {shared_memory_per_block_optin}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{description}"
runtime_version {{ major: 12 minor: 8 }}
"""
_GPUS: dict[str, dict[str, Any]] = {
  'h100': {
    'description': 'NVIDIA H100 80GB HBM3',
    'major': 9,
    'core_count': 132,
    'fpus_per_core': 128,
    'clock_rate_ghz': 1.98,
    'bandwidth': 3352320000000,
    'memory_bytes': 84942979072,
    'l2_cache_size': 52428800,
    'shared_memory_per_core': 233472,
    'shared_memory_per_block_optin': 232448,
  },
  'a100': {
    'description': 'NVIDIA A100-SXM4-80GB',
    'major': 8,
    'core_count': 108,
    'fpus_per_core': 64,
    'clock_rate_ghz': 1.41,
    'bandwidth': 2039000000000,
    'memory_bytes': 84987740160,
    'l2_cache_size': 41943040,
    'shared_memory_per_core': 167936,
    'shared_memory_per_block_optin': 166912,
  },
}
_GPUS_PER_HOST = 8

KNOWN = (
  ', '.join(f'{name}:{"|".join(_SLICES_2D)}' for name in ('v5e', 'v6e'))
  + ', '
  + ', '.join(f'{name}:{"|".join(_SLICES_3D)}|AxBxC' for name in ('v4', 'v5p'))
  + ' (multiples of four, from small to large), '
  + ', '.join(f'{name}:N' for name in _GPUS)
  + ', local'
)


def find(name: str, num_hosts: int | None = None) -> Topology:
  """The devices of a name.

  Args:
    name: 'local', or a generation and a slice such as 'v5e:4x4' or 'h100:8'.
    num_hosts: where given, as many as the run will have.

  Raises:
    UserError: there is no such topology, what compiles for it is not
      installed, or it has another number of hosts.
  """
  if name == 'local':
    found = _local()
  elif match := re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name):
    kind, size = match.groups()
    if kind in _TPUS:
      found = _tpu(name, _TPUS[kind], size, num_hosts)
    elif kind in _GPUS and 'x' not in size:
      found = _gpu(name, _GPUS[kind], int(size))
    else:
      raise _unknown(name)
  else:
    raise _unknown(name)
  if num_hosts not in (None, found.num_hosts):
    raise UserError(
      f'--hosts={num_hosts}: {name} has {found.num_hosts} host(s) of '
      f'{len(found.devices) // found.num_hosts} devices'
    )
  return found


def _unknown(name: str) -> UserError:
  return UserError(f'unknown topology {name!r} (--topology); known: {KNOWN}')


def _local() -> Topology:
  try:
    devices = jax.devices()
  except RuntimeError as error:  # Taken by another process, for one.
    reason = ' '.join(str(error).split())
    raise UserError(f'--topology=local: {reason}') from error
  stats = devices[0].memory_stats() or {}
  memory = stats.get('bytes_limit')
  if devices[0].platform == 'cpu':
    # They share the machine's.
    pages = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    memory = pages // len(devices)
  generation = _TPUS.get(_KINDS.get(devices[0].device_kind, ''))
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
  name: str, generation: _Tpu, size: str, num_hosts: int | None
) -> Topology:
  sides = [int(side) for side in size.split('x')]
  chips = math.prod(sides)
  three = len(generation.slices[0].split('x')) == 3
  cubes = three and len(sides) == 3 and sides == sorted(sides)
  whole = cubes and not any(side % 4 for side in sides) and chips
  if size not in generation.slices and not whole:
    more = ', or three multiples of four, from small to large' if three else ''
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
  # libtpu asks for the machine that it is on.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  hosts_bounds: dict[str, Any] = {}
  if size == '1x1':
    hosts_bounds = {'chips_per_host_bounds': (1, 1, 1)}
  elif size == '2x4' and num_hosts != 2:
    # Eight chips of one host; or GKE's two of four.
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
  """What libtpu lets a program have of a chip's HBM, in its own words."""
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
  """Bytes needed and bytes there, if that is what a compiler complains of."""
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
  hosts, rest = divmod(number, _GPUS_PER_HOST)
  if not number or (hosts and rest):
    raise UserError(
      f'{name} (--topology): 1 to {_GPUS_PER_HOST} GPUs on one host, or a '
      f'multiple of {_GPUS_PER_HOST}'
    )
  _need_module('jax_plugins.xla_cuda12', name, 'cuda', 'jax[cuda12]')
  _on_cpu()
  jax.devices()  # It registers the plugin.
  hosts = max(hosts, 1)
  devices = topologies.get_topology_desc(
    platform='cuda',
    target_config=_GPU_TEXT.format(**card),
    topology=f'1x{hosts}x{number // hosts}',
  ).devices
  return Topology(
    name,
    devices,
    hosts,
    memory_bytes=int(card['memory_bytes'] * _gpu_share()),
    bandwidth=float(card['bandwidth']),
    # Kernels cannot be tried where there is no GPU.
    compiler_options={'xla_gpu_autotune_level': '0'},
  )


def _gpu_share() -> float:
  """What JAX takes of a GPU's memory: three quarters, unless told otherwise."""
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
  """Leaves the accelerators of this machine, if any, to others."""
  jax.config.update('jax_platforms', 'cpu')
