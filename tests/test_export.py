"""Exported networks, run without this project."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from alexnet_jax import export, pretrained
from alexnet_jax.cli.errors import UserError

_USER = """
import pathlib, sys
import jax, jax.export, numpy as np

file = pathlib.Path('net.stablehlo').read_bytes()
f = jax.export.deserialize(bytearray(file))
assert not any(name == 'alexnet_jax' for name in sys.modules)
images = np.load('images.npy')
np.savez('logits.npz', one=f.call(images[:1]), five=f.call(images))
print(f.in_avals[0], f.platforms)
"""


def test_stablehlo_in_a_fresh_process(small_network, tmp_path, capsys):
  file = tmp_path / 'net.stablehlo'
  export.main([str(file), f'--workdir={small_network}'])
  assert '[batch, 64, 64, 3] -> [batch, 7]' in capsys.readouterr().out
  images = np.random.default_rng(0).normal(size=(5, 64, 64, 3))
  images = images.astype(np.float32)
  np.save(tmp_path / 'images.npy', images)
  done = subprocess.run(
    [sys.executable, '-c', _USER],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not done.returncode, done.stderr
  assert 'float32[batch,64,64,3]' in done.stdout
  assert "('cpu', 'cuda', 'tpu')" in done.stdout
  network = pretrained.load(small_network)
  expected = jax.jit(network.model.apply)({'params': network.params}, images)
  with np.load(tmp_path / 'logits.npz') as logits:
    np.testing.assert_allclose(logits['five'], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
      logits['one'], expected[:1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    (['net.pb'], r'must end in \.stablehlo or \.onnx'),
    (['absent/net.stablehlo'], 'no folder'),
    (['net.stablehlo', '--step=3'], "no checkpoint '3'"),
    (['net.stablehlo', '--workdir=absent'], 'no checkpoint in'),
    (['net.onnx'], 'onnx is required .* make venv EXTRAS=onnx'),
    (['net.stablehlo', '--layout=NCHW'], 'is for .onnx'),
  ],
)
def test_refusals(small_network, tmp_path, monkeypatch, arguments, match):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, 'onnx', None)  # Not installed.
  monkeypatch.delitem(
    sys.modules, 'alexnet_jax.pretrained.onnx_export', raising=False
  )
  with pytest.raises(UserError, match=match):
    export.main([f'--workdir={small_network}', *arguments])
  assert not list(tmp_path.iterdir())
