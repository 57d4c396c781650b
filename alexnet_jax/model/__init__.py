"""The networks: `AlexNet`, its `ARCHITECTURES`, and the LRN op."""

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architectures import ARCHITECTURES, Architecture
from alexnet_jax.model.lrn import local_response_normalization

__all__ = [
  'ARCHITECTURES',
  'AlexNet',
  'Architecture',
  'local_response_normalization',
]
