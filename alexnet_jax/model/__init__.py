"""The networks: `AlexNet`, its `ARCHITECTURES`, and the LRN op."""

from alexnet_jax.model import cifar10
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.architectures import ALEXNET_BN, ALEXNETS
from alexnet_jax.model.layer_types import Architecture
from alexnet_jax.model.lrn import local_response_normalization

# The values of `config.model.name`.
ARCHITECTURES: dict[str, Architecture] = {
  **ALEXNETS,
  ALEXNET_BN.name: ALEXNET_BN,
  **cifar10.NETWORKS,
}

__all__ = [
  'ALEXNETS',
  'ARCHITECTURES',
  'AlexNet',
  'Architecture',
  'local_response_normalization',
]
