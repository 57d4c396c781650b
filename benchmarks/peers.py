"""AlexNet as people write it in other libraries, and steps of training it.

Each is made from the same `Architecture`, at the settings that were its best
on the machines that were tried; what those are stands at each.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import turns
from turns import Once

from alexnet_jax.model import Architecture
from alexnet_jax.model import architectures as layers

MOMENTUM, RATE, DECAY = 0.9, 1e-6, 5e-4


def batch_of(
  architecture: Architecture, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pictures `[N, H, W, 3]` float32, of the scale of pixels, and labels."""
  rng = np.random.default_rng(0)
  size = architecture.input_size
  images = rng.normal(size=(batch_size, size, size, 3)) * 50
  labels = rng.integers(0, 1000, batch_size)
  return images.astype(np.float32), labels.astype(np.int32)


def layer_inputs(
  architecture: Architecture,
) -> Iterator[tuple[str, layers.Conv | layers.Dense, int, int]]:
  """Each layer by name, with the side of its input in pixels and its channels.

  What a dense layer sees is one pixel.
  """
  inputs, size = 3, architecture.input_size
  for name, layer in zip(
    architecture.layer_names, architecture.layers, strict=True
  ):
    if isinstance(layer, layers.Dense):
      inputs, size = inputs * size**2, 1
    yield name, layer, size, inputs
    inputs = layer.features or 1000
    if isinstance(layer, layers.Conv):
      size = layer.output_size(size)
      for op in layer.then:
        if isinstance(op, layers.MaxPool):
          size = (size - op.window) // op.stride + 1


def flax_step(model: Any, architecture: Architecture, batch_size: int) -> Once:
  """A donated, jitted training step of any Flax module with these layers."""
  import jax
  import jax.numpy as jnp
  import optax

  images, labels = map(jnp.asarray, batch_of(architecture, batch_size))
  tx = optax.chain(
    optax.add_decayed_weights(DECAY), optax.sgd(RATE, momentum=MOMENTUM)
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, opt_state, images, labels):
    def loss_fn(params):
      logits = model.apply(
        {'params': params},
        images,
        train=True,
        rngs={'dropout': jax.random.key(0)},
      )
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels
      ).mean()

    grads = jax.grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params = jax.jit(model.init)(jax.random.key(0), images[:1])['params']
  state = [params, jax.jit(tx.init)(params)]

  def once():
    state[:] = jax.block_until_ready(step(*state, images, labels))

  return once


def flax_inference(
  model: Any, architecture: Architecture, batch_size: int
) -> Once:
  """A jitted forward pass of any such module."""
  import jax
  import jax.numpy as jnp

  images = jnp.asarray(batch_of(architecture, batch_size)[0])
  variables = jax.jit(model.init)(jax.random.key(0), images[:1])
  forward = jax.jit(model.apply)
  return lambda: jax.block_until_ready(forward(variables, images))


def plain_flax(architecture: Architecture, dtype: str = 'float32') -> Any:
  """What one would write first: nn.Conv, nn.max_pool, LRN by reduce_window."""
  import flax.linen as nn
  import jax

  def apply(op, x, train):
    match op:
      case layers.Activation():
        return nn.relu(x)
      case layers.LRN():
        half = op.size // 2
        total = jax.lax.reduce_window(
          x * x, 0.0, jax.lax.add, (1, 1, 1, op.size), (1, 1, 1, 1),
          ((0, 0), (0, 0), (0, 0), (half, half)),
        )  # fmt: skip
        return x / (op.k + op.alpha * total) ** op.beta
      case layers.MaxPool():
        return nn.max_pool(x, (op.window,) * 2, (op.stride,) * 2)
      case layers.Dropout():
        return nn.Dropout(op.rate, deterministic=not train)(x)
    raise TypeError(f'unknown operation {op!r}')

  class PlainAlexNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      x = x.astype(dtype)
      for name, layer in zip(
        architecture.layer_names, architecture.layers, strict=True
      ):
        if isinstance(layer, layers.Conv):
          x = nn.Conv(
            layer.features,
            (layer.kernel, layer.kernel),
            layer.stride,
            padding=[layer.padding] * 2,
            feature_group_count=layer.groups,
            name=name,
            dtype=x.dtype,
          )(x)
        else:
          x = nn.Dense(layer.features or 1000, name=name, dtype=x.dtype)(
            x.reshape(len(x), -1)
          )
        for op in layer.then:
          x = apply(op, x, train)
      return x.astype('float32')

  return PlainAlexNet()


