"""AlexNet in other libraries, with training steps and forward passes.

Each network is made from the same `Architecture`. Each function has the
settings that were the fastest on the machines we tried; its docstring names
them.
"""

import functools
from typing import Any

import numpy as np
import turns
from turns import Once

from alexnet_jax.model import Architecture
from alexnet_jax.model import layer_types as layers
from alexnet_jax.model.summary import layer_counts

MOMENTUM, RATE, DECAY = 0.9, 1e-6, 5e-4


@functools.lru_cache(maxsize=4)
def batch_of(
  architecture: Architecture, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns images `[N, H, W, 3]` float32, scaled like pixels, and labels.

  They repeat after 128 images, whose making would take long.
  """
  rng = np.random.default_rng(0)
  size = architecture.input_size
  images = rng.normal(size=(min(batch_size, 128), size, size, 3)) * 50
  labels = rng.integers(0, 1000, batch_size).astype(np.int32)
  shape = batch_size, *images.shape[1:]
  return np.resize(images.astype(np.float32), shape), labels


def flops(architecture: Architecture, train: bool) -> float:
  """Returns the operations per image: two for each multiply-add of a layer.

  The gradient of the image is not computed.
  """
  forward = [
    layer_counts(layer, size, channels)[1]
    for _, layer, size, channels in architecture.layer_inputs(
      architecture.input_size
    )
  ]
  total = sum(forward)
  return 2.0 * (3 * total - forward[0] if train else total)


def flax_step(
  model: Any,
  architecture: Architecture,
  batch_size: int,
  dtype: str = 'float32',
) -> Once:
  """Returns a donated, jitted training step of a Flax module.

  The images on the device have `dtype`.
  """
  import jax
  import jax.numpy as jnp
  import optax

  images, labels = map(jnp.asarray, batch_of(architecture, batch_size))
  images = images.astype(dtype)
  tx = optax.chain(
    optax.add_decayed_weights(DECAY), optax.sgd(RATE, momentum=MOMENTUM)
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(variables, opt_state, images, labels):
    # With batch normalization, its statistics.
    others = {k: v for k, v in variables.items() if k != 'params'}

    def loss_fn(params):
      logits, new = model.apply(
        {'params': params, **others},
        images,
        train=True,
        rngs={'dropout': jax.random.key(0)},
        mutable=list(others),
      )
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels
      ).mean(), new

    params = variables['params']
    grads, new = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return {'params': optax.apply_updates(params, updates), **new}, opt_state

  variables = jax.jit(model.init)(jax.random.key(0), images[:1])
  state = [variables, jax.jit(tx.init)(variables['params'])]

  def once(steps=1):
    for _ in range(steps):
      state[:] = step(*state, images, labels)
    jax.block_until_ready(state)

  return once


def flax_inference(
  model: Any,
  architecture: Architecture,
  batch_size: int,
  dtype: str = 'float32',
) -> Once:
  """Returns a jitted forward pass of a Flax module.

  The images on the device have `dtype`.
  """
  import jax
  import jax.numpy as jnp

  images = jnp.asarray(batch_of(architecture, batch_size)[0]).astype(dtype)
  variables = jax.jit(model.init)(jax.random.key(0), images[:1])
  forward = jax.jit(model.apply)

  def once(steps=1):
    jax.block_until_ready([forward(variables, images) for _ in range(steps)])

  return once


def plain_flax(architecture: Architecture, dtype: str = 'float32') -> Any:
  """Returns a straightforward Flax network: nn.Conv, nn.max_pool, and so on.

  LRN is a reduce_window.
  """
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
      case layers.BatchNorm():
        return nn.BatchNorm(
          not train,
          momentum=op.momentum,
          epsilon=op.epsilon,
          use_bias=False,
          use_scale=False,
        )(x)
      case layers.MaxPool():
        return nn.max_pool(x, (op.window,) * 2, (op.stride,) * 2)
      case layers.AvgPool():
        return x  # At the sizes that are timed, it does nothing.
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
  """Returns a PyTorch network with nn.LocalResponseNorm and in-place ReLU."""
  from torch import nn

  modules: list[Any] = []
  for _, layer, size, channels in architecture.layer_inputs(
    architecture.input_size
  ):
    if isinstance(layer, layers.Conv):
      modules.append(
        nn.Conv2d(
          channels,
          layer.features,
          layer.kernel,
          layer.stride,
          layer.padding[0],
          groups=layer.groups,
        )
      )
    else:
      inputs = size**2 * channels
      modules += [nn.Flatten(), nn.Linear(inputs, layer.features or 1000)]
    channels = layer.features or 1000
    for op in layer.then:
      match op:
        case layers.Activation():
          modules.append(nn.ReLU(inplace=True))
        case layers.BatchNorm():
          modules.append(
            nn.BatchNorm2d(channels, op.epsilon, 1 - op.momentum, affine=False)
          )
        case layers.LRN():
          modules.append(
            nn.LocalResponseNorm(op.size, op.size * op.alpha, op.beta, op.k)
          )
        case layers.MaxPool():
          modules.append(nn.MaxPool2d(op.window, op.stride))
        case layers.AvgPool():
          modules.append(nn.AdaptiveAvgPool2d(op.size))
        case layers.Dropout():
          modules.append(nn.Dropout(op.rate))
        case _:
          raise TypeError(f'unknown operation {op!r}')
  return nn.Sequential(*modules)


def pytorch_step(
  architecture: Architecture,
  batch_size: int,
  channels_last: bool,
  train: bool,
  *,
  device: str = 'cpu',
  dtype: str = 'float32',
  tf32: tuple[bool, bool] = (False, True),
  backend: str = '',
) -> Once:
  """Returns an eager training step or forward pass of PyTorch, on all cores.

  The optimizer is torch.optim.SGD: foreach=True on CPU, where fused and plain
  SGD were within 2% of it; fused=True on GPU. Both memory layouts are run on
  CPU, and the faster one counts. ReLU is in place; we tried both.

  Args:
    architecture: the network.
    batch_size: number of images.
    channels_last: the memory layout.
    train: a training step; otherwise a forward pass.
    device: 'cpu' or 'cuda'. On GPU, cuDNN chooses its kernels by timing them
      (torch.backends.cudnn.benchmark).
    dtype: 'bfloat16' runs under torch.autocast, and its images are bfloat16.
    tf32: whether float32 on GPU may use TF32 in matrix products and in
      convolutions; PyTorch's own default is (False, True).
    backend: of torch.compile; '' runs eagerly.
  """
  import torch

  torch.set_num_threads(turns.cores())
  layout = torch.channels_last if channels_last else torch.contiguous_format
  model = pytorch(architecture).to(device, memory_format=layout)
  images, labels = batch_of(architecture, batch_size)
  x = (
    torch.from_numpy(images)
    .to(device)
    .permute(0, 3, 1, 2)
    .to(getattr(torch, dtype), memory_format=layout)
  )
  y = torch.from_numpy(labels).long().to(device)
  on_gpu = device == 'cuda'
  forward = torch.compile(model, backend=backend) if backend else model

  def logits():
    if dtype == 'float32':
      return forward(x)
    with torch.autocast(device, getattr(torch, dtype)):
      return forward(x)

  def infer():
    with torch.inference_mode():
      logits()

  def learn():
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(logits().float(), y).backward()
    optimizer.step()

  if train:
    optimizer = torch.optim.SGD(
      model.parameters(),
      RATE,
      MOMENTUM,
      weight_decay=DECAY,
      **{'fused' if on_gpu else 'foreach': True},
    )
  model.train(train)

  def once(steps=1):
    if on_gpu:
      torch.backends.cudnn.benchmark = True
      torch.backends.cuda.matmul.allow_tf32 = tf32[0]
      torch.backends.cudnn.allow_tf32 = tf32[1]
    for _ in range(steps):
      learn() if train else infer()
    if on_gpu:
      torch.cuda.synchronize()

  return once


def keras_step(
  architecture: Architecture,
  batch_size: int,
  train: bool,
  dtype: str = 'float32',
) -> Once:
  """Returns a training step or forward pass of Keras in a tf.function.

  The layers are Keras's; LRN is TensorFlow's, which has float32 only. With
  jit_compile (XLA) it was slower by a third or more. With 'bfloat16' the policy
  is mixed_bfloat16, and the images are bfloat16.
  """
  import os

  os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  import keras
  import tensorflow as tf

  if dtype != 'float32':
    keras.mixed_precision.set_global_policy(f'mixed_{dtype}')
  images, labels = map(tf.constant, batch_of(architecture, batch_size))
  images = tf.cast(images, dtype)

  def lrn(op, x):
    y = tf.nn.local_response_normalization(
      tf.cast(x, tf.float32), op.size // 2, op.k, op.alpha, op.beta
    )
    return tf.cast(y, x.dtype)

  modules: list[Any] = [keras.Input(images.shape[1:])]
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
      modules.append(keras.layers.Flatten())
      modules.append(keras.layers.Dense(layer.features or 1000))
    for op in layer.then:
      match op:
        case layers.Activation():
          modules.append(keras.layers.ReLU())
        case layers.LRN():
          modules.append(keras.layers.Lambda(functools.partial(lrn, op)))
        case layers.BatchNorm():
          modules.append(
            keras.layers.BatchNormalization(
              momentum=op.momentum,
              epsilon=op.epsilon,
              center=False,
              scale=False,
            )
          )
        case layers.MaxPool():
          modules.append(keras.layers.MaxPooling2D(op.window, op.stride))
        case layers.AvgPool():
          pass  # At the sizes that are timed, it does nothing.
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
      logits = tf.cast(model(images, training=True), tf.float32)
      loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
      )
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(
      zip(grads, model.trainable_variables, strict=True)
    )
    return loss

  return lambda: step().numpy()
