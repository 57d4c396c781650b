"""Effects of importing the package."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

FLAG = '--xla_cpu_experimental_ynn_fusion_type'


@pytest.mark.parametrize('given', ['', '--xla_dump_to=', f'{FLAG}='])
def test_xla_flags_are_kept(given):
  """The import adds a flag, unless it is set or jaxlib may not have it."""
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'import os, alexnet_jax; print(os.environ["XLA_FLAGS"])',
    ],
    env={**os.environ, 'XLA_FLAGS': given},
    capture_output=True,
    text=True,
    check=True,
  )
  flags = done.stdout.strip()
  assert flags.startswith(given)
  has_flag = importlib.metadata.version('jaxlib') == '0.10.2'
  if given.startswith(FLAG) or not has_flag:
    assert flags == given
  else:
    assert flags.count(FLAG) == 1
