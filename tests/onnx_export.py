"""ONNX against the network that it was exported from: `make test-onnx`.

Not a part of `make test`: it runs in .venv-onnx, and asks the interpreter that
MAIN_PYTHON names (of .venv) for workdirs and for what they should say.
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
from alexnet_jax import convert
from alexnet_jax.data import preprocess
from alexnet_jax.model import ALEXNETS, ARCHITECTURES, AlexNet

name, folder = sys.argv[1:]
model = AlexNet(ARCHITECTURES[name], num_classes=10)
size = ARCHITECTURES[name].input_size
images = np.random.default_rng(0).normal(0, 60, (3, size, size, 3))
images = images.astype(np.float32)
params = jax.jit(model.init)(jax.random.key(0), images)['params']
# As large as make each layer, and LRN, matter.
params = {
  layer: {
    'kernel': p['kernel'] / p['kernel'].std()
    * np.sqrt(2 / np.prod(p['kernel'].shape[:-1])),
    'bias': p['bias'],
  }
  for layer, p in params.items()
}
convert._write_workdir(
  epath.Path(folder) / 'run',
  jax.device_get(params),
  {'model': {'name': name, 'num_classes': 10}},
  preprocess.Preprocessing(**convert._preprocessing(name), resize='warp',
                           mean=np.zeros(3), mean_crop='center',
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
    for n in (1, 3):  # Any batch.
      (logits,) = session.run(None, {images.name: expected['images'][:n]})
      assert logits.shape == (n, 10)
      error = np.abs(logits - expected['logits'][:n]).max() / scale
      print(f'{name}, batch {n}: {error:.0e}')
      assert error < 1e-4
