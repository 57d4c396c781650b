"""glibc keeps freed memory, unless the user or the devices say otherwise."""

import os
import subprocess
import sys

import pytest

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
