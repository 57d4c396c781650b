"""Which layer died? What to look at when a loss stands still."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.learning.finish import Finish, finished_on_host
from alexnet_jax.model import AlexNet
from alexnet_jax.model.architectures import Activation

Health = dict[str, dict[str, float]]


def layer_health(
  before: Any,
  after: Any,
  batch: dict[str, jax.Array],
  *,
  model: AlexNet,
  finish: Finish = finished_on_host,
) -> Health:
  """The state of each layer.

  Args:
    before: parameters, host arrays or on one device.
    after: the same after one step.
    batch: `image` `[N, H, W, 3]`, and what else `finish` takes.
    model: the network.
    finish: from the batch to the network's input (`finish.finisher`).

  Returns:
    By layer: `dead`, the share of units (of a convolution: channels) whose ReLU
    passes nothing on for any image, NaN where the layer has none; `activation`,
    the root mean square of what the layer gives, after its ReLU; `update`,
    |step| / |kernel|, of the kernel.
  """

  @jax.jit
  def measure(before, after, batch):
    # At once: a layer that is called by parts of the batch gives several.
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
