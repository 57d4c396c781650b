"""benchmarks/gpu_step.py --time, at toy size on CPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import imagenet

BENCHMARKS = pathlib.Path(__file__).parent.parent / 'benchmarks'
# A machine with a GPU needs none of them.
ABSENT = ('tensorflow', 'tensorflow_datasets', 'ml_collections')


@pytest.mark.long
def test_times_each_library_without_tensorflow(tmp_path):
  for name in ABSENT:
    (tmp_path / f'{name}.py').write_text('raise ImportError(__name__)\n')
  # One device, and less time to compile.
  flags = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  done = subprocess.run(
    [sys.executable, 'gpu_step.py', '--time', '--toy'],
    cwd=BENCHMARKS,
    env={**os.environ, **flags, 'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=240,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  *table, last = done.stdout.splitlines()
  assert max(map(len, table)) < 100
  result = json.loads(last)
  assert result['errors'] == {}
  assert result['skipped'] == []
  assert set(result['ratios']) >= {
    'gpu_bf16_paper_vs_flax',
    'gpu_f32_inference_paper_vs_flax',
  }
  if 'torch' in result:
    assert set(result['ratios']) >= {
      'gpu_bf16_paper_vs_pytorch',
      'gpu_f32_inference_paper_vs_pytorch_tf32',
    }
  assert all(share > 0 for share in result['share_of_product'].values())
  [program] = result['programs'].values()
  assert program['bytes_moved'] > 0
  assert program['temporaries'] > 0
  [failed] = result['steps_alone'].values()
  assert failed.startswith('builtins.TypeError: broadcast_in_dim shape')


def test_its_optimizer_is_that_of_the_config(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import gpu_rows

  config = imagenet.get_config().optimizer
  for name, value in vars(gpu_rows.OPTIMIZER).items():
    if name != 'learning_rate':
      assert config[name] == value, name
