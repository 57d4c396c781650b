"""Local response normalization in four libraries, on CPU.

  python benchmarks/lrn.py [--batch_size=64] [--rounds=7]

Times LRN and its gradient in float32, for the paper's two layers with LRN,
[N, 55, 55, 96] and [N, 27, 27, 256]: this project, XLA's reduce_window (plain
Flax), torch.nn.LocalResponseNorm and TensorFlow's fused operation. They take
turns. A ratio is the median over the rounds, for both layers together. The last
line is a JSON object.
"""

import argparse
import functools
import statistics

import numpy as np
import turns

SHAPES = (55, 55, 96), (27, 27, 256)
SIZE, K, ALPHA, BETA = 5, 2.0, 1e-4, 0.75
TARGETS = {'lrn_vs_pytorch': 4.0, 'lrn_vs_tensorflow': 2.0}


def activations(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Returns activations, scaled like those of conv1, and a gradient."""
  rng = np.random.default_rng(0)
  x = np.maximum(rng.normal(size=shape) * 30, 0)
  return x.astype(np.float32), rng.normal(size=shape).astype(np.float32)


def ours(shape: tuple[int, ...], plain: bool) -> turns.Once:
  """Returns LRN and its gradient of this project or of plain Flax."""
  if plain:
    turns.xla_defaults()
  import jax
  import jax.numpy as jnp

  from alexnet_jax.model import local_response_normalization

  def by_reduce_window(x):
    half = SIZE // 2
    total = jax.lax.reduce_window(
      x * x, 0.0, jax.lax.add, (1, 1, 1, SIZE), (1, 1, 1, 1),
      ((0, 0), (0, 0), (0, 0), (half, half)),
    )  # fmt: skip
    return x / (K + ALPHA * total) ** BETA

  op = by_reduce_window
  if not plain:
    op = functools.partial(
      local_response_normalization, size=SIZE, k=K, alpha=ALPHA, beta=BETA
    )

  @jax.jit
  def both(x, g):
    y, vjp = jax.vjp(op, x)
    return y, vjp(g)[0]

  x, g = map(jnp.asarray, activations(shape))
  return lambda: jax.block_until_ready(both(x, g))


def pytorch(shape: tuple[int, ...]) -> turns.Once:
  """Returns those of torch.nn.LocalResponseNorm.

  The layout is channels first, which is faster.
  """
  import torch

  torch.set_num_threads(turns.cores())
  op = torch.nn.LocalResponseNorm(SIZE, SIZE * ALPHA, BETA, K)
  x, g = (
    torch.from_numpy(np.ascontiguousarray(a.transpose(0, 3, 1, 2)))
    for a in activations(shape)
  )
  x.requires_grad_()

  def once():
    x.grad = None
    op(x).backward(g)

  return once


def tensorflow(shape: tuple[int, ...]) -> turns.Once:
  """Returns those of tf.nn.local_response_normalization in a tf.function."""
  import tensorflow as tf

  x, g = map(tf.constant, activations(shape))

  @tf.function
  def both():
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = tf.nn.local_response_normalization(x, SIZE // 2, K, ALPHA, BETA)
    return y, tape.gradient(y, x, output_gradients=g)

  return lambda: [a.numpy() for a in both()]


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args()
  forms = {
    'ours': functools.partial(ours, plain=False),
    'plain Flax': functools.partial(ours, plain=True),
    'PyTorch': pytorch,
    'TensorFlow': tensorflow,
  }
  together = {name: [0.0] * arguments.rounds for name in forms}
  print('LRN and its gradient, ms')
  print(f'{"":20}' + ''.join(f'{name:>14}' for name in forms))
  for shape in SHAPES:
    shape = (arguments.batch_size, *shape)
    seconds = turns.take_turns(
      {name: functools.partial(make, shape) for name, make in forms.items()},
      arguments.rounds,
    )
    print(f'{shape!s:20}' + ''.join(
      f'{statistics.median(each) * 1e3:>14.1f}' for each in seconds.values()
    ))  # fmt: skip
    for name, each in seconds.items():
      together[name] = [
        a + b for a, b in zip(together[name], each, strict=True)
      ]
  ratios = {
    f'lrn_vs_{key}': turns.ratio(together[name], together['ours'])
    for name, key in (
      ('PyTorch', 'pytorch'),
      ('TensorFlow', 'tensorflow'),
      ('plain Flax', 'flax'),
    )
  }
  turns.print_result(
    ratios, TARGETS, **turns.machine('jax', 'torch', 'tensorflow-cpu')
  )


if __name__ == '__main__':
  main()
