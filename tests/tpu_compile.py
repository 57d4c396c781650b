"""Preflight for TPU slices, without a TPU (`make test-tpu`).

Prints two rows of docs/preflight.md's table at the end. All of them:

  python -m pytest -q -s tests/tpu_compile.py -k parallelism
"""

import itertools
import json
import os
import subprocess
import sys

import jax
import narrow
import numpy as np
import pytest

from alexnet_jax.learning import optimizer, steps
from alexnet_jax.learning.placement import place
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.preflight import (
  compare,
  compilation,
  fitting,
  report,
  topologies,
)
from configs import imagenet

# Devices, hosts, and each chip's published HBM (GB) and bfloat16 FLOP/s.
SLICES = {
  'v5e:2x2': (4, 1, 16, 197e12),
  'v4:2x2x1': (4, 1, 32, 275e12),
}
LAYERS = {
  'conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8', 'lrn1',
  'lrn2', 'pool1', 'pool2', 'pool5', 'optimizer',
}  # fmt: skip
PARAMETERS = 60_965_224
DENSE_KERNELS = 9216 * 4096 + 4096 * 4096 + 4096 * 1000
# The table of docs/preflight.md: slices and images a chip. `make test-tpu` has
# one row for which hybrid is recommended, and one for which data is.
SHORT = (('v5e:2x2', 256), ('v5e:8x8', 256))
ROWS = [
  pytest.param(*row, marks=[pytest.mark.long] * (row not in SHORT))
  for row in itertools.product(
    ('v5e:2x2', 'v5e:4x4', 'v5e:8x8', 'v6e:4x4'), (128, 256)
  )
]
HEAD = (
  'slice', 'images a chip', 'parallelism', 'HBM, GiB', 'M cycles',
  'MB sent', 'images/s a chip', 'hours', 'images/s a host',
)  # fmt: skip
TABLE = []


