"""The network that a config names."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.ablations import ablated


def build_model(config: Any, platform: str | None = None) -> AlexNet:
  """The network that `config.model`, or that of a config.json, names.

  Args:
    config: of the model.
    platform: for which it is to be fast; JAX's own where not given.
  """
  platform = platform or jax.default_backend()
  changes = {'scale_at': config.get('dropout_scaling', 'train')}
  if config.get('dropout_rate') is not None:
    changes['rate'] = config['dropout_rate']
  architecture = ablated(
    ARCHITECTURES[config['name']], config.get('ablations', ())
  )
  return AlexNet(
    architecture.with_dropout(**changes),
    num_classes=config['num_classes'],
    dtype=jnp.dtype(config.get('dtype', 'float32')),
    conv_batch=128 if platform == 'tpu' else None,
  )


def abstract_params(model: AlexNet, image_size: int) -> Any:
  """Shapes and dtypes of a network's parameters at an input size."""
  images = np.zeros((1, image_size, image_size, 3))
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']
