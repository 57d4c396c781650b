"""Compares each network with an independent PyTorch network; prints a table.

  python tests/parity.py

The reference, torch_alexnets.py, was written from the originals, independently
of this project's networks. Both get the same random weights and pixels in
float64, at a scale where LRN matters. Compared are the logits, `features`, and
the gradient of the loss with respect to each parameter.

In float32, as people run the network, only the logits are compared. There a
gradient may take another way, in PyTorch as here: where float32 cannot
distinguish two activations of a pooling window, or an activation from zero.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_alexnets

from alexnet_jax.model import ARCHITECTURES, AlexNet

_BATCH = 2
_CLASSES = 1000
_PIXEL_STD = 60.0  # Grey levels, as in photographs.

REFERENCES = {
  'paper': 'the 2012 text',
  'krizhevsky2012': 'computerhistory/AlexNet-Source-Code, layers-145.cfg',
  'owt': 'cuda-convnet2, layers-imagenet-1gpu.cfg',
  'caffe': 'BVLC/caffe, models/bvlc_alexnet',
  'caffenet': 'BVLC/caffe, models/bvlc_reference_caffenet',
  'torchvision': 'pytorch/vision, models/alexnet.py',
}


@dataclasses.dataclass(frozen=True)
class Errors:
  """Largest differences, relative to the largest reference value."""

  parameters: int
  logits: float
  features: float
  gradient: float
  worst_gradient: str
  float32_logits: float


def random_weights(
  name: str, num_classes: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
  """Draws kernels (in our layout) and biases, float64.

  Their scale keeps the spread from layer to layer (He). With pixels of a
  standard deviation of 60 grey levels, LRN's sums of squares then matter as
  much as its k.
  """
  rng = np.random.default_rng(seed)
  architecture = ARCHITECTURES[name]
  images = np.zeros((1, architecture.input_size, architecture.input_size, 3))
  model = AlexNet(architecture, num_classes)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  weights = {}
  for layer, leaves in shapes.items():
    shape = leaves['kernel'].shape
    std = np.sqrt(2 / np.prod(shape[:-1]))
    weights[layer] = {
      'kernel': rng.normal(0, std, shape),
      'bias': rng.normal(0, 1, shape[-1]),
    }
  return weights


def to_torch(kernel: np.ndarray, maps: tuple[int, int, int] | None = None):
  """Converts a kernel to PyTorch's layout.

  Args:
    kernel: `[kh, kw, in / groups, out]` or `[in, out]`.
    maps: height, width and channels of the maps that a dense layer flattens.
  """
  if kernel.ndim == 4:
    return kernel.transpose(3, 2, 0, 1)
  if maps:
    kernel = kernel.reshape(*maps, -1).transpose(2, 0, 1, 3)
  return kernel.reshape(-1, kernel.shape[-1]).T


def compare(name: str, seed: int = 0) -> Errors:
  """Runs one network in PyTorch and in JAX, forward and backward."""
  weights = random_weights(name, _CLASSES, seed)
  rng = np.random.default_rng(seed + 1)
  size = ARCHITECTURES[name].input_size
  images = rng.normal(0, _PIXEL_STD, (_BATCH, size, size, 3))
  labels = rng.integers(0, _CLASSES, _BATCH)
  logits, features, gradients = _in_torch(name, weights, images, labels)
  with jax.enable_x64(True):
    found = _in_jax(name, weights, images, labels)
  errors = {
    layer: max(
      _error(to_torch(found[2][layer]['kernel'], _maps(layer)), kernel),
      _error(found[2][layer]['bias'], bias),
    )
    for layer, (kernel, bias) in gradients.items()
  }
  worst = max(errors, key=lambda layer: errors[layer])
  single = jax.tree.map(lambda x: x.astype(np.float32), weights)
  return Errors(
    parameters=sum(leaf.size for leaf in jax.tree.leaves(weights)),
    logits=_error(found[0], logits),
    features=_error(found[1], features),
    gradient=errors[worst],
    worst_gradient=worst,
    float32_logits=_error(
      jax.jit(AlexNet(ARCHITECTURES[name]).apply)(
        {'params': single}, images.astype(np.float32)
      ),
      logits,
    ),
  )


def _maps(layer: str) -> tuple[int, int, int] | None:
  return (6, 6, 256) if layer == 'fc6' else None


def _error(found: np.ndarray, expected: np.ndarray) -> float:
  assert found.shape == expected.shape
  return float(np.abs(found - expected).max() / np.abs(expected).max())


def _in_torch(name, weights, images, labels):
  network = torch_alexnets.build(name).double()
  with torch.no_grad():
    for layer, leaves in weights.items():
      module = getattr(network, layer)
      kernel = to_torch(leaves['kernel'], _maps(layer))
      module.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
      module.bias.copy_(torch.from_numpy(leaves['bias']))
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  logits = network(x)
  torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
  gradients = {
    layer: (
      getattr(network, layer).weight.grad.numpy(),
      getattr(network, layer).bias.grad.numpy(),
    )
    for layer in weights
  }
  with torch.no_grad():
    return logits.numpy(), network.features(x).numpy(), gradients


def _in_jax(name, weights, images, labels):
  model = AlexNet(ARCHITECTURES[name], dtype=jnp.float64)
  images = jnp.asarray(images)

  def loss_fn(params):
    logits = model.apply({'params': params}, images)
    log_probs = jax.nn.log_softmax(logits)
    return -log_probs[np.arange(len(labels)), labels].mean(), logits

  grads, logits = jax.jit(jax.grad(loss_fn, has_aux=True))(weights)
  features = jax.jit(functools.partial(model.apply, method='features'))(
    {'params': weights}, images
  )
  return jax.device_get((logits, features, grads))


def check(errors: Errors) -> None:
  """Fails unless the arithmetic is the same: only rounding differs."""
  assert errors.logits < 1e-11, errors
  assert errors.features < 1e-11, errors
  assert errors.gradient < 1e-11, errors
  assert errors.float32_logits < 1e-4, errors


def main() -> None:
  """Prints the table, in Markdown; fails if a network differs."""
  print(
    '| network | parameters | reference | logits | features | gradients |'
    ' logits in float32 |\n|---|---|---|---|---|---|---|'
  )
  for name, reference in REFERENCES.items():
    errors = compare(name)
    print(
      f'| `{name}` | {errors.parameters:,} | {reference} |'
      f' {errors.logits:.0e} | {errors.features:.0e} |'
      f' {errors.gradient:.0e} ({errors.worst_gradient}) |'
      f' {errors.float32_logits:.0e} |',
      flush=True,
    )
    check(errors)


if __name__ == '__main__':
  main()
