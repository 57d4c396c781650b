"""Preflight for GPUs, without a GPU (`make test-gpu-compile`)."""

import json
import subprocess
import sys

import pytest

PARAMETERS = 60_965_224
# Of them, the kernels of fc6 to fc8: each device has some rows.
DENSE = (9216 + 4096) * 4096 + 4096 * 1000


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
  n = result['num_devices']
  assert n == int(name.split(':')[1])
  assert result['num_hosts'] == hosts
  assert result['hbm_bytes'] / 2**30 == pytest.approx(gibibytes, abs=1)
  # At least the parameters and the velocity; and it fits.
  state = 2 * 4 * (PARAMETERS - DENSE + DENSE // n)
  assert state < result['hbm_needed_bytes'] < result['hbm_bytes']
  assert 3.7e9 < result['flops_per_image'] < 4.1e9
  # Rows are gathered in bfloat16. The other gradients are reduced with a few
  # sums.
  assert {k: c['bytes'] for k, c in result['collectives'].items()} == {
    'all-gather': 2 * DENSE // n,
    'reduce-scatter': 4 * DENSE,
    'all-reduce': pytest.approx(4 * (PARAMETERS - DENSE), abs=100),
  }
  kernels = result['kernels']
  # Each of the five convolutions with bias is one cuDNN call.
  assert kernels['by_kind']['__cudnn$convBiasActivationForward'] == 5
  assert sum(kernels['by_kind'].values()) == kernels['launched']
  # A collective is one of them, and its start and end none.
  assert not kernels['by_kind'].keys() & {'async', 'async-start'}
  # The gathered rows are read twice, and their gradient is written.
  assert kernels['bytes_moved'] > 8 * DENSE
  # There is no estimate of time.
  assert result['estimated_cycles'] is None
  assert 'estimate' not in result
