"""LPIPS, compared with a computation in PyTorch."""

import sys

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import jax
import numpy as np
import torch
import torch_alexnets
from torch.nn import functional as F

import alexnet_jax
from alexnet_jax.cli.errors import UserError
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.pretrained import Pretrained
from alexnet_jax.pretrained.perceptual import read_linear

CHANNELS = (64, 192, 384, 256, 256)


@pytest.fixture(scope='module')
def network():
  """torchvision's convolutions with random weights; fc6 to fc8 are not used."""
  rng = np.random.default_rng(0)
  params, inputs = {}, 3
  for i, (side, outputs) in enumerate(
    zip((11, 5, 3, 3, 3), CHANNELS, strict=True), 1
  ):
    shape = (side, side, inputs, outputs)
    std = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    params[f'conv{i}'] = {
      'kernel': rng.standard_normal(shape, np.float32) * std,
      'bias': rng.standard_normal(outputs, np.float32) / 10,
    }
    inputs = outputs
  model = AlexNet(ARCHITECTURES['torchvision'])
  return Pretrained(model, params, None, 0, 0, 'train')


@pytest.fixture(scope='module')
def linear(tmp_path_factory):
  """A file as the package has it: weights from 0 up."""
  rng = np.random.default_rng(1)
  path = tmp_path_factory.mktemp('lpips') / 'alex.pth'
  tensors = {
    f'lin{i}.model.1.weight': torch.from_numpy(
      rng.uniform(0, 1, (1, n, 1, 1)).astype(np.float32)
    )
    for i, n in enumerate(CHANNELS)
  }
  torch.save(tensors, path)
  return path


def in_torch(network, x, y, linear):
  """LPIPS v0.1, from its paper and the package's documentation."""
  reference = torch_alexnets.build('torchvision', 10).to(x.dtype)
  shift = torch.tensor([-0.030, -0.088, -0.188], dtype=x.dtype)
  scale = torch.tensor([0.458, 0.448, 0.450], dtype=x.dtype)

  def features(images):
    h = ((images / 255 * 2 - 1) - shift) / scale
    h, found = h.permute(0, 3, 1, 2), []
    for i in range(1, 6):
      conv = getattr(reference, f'conv{i}')
      leaves = network.params[f'conv{i}']
      kernel = torch.from_numpy(leaves['kernel']).permute(3, 2, 0, 1)
      h = F.conv2d(
        h, kernel.to(x.dtype), torch.from_numpy(leaves['bias']).to(x.dtype),
        stride=conv.stride, padding=conv.padding,
      )  # fmt: skip
      h = F.relu(h)
      norm = h.square().sum(1, keepdim=True).sqrt()
      found.append(h / (norm + 1e-10))
      h = torch_alexnets.pool(h) if i < 3 else h
    return found

  total = 0
  weights = torch.load(linear, weights_only=True)
  for i, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
    w = weights[f'lin{i}.model.1.weight'].to(x.dtype)
    total = total + F.conv2d((a - b).square(), w).mean((1, 2, 3))
  return total


@pytest.mark.parametrize('kind', ['random', 'real', 'small'])
def test_lpips_equals_pytorchs(network, linear, photographs, kind):
  if kind == 'real':
    x = np.stack([p[:128, :160] for p in photographs])
    y = np.stack([p[3:131, 2:162] for p in photographs])
  else:
    size = 64 if kind == 'random' else 31
    x, y = np.random.default_rng(2).uniform(0, 255, (2, 3, size, size, 3))
  x, y = x.astype(np.float32), y.astype(np.float32)
  expected = in_torch(network, torch.tensor(x), torch.tensor(y), linear)
  found = alexnet_jax.perceptual_distance(network, x, y, linear)
  assert found.shape == (len(x),)
  assert (expected > 1e-3).all()
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # Pixels as files have them, and the order of the images does not matter.
  if kind == 'real':
    whole = [a.astype(np.uint8) for a in (y, x)]
    again = alexnet_jax.perceptual_distance(network, *whole, str(linear))
    np.testing.assert_allclose(again, expected, rtol=1e-5)


def test_its_gradient_equals_pytorchs(network, linear):
  x, y = np.random.default_rng(3).uniform(0, 255, (2, 2, 40, 47, 3))
  theirs = torch.tensor(x, requires_grad=True)
  in_torch(network, theirs, torch.tensor(y), linear).sum().backward()
  weights = read_linear(linear)

  with jax.enable_x64(True):
    gradient = jax.jit(
      jax.grad(
        lambda x: alexnet_jax.perceptual_distance(network, x, y, weights).sum()
      )
    )(x)
    assert gradient.dtype == np.float64
  np.testing.assert_allclose(
    gradient, theirs.grad, atol=1e-9 * float(theirs.grad.abs().max())
  )


def test_gradients_are_finite_where_nothing_is_active(network, linear):
  """Of equal images, and where no unit of a layer is above zero."""
  params = {
    name: {**leaves, 'bias': np.full_like(leaves['bias'], -1e3)}
    for name, leaves in network.params.items()
  }
  x = np.full((1, 40, 40, 3), 128, np.float32)
  weights = read_linear(linear)
  for one in (network, network._replace(params=params)):

    @jax.jit
    @jax.value_and_grad
    def distance(x, one=one):
      y = np.full(x.shape, 128, np.float32)
      return alexnet_jax.perceptual_distance(one, x, y, weights).sum()

    value, gradient = distance(x)
    assert 0 <= value < 1e-9
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_the_installed_packages_weights(linear, tmp_path, monkeypatch):
  """They are found without importing the package."""
  folder = tmp_path / 'lpips/weights/v0.1'
  folder.mkdir(parents=True)
  (tmp_path / 'lpips/__init__.py').write_text('raise AssertionError')
  (folder / 'alex.pth').write_bytes(linear.read_bytes())
  monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
  found, expected = read_linear(), read_linear(linear)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_refusals(network, linear, tmp_path, monkeypatch):
  images = np.zeros((1, 40, 40, 3))
  distance = alexnet_jax.perceptual_distance
  other = network._replace(model=AlexNet(ARCHITECTURES['caffe']))
  with pytest.raises(UserError, match='not caffe: give'):
    distance(other, images, images, linear)
  with pytest.raises(ValueError, match='expected two equal shapes'):
    distance(network, images, images[:, 1:], linear)
  with pytest.raises(ValueError, match='needs at least 31x31'):
    distance(network, images[:, 10:], images[:, 10:], linear)
  monkeypatch.setattr(sys, 'path', [])
  with pytest.raises(UserError, match='pip install lpips, or give the path'):
    distance(network, images, images)
  tensors = torch.load(linear, weights_only=True)
  del tensors['lin4.model.1.weight']
  torch.save(tensors, tmp_path / 'four.pth')
  with pytest.raises(UserError, match='does not hold the weights of LPIPS'):
    distance(network, images, images, tmp_path / 'four.pth')
