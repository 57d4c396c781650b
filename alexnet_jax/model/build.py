"""Builds the network that a config describes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.ablations import ablated


def build_model(config: Any, platform: str | None = None) -> AlexNet:
  """Returns the network that `config.model` describes.

  Args:
    config: `config.model`, or the same object of a run's config.json.
    platform: the platform to optimize for, such as 'tpu'; by default JAX's
      current one.

  Example:
    >>> model = build_model({'name': 'caffe', 'num_classes': 10})
    >>> model.architecture.input_size
    227
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
    # A network without a dataset, as in preflight, has ImageNet's.
    num_classes=config['num_classes'] or 1000,
    dtype=jnp.dtype(config.get('dtype', 'float32')),
    # Batch normalization needs the statistics of the batch, not of its parts.
    conv_batch=128
    if platform == 'tpu' and not architecture.has_batch_norm
    else None,
  )


def abstract_params(model: AlexNet, image_size: int) -> Any:
  """Returns the shapes and dtypes of a network's parameters.

  Args:
    model: the network.
    image_size: height and width of its images, in pixels.
  """
  images = np.zeros((1, image_size, image_size, 3))
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']
