"""AlexNet in one file: the paper's network, loss, SGD and training loop.

  python examples/alexnet_minimal.py

It follows "ImageNet Classification with Deep Convolutional Neural Networks"
(Krizhevsky, Sutskever and Hinton, 2012), whose sections the comments name, in
plain Flax and optax. A test compares it with the package, which computes the
same, faster, and on TPUs. Here it learns handwritten digits in ten minutes on
two CPU cores. One in twenty test images is wrong in the end.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow_datasets as tfds

from alexnet_jax.data.digits import Digits, default_data_dir

# Section 4.1 has 256 and 224. Crops of 227 give the maps of Figure 2 without
# padding; those of 99 take a fifth of the time.
SIZE, CROP = 112, 99
BATCH, EPOCHS, RATE = 16, 10, 0.001  # Section 5 has 128, about 90, and 0.01.


class AlexNet(nn.Module):
  """Section 3.5 and Figure 2, with the shapes of 227 x 227 images."""

  num_classes: int = 1000

  @nn.compact
  def __call__(self, x, train=False):  # [N, 227, 227, 3]
    """Maps images [N, 227, 227, 3] to logits [N, num_classes]."""
    x = conv('conv1', 96, 11, 0, strides=4, padding=0)(x)  # [N, 55, 55, 96]
    x = max_pool(lrn(nn.relu(x)))  # [N, 27, 27, 96]
    x = conv('conv2', 256, 5, 1, padding=2, gpus=2)(x)  # [N, 27, 27, 256]
    x = max_pool(lrn(nn.relu(x)))  # [N, 13, 13, 256]
    x = nn.relu(conv('conv3', 384, 3, 0, padding=1)(x))  # [N, 13, 13, 384]
    x = nn.relu(conv('conv4', 384, 3, 1, padding=1, gpus=2)(x))  # the same
    x = conv('conv5', 256, 3, 1, padding=1, gpus=2)(x)  # [N, 13, 13, 256]
    x = max_pool(nn.relu(x))  # [N, 6, 6, 256]
    x = x.reshape(len(x), -1)  # [N, 9216]
    x = nn.relu(nn.Dense(4096, name='fc6', **initial(1))(x))  # [N, 4096]
    x = nn.Dropout(0.5, deterministic=not train)(x)  # 4.2: doubles the rest.
    x = nn.relu(nn.Dense(4096, name='fc7', **initial(1))(x))  # [N, 4096]
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(self.num_classes, name='fc8', **initial(0))(x)


def initial(bias):
  """Section 5: how weights and biases begin."""
  return {
    'kernel_init': nn.initializers.normal(0.01),
    'bias_init': nn.initializers.constant(bias),
  }


def conv(name, kernels, size, bias, padding, strides=1, gpus=1):
  """Section 3.2: on two GPUs, half of the kernels see half of the maps."""
  shape = kernels, (size, size), strides, padding
  return nn.Conv(*shape, feature_group_count=gpus, name=name, **initial(bias))


def lrn(x, n=5, k=2.0, alpha=1e-4, beta=0.75):
  """Section 3.3: divides by a norm of five neighbouring maps."""
  squares = jnp.pad(x**2, [(0, 0), (0, 0), (0, 0), (n // 2, n // 2)])
  total = sum(squares[..., i : i + x.shape[-1]] for i in range(n))
  return x / (k + alpha * total) ** beta


def max_pool(x):
  """Section 3.4: windows of three overlap, as they are two apart."""
  return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))


def sgd(rate):
  """Section 5: v <- 0.9 v - 0.0005 rate w - rate gradient; w <- w + v."""
  decay = optax.add_decayed_weights(0.0005)
  return optax.chain(decay, optax.scale(-rate), optax.trace(decay=0.9))


@functools.partial(jax.jit, static_argnums=0)
def train_step(model, params, velocity, images, labels, rate, key):
  """Does one step; returns the params, the velocity and the batch's loss."""

  def loss_of(params):  # Section 3: how improbable the labels are.
    rngs = {'dropout': key}
    logits = model.apply({'params': params}, images, True, rngs=rngs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  loss, gradient = jax.value_and_grad(loss_of)(params)
  updates, velocity = sgd(rate).update(gradient, velocity, params)
  return optax.apply_updates(params, updates), velocity, loss


def digits(split):
  """Returns images, [N, SIZE, SIZE, 3] from 0 to 255, and labels, [N]."""
  builder = Digits(data_dir=default_data_dir())
  builder.download_and_prepare()
  data = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
  images = jnp.asarray(data['image'], jnp.float32)  # [N, 8, 8, 1]
  images = jax.image.resize(images, (len(images), SIZE, SIZE, 3), 'linear')
  return np.asarray(images), data['label']


def crops(images, rng):
  """Section 4.1: one crop of each image. (Digits have no mirror images.)"""
  corners = rng.integers(SIZE - CROP + 1, size=(len(images), 2))
  pairs = zip(images, corners, strict=True)
  return np.stack([x[i : i + CROP, j : j + CROP] for x, (i, j) in pairs])


def main():
  """Trains until the last epoch, and prints one line for each."""
  (images, labels), (test_images, test_labels) = digits('train'), digits('test')
  mean = images.mean(axis=0)  # Section 2: the only preprocessing.
  images, test_images = images - mean, test_images - mean
  middle = slice((SIZE - CROP) // 2, (SIZE + CROP) // 2)
  test_images = test_images[:, middle, middle]  # [N, CROP, CROP, 3]

  model, rng = AlexNet(num_classes=10), np.random.default_rng(0)
  params = model.init(jax.random.key(0), test_images[:1])['params']
  predict = jax.jit(lambda p, x: model.apply({'params': p}, x).argmax(-1))
  velocity, rate, errors = sgd(RATE).init(params), RATE, []
  for epoch in range(1, EPOCHS + 1):
    losses = []
    for _ in range(len(images) // BATCH):
      rows = rng.integers(len(images), size=BATCH)
      batch, key = crops(images[rows], rng), jax.random.key(rng.integers(2**31))
      params, velocity, loss = train_step(
        model, params, velocity, batch, labels[rows], rate, key
      )
      losses.append(loss)
    errors.append(np.mean(predict(params, test_images) != test_labels))
    print(
      f'epoch {epoch}  rate {rate:g}  loss {np.mean(losses):.3f}  '
      f'test error {errors[-1]:.1%}'
    )
    # Section 5: the rate is divided by 10 when the error no longer falls.
    if min(errors[-3:]) > min(errors):
      rate, errors = rate / 10, []


if __name__ == '__main__':
  main()
