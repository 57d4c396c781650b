"""Trained and converted networks, ready for use.

network = pretrained.load('runs/imagenet')
logits = network.model.apply({'params': network.params}, images)
"""

from alexnet_jax.pretrained.loading import Pretrained, load

__all__ = ['Pretrained', 'load']
