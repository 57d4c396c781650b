"""What importing the package changes."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

FLAG = '--xla_cpu_experimental_ynn_fusion_type'


@pytest.mark.parametrize('given', ['', '--xla_dump_to=', f'{FLAG}='])
def test_the_flags_of_xla_that_are_there_are_kept(given):
  """The flag is added, but not where it is given already.

  Nor to another jaxlib than that which is known to know it.
  """
  said = subprocess.run(
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
  flags = said.stdout.strip()
  assert flags.startswith(given)
  known = importlib.metadata.version('jaxlib') == '0.10.2'
  if given.startswith(FLAG) or not known:
    assert flags == given
  else:
    assert flags.count(FLAG) == 1
