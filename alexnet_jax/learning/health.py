"""Statistics of each layer, to find out why a loss does not fall."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.learning.finish import Finish, finished_on_host
from alexnet_jax.model import AlexNet
from alexnet_jax.model.layer_types import Activation

Health = dict[str, dict[str, float]]


def layer_health(
  before: Any,
  after: Any,
  batch: dict[str, jax.Array],
  *,
  model: AlexNet,
  finish: Finish = finished_on_host,
) -> Health:
  """Measures the activations and the update of each layer.

  Args:
    before: parameters before one step, on the host or on one device.
    after: parameters after that step.
    batch: `image`, `[N, H, W, 3]`, and the other arrays that `finish` needs.
    model: the network.
    finish: computes the network's input from the batch (`finish.finisher`).

  Returns:
    For each layer:

      dead: fraction of units (of a convolution, channels) whose ReLU is 0 for
        all images; NaN if the layer has no ReLU.
      activation: root mean square of the layer's output, after its ReLU.
      update: norm of the kernel's change, divided by the kernel's norm.
  """

  @jax.jit
  def measure(before, after, batch):
    # The batch is not split: each part would be captured separately.
    _, captured = model.clone(conv_batch=None).apply(
      {'params': before},
      finish(batch),
      capture_intermediates=True,
      mutable=['intermediates'],
    )
    arch = model.architecture
    activate: Callable = nn.relu if arch.activation == 'relu' else jnp.tanh
    health = {}
    for name, layer in zip(arch.layer_names, arch.layers, strict=True):
      [x] = captured['intermediates'][name]['__call__']
      x = x.astype(jnp.float32)
      dead: Any = jnp.nan
      if any(isinstance(op, Activation) for op in layer.then):
        if arch.activation == 'relu':
          dead = jnp.mean((x <= 0).all(axis=range(x.ndim - 1)))
        x = activate(x)
      kernel = before[name]['kernel']
      step = after[name]['kernel'] - kernel
      health[name] = {
        'dead': dead,
        'activation': jnp.sqrt(jnp.mean(x**2)),
        'update': jnp.linalg.norm(step) / jnp.linalg.norm(kernel),
      }
    return health

  values = jax.device_get(measure(before, after, batch))
  return jax.tree.map(float, values)
