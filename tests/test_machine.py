"""What the machine can do: its dtype, and memory that glibc keeps."""

import os
import subprocess
import sys

import pytest

from alexnet_jax.cli import machine
from configs import cifar10, imagenette
from configs.paper import base

# Page faults of 64 MB that are written again and again.
_PROGRAM = """
import resource
from alexnet_jax.cli import machine
kept = machine.keep_freed_memory()
for _ in range(4):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  bytes(1) * 2**26 + b'x'
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  'CS_GNU_LIBC_VERSION' not in getattr(os, 'confstr_names', ()),
  reason='this is not glibc',
)
@pytest.mark.parametrize(
  ('variables', 'expected'),
  [
    ({'JAX_PLATFORMS': 'cpu'}, True),
    ({'JAX_PLATFORMS': 'tpu'}, False),
    ({'JAX_PLATFORMS': 'cpu', 'MALLOC_ARENA_MAX': '4'}, False),
    ({'JAX_PLATFORMS': 'cpu', 'GLIBC_TUNABLES': 'x=1'}, False),
  ],
)
def test_freed_memory_is_kept(variables, expected):
  done = subprocess.run(
    [sys.executable, '-c', _PROGRAM],
    env={**os.environ, **variables},
    capture_output=True,
    text=True,
    check=True,
  )
  kept, faults = done.stdout.split()
  assert kept == str(expected)
  if expected:  # Else it depends on huge pages.
    assert int(faults) < 1000  # Of 16,384 pages.


@pytest.mark.parametrize(
  ('flags', 'dtype'),
  [
    ({'amx_bf16', 'avx2'}, 'bfloat16'),
    ({'avx512_bf16'}, 'bfloat16'),
    ({'avx512f'}, 'float32'),
  ],
)
def test_small_configs_use_the_fast_dtype(monkeypatch, flags, dtype):
  monkeypatch.setattr(machine, 'cpu_flags', lambda: frozenset(flags))
  assert imagenette.get_config().model.dtype == dtype
  assert cifar10.get_config().model.dtype == dtype
  # Runs that are compared have the same on every machine.
  assert base.get_config('imagenette').model.dtype == 'float32'
