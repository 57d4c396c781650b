"""Exports a network with its parameters: StableHLO, or a state dict."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained.layouts import from_params
from alexnet_jax.pretrained.loading import Pretrained
from alexnet_jax.pretrained.torch_files import import_module
from alexnet_jax.pretrained.torchvision import NAMES

# The ends of state dicts' names.
STATE_DICTS = ('.pth', '.pt', '.safetensors')


def logits_fn(network: Pretrained) -> Callable[[jax.Array], Any]:
  """Returns the function from pixels to logits, which holds the parameters."""
  params = jax.device_put(network.params)

  def logits(images: jax.Array) -> Any:
    return network.model.apply({'params': params}, images)

  return logits


def to_stablehlo(network: Pretrained) -> bytes:
  """Returns a serialized `jax.export.Exported` for CPU, GPU and TPU.

  Its batch size is free.
  """
  size = network.preprocessing.crop_size
  (batch,) = jax.export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
  exported = jax.export.export(
    jax.jit(logits_fn(network)), platforms=('cpu', 'cuda', 'tpu')
  )(images)
  return bytes(exported.serialize())


def write_state_dict(path: str, network: Pretrained) -> None:
  """Writes a network's parameters as torchvision's state dict, bit for bit.

  Args:
    path: the new file's, which ends in one of `STATE_DICTS`.
    network: torchvision's, trained or converted.

  Raises:
    UserError: the network is another one, or it was changed.
    StorageError: the file cannot be written.
  """
  torch = import_module('torch')
  architecture = network.model.architecture
  if architecture.name != 'torchvision':
    raise UserError(
      f'the network is {architecture.name!r}: only torchvision can become a '
      'torchvision state dict'
    )
  if network.dropout_scaling != 'train':
    raise UserError(
      'the network scales at test time (model.dropout_scaling); torchvision '
      'scales in training: the same weights would give another network'
    )
  if architecture.with_dropout(rate=0.5) != ALEXNETS['torchvision']:
    raise UserError(
      "the network is torchvision's with parts changed (model.ablations): its "
      'weights would give another network in PyTorch'
    )
  weights = from_params(architecture, network.params)
  state = {
    f'{NAMES[layer]}.{kind}': torch.from_numpy(array.copy())
    for layer, pair in weights.items()
    for kind, array in zip(('weight', 'bias'), pair, strict=True)
  }
  if pathlib.Path(path).suffix == '.safetensors':
    encoded = import_module('safetensors.torch').save(state)
    write_file(path, lambda file: file.write(encoded))
  else:
    write_file(path, lambda file: torch.save(state, file))
