"""Preflight for GPUs, without a GPU (`make test-gpu-compile`)."""

import json
import subprocess
import sys

import pytest

PARAMETERS = 60_965_224


@pytest.mark.parametrize(
  ('name', 'hosts', 'gibibytes'),
  # JAX takes three quarters of 79 GiB.
  [('h100:4', 1, 59), ('a100:8', 1, 59), ('h100:16', 2, 59)],
)
def test_the_papers_network(name, hosts, gibibytes):
  command = [
    sys.executable,
    '-m',
    'alexnet_jax.preflight',
    '--config=configs/imagenet.py',
    f'--topology={name}',
    '--compile_only',
    '--config.batch_size=1024',
    '--config.model.dtype=bfloat16',
  ]
  tables = subprocess.run(command, capture_output=True, text=True, check=False)
  assert tables.returncode == 0, tables.stdout + tables.stderr
  print('\n' + tables.stdout)
  done = subprocess.run(
    [*command, '--json'], capture_output=True, text=True, check=True
  )
  result = json.loads(done.stdout)
  assert result['num_devices'] == int(name.split(':')[1])
  assert result['num_hosts'] == hosts
  assert result['hbm_bytes'] / 2**30 == pytest.approx(gibibytes, abs=1)
  assert 4 * 3 * PARAMETERS < result['hbm_needed_bytes'] < result['hbm_bytes']
  assert 3.7e9 < result['flops_per_image'] < 4.1e9
  assert result['collective_bytes'] == pytest.approx(4 * PARAMETERS, abs=100)
  kernels = result['kernels']
  # Each of the five convolutions with bias is one cuDNN call.
  assert kernels['by_kind']['__cudnn$convBiasActivationForward'] == 5
  assert sum(kernels['by_kind'].values()) == kernels['launched']
  assert kernels['bytes_moved'] > 4 * 5 * PARAMETERS
  # There is no estimate of time.
  assert result['estimated_cycles'] is None
  assert 'estimate' not in result
