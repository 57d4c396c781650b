"""Exports a network with its parameters as StableHLO."""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from alexnet_jax.pretrained.loading import Pretrained


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