def pytorch(architecture: Architecture) -> Any:
  """nn.Conv2d, nn.MaxPool2d, nn.LocalResponseNorm; ReLU in place."""
  from torch import nn

  modules: list[Any] = []
  inputs = 3
  size = architecture.spatial_size(architecture.input_size)
  flat = False
  for layer in architecture.layers:
    if isinstance(layer, layers.Conv):
      modules.append(
        nn.Conv2d(
          inputs,
          layer.features,
          layer.kernel,
          layer.stride,
          layer.padding[0],
          groups=layer.groups,
        )
      )
      inputs = layer.features
    else:
      if not flat:
        modules.append(nn.Flatten())
        inputs, flat = inputs * size**2, True
      modules.append(nn.Linear(inputs, layer.features or 1000))
      inputs = layer.features
    for op in layer.then:
      match op:
        case layers.Activation():
          modules.append(nn.ReLU(inplace=True))
        case layers.LRN():
          modules.append(
            nn.LocalResponseNorm(op.size, op.size * op.alpha, op.beta, op.k)
          )
        case layers.MaxPool():
          modules.append(nn.MaxPool2d(op.window, op.stride))
        case layers.Dropout():
          modules.append(nn.Dropout(op.rate))
        case _:
          raise TypeError(f'unknown operation {op!r}')
  return nn.Sequential(*modules)


def pytorch_step(
  architecture: Architecture, batch_size: int, channels_last: bool, train: bool
) -> Once:
  """Eager, on all cores; torch.optim.SGD(foreach=True).

  Tried: both memory layouts (both are run, the faster counts), SGD with
  foreach, fused and neither (within 2% of each other), ReLU in place or not.
  """
  import torch

  torch.set_num_threads(turns.cores())
  layout = torch.channels_last if channels_last else torch.contiguous_format
  model = pytorch(architecture).to(memory_format=layout)
  images, labels = batch_of(architecture, batch_size)
  x = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(
    memory_format=layout
  )
  y = torch.from_numpy(labels).long()
  if not train:
    model.eval()

    def forward():
      with torch.inference_mode():
        model(x)

    return forward
  optimizer = torch.optim.SGD(
    model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, foreach=True
  )

  def once():
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()

  return once


def keras_step(
  architecture: Architecture, batch_size: int, train: bool
) -> Once:
  """Keras layers on TensorFlow, in a tf.function; LRN is TensorFlow's own.

  Tried: jit_compile (XLA), slower by a third or more.
  """
  import os

  os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  import keras
  import tensorflow as tf

  images, labels = map(tf.constant, batch_of(architecture, batch_size))
  modules: list[Any] = [keras.Input(images.shape[1:])]
  flat = False
  for layer in architecture.layers:
    if isinstance(layer, layers.Conv):
      if any(layer.padding):
        modules.append(keras.layers.ZeroPadding2D((layer.padding,) * 2))
      modules.append(
        keras.layers.Conv2D(
          layer.features, layer.kernel, layer.stride, groups=layer.groups
        )
      )
    else:
      if not flat:
        modules.append(keras.layers.Flatten())
        flat = True
      modules.append(keras.layers.Dense(layer.features or 1000))
    for op in layer.then:
      match op:
        case layers.Activation():
          modules.append(keras.layers.ReLU())
        case layers.LRN():
          modules.append(
            keras.layers.Lambda(
              functools.partial(
                tf.nn.local_response_normalization,
                depth_radius=op.size // 2,
                bias=op.k,
                alpha=op.alpha,
                beta=op.beta,
              )
            )
          )
        case layers.MaxPool():
          modules.append(keras.layers.MaxPooling2D(op.window, op.stride))
        case layers.Dropout():
          modules.append(keras.layers.Dropout(op.rate))
        case _:
          raise TypeError(f'unknown operation {op!r}')
  model = keras.Sequential(modules)
  if not train:
    forward = tf.function(lambda: model(images, training=False))
    return lambda: forward().numpy()
  optimizer = keras.optimizers.SGD(RATE, MOMENTUM, weight_decay=DECAY)
  optimizer.build(model.trainable_variables)

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      logits = model(images, training=True)
      loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
      )
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(
      zip(grads, model.trainable_variables, strict=True)
    )
    return loss

  return lambda: step().numpy()
