"""Effects of importing the package."""

import os
import subprocess
import sys

import pytest

import alexnet_jax
from alexnet_jax import model, pretrained

FLAG = '--xla_cpu_experimental_ynn_fusion_type'


def flags_after_import(**environment):
  """Returns `XLA_FLAGS` of a program that compiles something by them."""
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'import os, alexnet_jax.model, jax\n'
      'jax.jit(lambda x: x + 1)(0)\n'
      'print(os.environ.get("XLA_FLAGS", ""))',
    ],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.strip()


@pytest.mark.parametrize('given', ['', '--xla_dump_to=', f'{FLAG}='])
def test_xla_flags_are_kept(given):
  flags = flags_after_import(XLA_FLAGS=given)
  assert flags.startswith(given)
  assert flags.count(FLAG) == 1


def test_no_flag_that_a_compiler_does_not_know(tmp_path):
  (tmp_path / 'libtpu').mkdir()
  (tmp_path / 'libtpu/__init__.py').touch()
  (tmp_path / 'libtpu/libtpu.so').write_text('another XLA')
  assert flags_after_import(XLA_FLAGS='', PYTHONPATH=str(tmp_path)) == ''


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
