"""Effects of importing the package."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

import alexnet_jax
from alexnet_jax import model, pretrained

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


def test_the_import_is_quick_and_brings_no_large_library():
  done = subprocess.run(
    [
      sys.executable,
      '-X',
      'importtime',
      '-c',
      'import sys, alexnet_jax\n'
      'large = {"jax", "tensorflow", "orbax", "flax", "numpy"}\n'
      'assert not large & set(sys.modules)\n'
      'assert set(dir(alexnet_jax)) == {*alexnet_jax.__all__, "__version__"}',
    ],
    capture_output=True,
    text=True,
    check=True,
  )
  (line,) = (x for x in done.stderr.splitlines() if x.endswith(' alexnet_jax'))
  assert int(line.split('|')[1]) < 300_000  # Microseconds.


def test_the_names_for_users():
  assert alexnet_jax.AlexNet is model.AlexNet
  assert alexnet_jax.ARCHITECTURES is model.ARCHITECTURES
  assert alexnet_jax.load is pretrained.load
  assert (
    alexnet_jax.local_response_normalization
    is model.local_response_normalization
  )
  with pytest.raises(AttributeError, match='nosuch'):
    alexnet_jax.nosuch  # noqa: B018
