"""Compares exported ONNX models with the networks themselves.

`make test-onnx` runs it in .venv-onnx; `make test` does not. The interpreter of
.venv, named by MAIN_PYTHON, makes the workdirs and the expected logits.
"""

import os
import subprocess

import numpy as np
import onnxruntime
import pytest

from alexnet_jax import export
from alexnet_jax.model import ALEXNETS

_MAKE = """
import sys
import jax, numpy as np
from etils import epath
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.pretrained import conversion

name, folder = sys.argv[1:]
model = AlexNet(ARCHITECTURES[name], num_classes=10)
size = ARCHITECTURES[name].input_size
images = np.random.default_rng(0).normal(0, 60, (3, size, size, 3))
images = images.astype(np.float32)
params = jax.jit(model.init)(jax.random.key(0), images)['params']
# Large enough for each layer, and LRN, to matter.
params = {
  layer: {
    'kernel': p['kernel'] / p['kernel'].std()
    * np.sqrt(2 / np.prod(p['kernel'].shape[:-1])),
    'bias': p['bias'],
  }
  for layer, p in params.items()
}
conversion.write_workdir(
  epath.Path(folder) / 'run',
  jax.device_get(params),
  {'model': {'name': name, 'num_classes': 10}},
  Preprocessing(**conversion.IMAGENET, crop_size=size, class_names=(),
                resize='warp', mean=np.zeros(3), mean_crop='center',
                std=np.ones(3)),
)
logits = jax.jit(model.apply)({'params': params}, images)
np.savez(folder + '/expected.npz', images=images, logits=logits)
"""


@pytest.mark.parametrize('name', ALEXNETS)
def test_onnx_runtime_agrees(name, tmp_path):
  subprocess.run(
    [os.environ['MAIN_PYTHON'], '-c', _MAKE, name, str(tmp_path)], check=True
  )
  file = tmp_path / 'net.onnx'
  export.main([str(file), f'--workdir={tmp_path / "run"}'])
  session = onnxruntime.InferenceSession(str(file))
  (images,) = session.get_inputs()
  with np.load(tmp_path / 'expected.npz') as expected:
    scale = np.abs(expected['logits']).max()
    for n in (1, 3):  # The batch size is free.
      (logits,) = session.run(None, {images.name: expected['images'][:n]})
      assert logits.shape == (n, 10)
      error = np.abs(logits - expected['logits'][:n]).max() / scale
      print(f'{name}, batch {n}: {error:.0e}')
      assert error < 1e-4
