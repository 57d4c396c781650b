"""TPUs and GPUs that preflight compiles for, by their published numbers."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Tpu:
  """A generation of TPU, from its page in Cloud TPU's documentation.

  Attributes:
    clock_hz: published bfloat16 FLOP/s, divided by 2 FLOP for each cell of the
      matrix units: 4 of 128 x 128 a core, 2 cores (v4, v5p). v6e's 918 TFLOP/s
      and two units of 256 x 256 give no clock; v5p's is assumed.
    link_bandwidth: bytes a second out of a chip: half of the published
      bidirectional bandwidth.
    slices: slices that can be rented. v4 and v5p also have each a x b x c of
      multiples of four.
    max_chips: the largest number of chips of a slice.
    options: for `get_topology_desc`.
  """

  clock_hz: float
  link_bandwidth: float
  slices: tuple[str, ...]
  max_chips: int
  options: dict[str, str] = dataclasses.field(default_factory=dict)


_SLICES_2D = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_SLICES_3D = ('2x2x1', '2x2x2', '2x2x4', '2x4x4')
# JAX sees the two cores of a v4 or v5p chip as one device.
_MEGACORE = {'chip_config_name': 'megacore'}
TPUS = {
  'v4': Tpu(275e12 / 2**18, 300e9, _SLICES_3D, 4096, _MEGACORE),
  'v5e': Tpu(197e12 / 2**17, 200e9, _SLICES_2D, 256),
  'v5p': Tpu(459e12 / 2**18, 600e9, _SLICES_3D, 6144, _MEGACORE),
  'v6e': Tpu(459e12 / 2**18, 400e9, _SLICES_2D, 256),
}
# The generation of each `device_kind`.
TPU_KINDS = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5': 'v5p',
  'TPU v6 lite': 'v6e',
}

# XLA's GpuTargetConfig. Sources: the white papers NVIDIA H100 Tensor Core GPU
# Architecture and NVIDIA A100 Tensor Core GPU Architecture, and the occupancy
# tables of the CUDA C++ Programming Guide.
GPU_TEXT = """
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
GPUS: dict[str, dict[str, Any]] = {
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
GPUS_PER_HOST = 8

# The names that `--topology` takes.
KNOWN = (
  ', '.join(f'{name}:{"|".join(_SLICES_2D)}' for name in ('v5e', 'v6e'))
  + ', '
  + ', '.join(f'{name}:{"|".join(_SLICES_3D)}|AxBxC' for name in ('v4', 'v5p'))
  + ' (multiples of four, from small to large), '
  + ', '.join(f'{name}:N' for name in GPUS)
  + ', local'
)
