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
import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from alexnet_jax.model import (
    ARCHITECTURES,
    AlexNet,
    local_response_normalization,
  )
  from alexnet_jax.pretrained import load

__version__ = '0.1.0'
__all__ = ['ARCHITECTURES', 'AlexNet', 'load', 'local_response_normalization']

_MODULES = {
  'ARCHITECTURES': 'alexnet_jax.model',
  'AlexNet': 'alexnet_jax.model',
  'load': 'alexnet_jax.pretrained',
  'local_response_normalization': 'alexnet_jax.model',
}

# Before TensorFlow is imported: errors raise exceptions besides being logged.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return [*__all__, '__version__']


def _prefer_eigen() -> None:
  """Leaves float32 convolutions on CPU to Eigen, as XLA did before.

  XLA gives them to YNNPACK now, which takes up to twice as long for this
  network (docs/speed.md). XLA reads the flag when it first compiles something;
  for programs that have done so before, nothing changes. Each version's
  compilers, those for TPU and GPU too, end the process at a flag they do not
  know.
  """
  flag = 'xla_cpu_experimental_ynn_fusion_type'
  flags = os.environ.get('XLA_FLAGS', '')
  # The version that it was tried with.
  if importlib.metadata.version('jaxlib') != '0.10.2' or flag in flags:
    return
  os.environ['XLA_FLAGS'] = (
    f'{flags} --{flag}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'.strip()
  )


_prefer_eigen()