def preflight(*arguments, status=0):
  done = subprocess.run(
    [sys.executable, '-m', 'alexnet_jax.preflight', '--json', *arguments],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status, done.stdout + done.stderr
  return done


def data():
  """Returns the folder of ImageNet, if any; else only compiling is tested."""
  folder = os.environ.get('TFDS_DATA_DIR', '')
  return folder if os.path.isdir(f'{folder}/imagenet2012') else None


@pytest.mark.parametrize('name', SLICES)
def test_the_papers_network(name, tmp_path):
  num_devices, num_hosts, gigabytes, peak = SLICES[name]
  more = [f'--config.data.data_dir={data()}'] if data() else ['--compile_only']
  done = preflight(
    '--config=configs/imagenet.py',
    f'--topology={name}',
    f'--workdir={tmp_path / "run"}',
    *more,
  )
  result = json.loads(done.stdout)
  assert all(row['ok'] for row in result['checks'])
  assert result['num_devices'] == num_devices
  assert result['num_hosts'] == num_hosts
  # The runtime takes some of it.
  assert 0.9 < result['hbm_bytes'] / (gigabytes * 1e9) < 1.08
  # At least gathered kernels, gradients and a part of the state; and it fits.
  assert 4 * 2 * PARAMETERS < result['hbm_needed_bytes'] < result['hbm_bytes']
  # 3 x 2 x 0.67 G multiplications, less conv1's gradient of the image.
  assert 3.7e9 < result['flops_per_image'] < 4e9
  # The gradients of dense kernels are reduced in float32, and the kernels
  # gathered in bfloat16: libtpu rounds them before products of float32, too.
  # All-reduces send the others twice. libtpu moves some bytes to align parts.
  others = PARAMETERS - DENSE_KERNELS
  least = (num_devices - 1) / num_devices * (6 * DENSE_KERNELS + 8 * others)
  assert result['collective_bytes_sent'] == pytest.approx(least, rel=0.05)
  assert set(result['layers']) >= LAYERS
  assert result['layers']['lrn1']['cycles'] > result['layers']['fc8']['cycles']
  # Little is unnamed: on v6e images change their layout first.
  assert result['layers'].get('other', {'share': 0})['share'] < 0.1
  # In float32 it is a small part of the peak.
  each = result['estimate']['images_per_second_per_chip']
  assert 0.01 < each * result['flops_per_image'] / peak < 0.5
  if data():
    wanted = result['input']['images_per_second_wanted']
    assert wanted == pytest.approx(each * num_devices)


@pytest.mark.parametrize(('name', 'each'), ROWS)
def test_parallelism(name, each):
  """Rows of the table: the paper's network in bfloat16."""
  config = imagenet.get_config()
  topology = topologies.find(name)
  config.batch_size = each * len(topology.devices)
  config.model.dtype = 'bfloat16'
  result = compare.compare(config, topology, report.IMAGES, ('data', 'hybrid'))
  assert result['recommended']
  for form, facts in result['compare'].items():
    assert facts['fits'], facts
    estimate = facts['estimate']
    cells = (
      name, each, form,
      f'{facts["hbm_needed_bytes"] / 2**30:.2f}',
      f'{facts["estimated_cycles"] / 1e6:.2f}',
      f'{facts["collective_bytes_sent"] / 1e6:.0f}',
      f'{estimate["images_per_second_per_chip"]:,.0f}',
      f'{estimate["hours"]:.3f}',
      f'{estimate["images_per_second_per_host"]:,.0f}',
    )  # fmt: skip
    TABLE.append(f'| {" | ".join(map(str, cells))} |')
    print(TABLE[-1], flush=True)  # Compiling takes minutes.
  data, hybrid = (result['compare'][form] for form in ('data', 'hybrid'))
  if (name, each) == ('v5e:2x2', 256):
    # Plain Flax's are 29.6 M: python benchmarks/tpu_step.py.
    assert data['estimated_cycles'] <= 20e6
    assert hybrid['estimated_cycles'] <= 18.8e6
  # docs/pods.md says so. On 64 chips each has 64 units, and the matrix unit
  # multiplies 128 at once.
  faster = 'hybrid' if config.batch_size <= 4096 else 'data'
  assert result['recommended'] == faster


def test_hybrid_trains_the_papers_network_as_data_parallelism_does():
  """At full size, on four of this machine's CPU devices.

  At the paper's learning rate these random images make the loss rise. Then the
  order of sums alone changes the parameters by 2e-3 in 20 steps, also those of
  data parallelism on one and on four devices.
  """
  config = imagenet.get_config().optimizer
  config.learning_rate = 1e-4
  model = AlexNet(ARCHITECTURES['paper'].with_dropout(rate=0.0))
  sgd = optimizer.paper_sgd()
  plateau = optimizer.plateau_decay(config)
  state = jax.device_get(steps.create_train_state(model, sgd, plateau, 227, 0))
  rates = optimizer.rates_of(config, 100, 100)
  found = []
  for parallelism in ('data', 'hybrid'):
    placed = place(model, state, parallelism, jax.devices()[:4])
    step = steps.p_train_step(
      placed, model=model, tx=sgd, rates=rates, dropout_key=jax.random.key(1)
    )
    trained, rng = placed.put(state), np.random.default_rng(0)
    for _ in range(20):
      images = rng.normal(0, 50, (4, 4, 227, 227, 3)).astype(np.float32)
      labels = rng.integers(0, 1000, (4, 4)).astype(np.int32)
      trained = step(trained, {'image': images, 'label': labels})
    leaves = jax.tree.leaves(jax.device_get(trained.params))
    found.append(np.concatenate([np.ravel(x) for x in leaves]))
  data, hybrid = found
  assert np.linalg.norm(hybrid - data) < 1e-6 * np.linalg.norm(data)


def test_the_input_is_in_its_fast_form():
  """Blocks of pixels, in bfloat16: docs/speed.md."""
  config = imagenet.get_config()
  config.batch_size, config.model.dtype = 1024, 'bfloat16'
  compiled = compilation.Steps(config, topologies.find('v5e:2x2'))
  image = compiled.train_batch(1024)['image']
  assert image.shape == (4, 256, 57, 57, 48)
  assert image.dtype == 'bfloat16'


def test_a_batch_that_does_not_fit():
  """The evaluation step compiles faster than the training step."""
  topology = topologies.find('v5e:1x1')
  compiled = compilation.Steps(narrow.get_config(), topology)
  over = compiled.evaluate(400_000)
  assert not over.fits(topology)
  assert over.needed_bytes > topology.memory_bytes
  fits, fits_not = fitting.largest_that_fits(compiled.evaluate, over, topology)
  assert 1000 < fits < fits_not <= fits * 1.125 + 1
  assert compiled.evaluate(fits).fits(topology)


def test_hosts():
  arguments = ('--config=tests/narrow.py', '--compile_only')
  done = preflight(*arguments, '--topology=v5e:4x4', '--hosts=3', status=2)
  assert 'v5e:4x4 has 4 host(s) of 4 devices' in done.stderr
  # Eight chips have one host, or on GKE two.
  v6e = topologies.find('v6e:2x4')
  assert v6e.num_hosts == 1
  assert v6e.memory_bytes == pytest.approx(32e9, rel=0.1)
  assert topologies.find('v6e:2x4', 2).num_hosts == 2
  v5p = topologies.find('v5p:4x4x4')
  assert (len(v5p.devices), v5p.num_hosts) == (64, 16)
  assert v5p.memory_bytes == pytest.approx(95e9, rel=0.1)


@pytest.fixture(scope='module', autouse=True)
def table():
  yield
  print(f'\n| {" | ".join(HEAD)} |\n{"|---" * len(HEAD)}|')
  print('\n'.join(TABLE))
