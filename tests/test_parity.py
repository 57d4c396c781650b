"""The six networks and LRN, compared with PyTorch and TensorFlow."""

import dataclasses

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import jax
import jax.numpy as jnp
import numpy as np
import parity
import tensorflow as tf
import torch
import torch_alexnets
from test_alexnet import PARAMETERS

from alexnet_jax.model import (
  ALEXNETS,
  ARCHITECTURES,
  AlexNet,
  local_response_normalization,
)
from alexnet_jax.model.layer_types import LRN


def test_each_network_has_a_reference():
  ours = set(ALEXNETS)
  assert set(torch_alexnets.NAMES) == ours == set(PARAMETERS)


# `make parity` compares all six.
@pytest.mark.long
@pytest.mark.parametrize('name', ['paper'])
def test_a_network_equals_its_reference(name):
  errors = parity.compare(name)
  assert errors.parameters == PARAMETERS[name]
  parity.check(errors)


@pytest.mark.parametrize('name', ['paper', 'caffenet'])
def test_the_comparison_notices_another_lrn(name):
  """Dividing alpha by the window must change logits beyond the tolerance."""
  weights = parity.random_weights(name, 1000, seed=0)
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)
  architecture = ARCHITECTURES[name]
  layers = tuple(
    dataclasses.replace(
      layer,
      then=tuple(
        dataclasses.replace(op, alpha=op.alpha / 5)
        if isinstance(op, LRN)
        else op
        for op in layer.then
      ),
    )
    for layer in architecture.layers
  )
  other = dataclasses.replace(architecture, layers=layers)
  size = architecture.input_size
  rng = np.random.default_rng(1)
  images = jnp.asarray(rng.normal(0, 60, (1, size, size, 3)), jnp.float32)
  logits, others = (
    jax.jit(AlexNet(a).apply)({'params': params}, images)
    for a in (architecture, other)
  )
  assert jnp.abs(logits - others).max() > 0.03 * jnp.abs(logits).max()


@pytest.mark.parametrize('size', [1, 3, 5, 9])
def test_lrn_equals_pytorchs_and_tensorflows(size):
  rng = np.random.default_rng(size)
  x = rng.normal(0, 20, (2, 7, 6, 12)).astype(np.float32)
  cotangent = rng.normal(size=x.shape).astype(np.float32)
  k, alpha, beta = 1.5, 2e-3, 0.6
  ours, vjp = jax.vjp(
    lambda x: local_response_normalization(
      x, size=size, k=k, alpha=alpha, beta=beta
    ),
    x,
  )
  (our_gradient,) = vjp(cotangent)

  in_torch = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
  # PyTorch divides alpha by the window's size.
  lrn = torch.nn.LocalResponseNorm(size, alpha=alpha * size, beta=beta, k=k)
  theirs = lrn(in_torch)
  theirs.backward(torch.tensor(cotangent).permute(0, 3, 1, 2))
  assert in_torch.grad is not None
  for found, expected in (
    (ours, theirs.detach()),
    (our_gradient, in_torch.grad),
  ):
    np.testing.assert_allclose(
      found, expected.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5
    )

  in_tensorflow = tf.constant(x)
  with tf.GradientTape() as tape:
    tape.watch(in_tensorflow)
    # TensorFlow does not divide alpha, and takes the channels on one side.
    theirs = tf.nn.local_response_normalization(
      in_tensorflow, size // 2, bias=k, alpha=alpha, beta=beta
    )
  gradient = tape.gradient(theirs, in_tensorflow, tf.constant(cotangent))
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(our_gradient, gradient, rtol=1e-4, atol=1e-5)
