"""Trained and converted networks, ready to use.

from alexnet_jax.pretrained import load

network = load('runs/imagenet')
logits = network.model.apply({'params': network.params}, images)
"""

from alexnet_jax.pretrained.loading import Pretrained, load

__all__ = ['Pretrained', 'load']
