"""Exports a network with its parameters as StableHLO or ONNX."""

import logging
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.export
import jax.numpy as jnp

from alexnet_jax.cli.errors import UserError
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


def to_onnx(network: Pretrained) -> bytes:
  """Returns a serialized ONNX model, whose batch size is free.

  Raises:
    UserError: jax2onnx is not installed.
  """
  try:
    import jax2onnx
  except ImportError as error:
    raise UserError(
      'ONNX needs jax2onnx, in an environment of its own: make .venv-onnx, '
      'then .venv-onnx/bin/python -m alexnet_jax.export ...'
    ) from error
  size = network.preprocessing.crop_size
  # It warns of unknown types for every operation; there is nothing to act on.
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)
  # jax2onnx knows no choice by platform, so the plain operations are exported.
  with mock.patch('jax.lax.platform_dependent', _by_default):
    model = jax2onnx.to_onnx(
      logits_fn(network), [('batch', size, size, 3)], model_name='alexnet'
    )
  return model.SerializeToString()


def _by_default(*args, default, **_):
  return default(*args)


# By the suffix of the file.
FORMATS = {'.stablehlo': to_stablehlo, '.onnx': to_onnx}
