"""AlexNet in one file: the paper's network, loss, SGD and training loop.

  python examples/alexnet_minimal.py

It follows "ImageNet Classification with Deep Convolutional Neural Networks"
(Krizhevsky, Sutskever and Hinton, 2012), whose sections the comments name, in
plain Flax and optax. A test shows that the package computes the same. Not here:
mirror images, PCA lighting, ten crops (section 4.1).

It learns handwritten digits in ten minutes on two CPU cores. The loss falls
below ln 10 = 2.3, that of guessing, in the fourth epoch; the test error is
about 5% in the end.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

SIZE = 112  # Section 2: 256.
CROP = 99  # Section 4.1: 224; the maps of Figure 2 need 227.
BATCH = 16  # Section 5: 128.
EPOCHS = 10  # Section 5: about 90.
LEARNING_RATE = 0.001  # Section 5: 0.01.


class AlexNet(nn.Module):
  """Section 3.5 and Figure 2, with the shapes of 227 x 227 images."""

  num_classes: int = 1000

  @nn.compact
  def __call__(self, x, train=False):  # [N, 227, 227, 3]
    """Returns the logits of images, [N, num_classes]."""
    x = conv(96, 11, 'conv1', bias=0, pad=0, strides=4)(x)  # [N, 55, 55, 96]
    x = max_pool(lrn(nn.relu(x)))  # [N, 27, 27, 96]. Section 3.1: ReLU
    x = conv(256, 5, 'conv2', bias=1, pad=2, groups=2)(x)  # [N, 27, 27, 256]
    x = max_pool(lrn(nn.relu(x)))  # [N, 13, 13, 256]
    x = nn.relu(conv(384, 3, 'conv3', bias=0, pad=1)(x))  # [N, 13, 13, 384]
    x = conv(384, 3, 'conv4', bias=1, pad=1, groups=2)(x)  # [N, 13, 13, 384]
    x = nn.relu(x)  # [N, 13, 13, 384]
    x = conv(256, 3, 'conv5', bias=1, pad=1, groups=2)(x)  # [N, 13, 13, 256]
    x = max_pool(nn.relu(x))  # [N, 6, 6, 256]
    x = x.reshape(len(x), -1)  # [N, 9216]
    x = nn.relu(nn.Dense(4096, name='fc6', **initial(1))(x))  # [N, 4096]
    # 4.2 halves the outputs in tests. Here training doubles those that stay.
    x = nn.Dropout(0.5, deterministic=not train)(x)  # [N, 4096]
    x = nn.relu(nn.Dense(4096, name='fc7', **initial(1))(x))  # [N, 4096]
    x = nn.Dropout(0.5, deterministic=not train)(x)  # [N, 4096]
    return nn.Dense(self.num_classes, name='fc8', **initial(0))(x)


def initial(bias):
  """Section 5: how weights and biases begin."""
  return {
    'kernel_init': nn.initializers.normal(0.01),
    'bias_init': nn.initializers.constant(bias),
  }


def conv(kernels, size, name, bias, pad, strides=1, groups=1):
  """Section 3.2: with two groups, half of the kernels see half of the maps."""
  shape = kernels, (size, size), strides, pad
  return nn.Conv(*shape, feature_group_count=groups, name=name, **initial(bias))


def lrn(x, n=5, k=2.0, alpha=1e-4, beta=0.75):
  """Section 3.3: the sum is over a map and two on each side of it."""
  squares = jnp.pad(x**2, [(0, 0), (0, 0), (0, 0), (n // 2, n // 2)])
  total = sum(squares[..., i : i + x.shape[-1]] for i in range(n))
  return x / (k + alpha * total) ** beta


def max_pool(x):
  """Section 3.4: windows of three overlap, as they are two apart."""
  return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))


def sgd(learning_rate):
  """Section 5: v <- 0.9 v - 0.0005 e w - e gradient; w <- w + v."""
  decay = optax.add_decayed_weights(0.0005)
  return optax.chain(decay, optax.scale(-learning_rate), optax.trace(0.9))


@functools.partial(jax.jit, static_argnums=0)
def train_step(model, params, velocity, images, labels, learning_rate, key):
  """Does one step; returns the params, the velocity and the batch's loss."""

  def loss_of(params):  # Section 3.5: minus the labels' log-probability.
    rngs = {'dropout': key}
    logits = model.apply({'params': params}, images, True, rngs=rngs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  loss, gradient = jax.value_and_grad(loss_of)(params)
  updates, velocity = sgd(learning_rate).update(gradient, velocity, params)
  return optax.apply_updates(params, updates), velocity, loss


def digits():
  """Returns images, [N, SIZE, SIZE, 3] from 0 to 255, and labels, [N]."""
  images, labels = sklearn.datasets.load_digits(return_X_y=True)
  images = images.reshape(-1, 8, 8, 1) * (255 / 16)
  images = jax.image.resize(images, (len(images), SIZE, SIZE, 3), 'linear')
  return np.array(images), labels


def crops(images, rng):
  """Section 4.1: one crop of each image."""
  corners = rng.integers(SIZE - CROP + 1, size=(len(images), 2))
  pairs = zip(images, corners, strict=True)
  return np.stack([x[i : i + CROP, j : j + CROP] for x, (i, j) in pairs])


def main():
  """Trains, and prints one line for each epoch."""
  images, labels = digits()
  test = np.arange(len(images)) % 5 == 4
  images -= images[~test].mean(axis=0)  # Section 2: the only preprocessing.
  middle = slice((SIZE - CROP) // 2, (SIZE + CROP) // 2)
  test_images, test_labels = images[test][:, middle, middle], labels[test]
  images, labels = images[~test], labels[~test]

  model, rng = AlexNet(num_classes=10), np.random.default_rng(0)
  params = model.init(jax.random.key(0), test_images[:1])['params']
  predict = jax.jit(lambda p, x: model.apply({'params': p}, x).argmax(-1))
  rate, velocity, errors = LEARNING_RATE, sgd(0).init(params), []
  for epoch in range(1, EPOCHS + 1):
    losses = []
    order = rng.permutation(len(images))[: len(images) // BATCH * BATCH]
    for rows in order.reshape(-1, BATCH):
      batch, key = crops(images[rows], rng), jax.random.key(rng.integers(2**31))
      params, velocity, loss = train_step(
        model, params, velocity, batch, labels[rows], rate, key
      )
      losses.append(loss)
    errors.append(np.mean(predict(params, test_images) != test_labels))
    loss, error = f'{np.mean(losses):.3f}', f'{errors[-1]:.1%}'
    print(f'epoch {epoch}: learning rate {rate:g}, loss {loss}, error {error}')
    # Section 5, with the test images: divide when the error stops falling.
    if len(errors) > 3 and min(errors[-3:]) >= min(errors[:-3]):
      rate, errors = rate / 10, []


if __name__ == '__main__':
  main()
