"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax.

The names below are imported when they are first used, so `import alexnet_jax`
takes no time.

Example:
  >>> import jax, jax.numpy as jnp
  >>> import alexnet_jax
  >>> model = alexnet_jax.AlexNet(alexnet_jax.ARCHITECTURES['paper'])
  >>> images = jnp.zeros((1, 227, 227, 3))
  >>> shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  >>> shapes['params']['conv1']['kernel'].shape
  (11, 11, 3, 96)
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from alexnet_jax.model import (
    ARCHITECTURES,
    AlexNet,
    local_response_normalization,
  )
  from alexnet_jax.pretrained import load
  from alexnet_jax.pretrained.perceptual import perceptual_distance

__version__ = '0.1.0'
__all__ = [
  'ARCHITECTURES',
  'AlexNet',
  'load',
  'local_response_normalization',
  'perceptual_distance',
]

_MODULES = {
  'ARCHITECTURES': 'alexnet_jax.model',
  'AlexNet': 'alexnet_jax.model',
  'load': 'alexnet_jax.pretrained',
  'local_response_normalization': 'alexnet_jax.model',
  'perceptual_distance': 'alexnet_jax.pretrained.perceptual',
}

# Before TensorFlow is imported: errors raise exceptions besides being logged.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# On gs://, a removed folder is gone at once (not after 5 s). TensorFlow tries a
# request six times, each until nothing has come for 8 s, with 38 s of pauses:
# storage that does not answer is an error within two minutes (not seven).
# tensorstore, which Orbax uses, would wait for ever for an answer.
for _name, _value in {
  'GCS_STAT_CACHE_MAX_AGE': 0,
  'GCS_REQUEST_CONNECTION_TIMEOUT_SECS': 8,
  'GCS_REQUEST_IDLE_TIMEOUT_SECS': 8,
  'GCS_RETRY_CONFIG_MAX_RETRIES': 5,
  'GCS_RETRY_CONFIG_INIT_DELAY_TIME_US': 2_000_000,
  'GCS_RETRY_CONFIG_MAX_DELAY_TIME_US': 12_000_000,
  'TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS': 8,
  'TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES': 1,
  'TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS': 20,
}.items():
  os.environ.setdefault(_name, str(_value))


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return [*__all__, '__version__']
