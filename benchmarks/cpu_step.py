"""One training step on CPU: this project against plain Flax.

  python benchmarks/cpu_step.py [--batch_size=64] [--repeats=5]

Plain Flax is what one would write first: nn.Conv with feature_group_count,
nn.max_pool, and LRN by reduce_window, in a donated, jitted step. The two take
turns within one run; medians are compared, since the machine is noisy. The
last line is a JSON object.
"""

import argparse
import functools
import json
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.learning import optimizer
from alexnet_jax.model import ARCHITECTURES, AlexNet, Architecture
from alexnet_jax.model import architectures as layers

# SPEED targets: how many times the images/s of plain Flax.
TARGETS = {'cpu_torchvision_vs_flax': 2.2, 'cpu_paper_vs_flax': 4.0}


class PlainAlexNet(nn.Module):
  """The same network of Flax's own layers; its parameters are AlexNet's."""

  architecture: Architecture
  num_classes: int = 1000

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """`[N, H, W, 3]` to `[N, num_classes]`."""
    arch = self.architecture
    for name, layer in zip(arch.layer_names, arch.layers, strict=True):
      if isinstance(layer, layers.Conv):
        x = nn.Conv(
          layer.features,
          (layer.kernel, layer.kernel),
          layer.stride,
          padding=[layer.padding] * 2,
          feature_group_count=layer.groups,
          name=name,
        )(x)
      else:
        x = nn.Dense(layer.features or self.num_classes, name=name)(
          x.reshape(len(x), -1)
        )
      for op in layer.then:
        x = _plain_op(op, x, train)
    return x


def _plain_op(op, x, train):
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


def compile_step(model, variables, batch):
  """A compiled step `(params, opt_state, batch) -> (params, opt_state)`."""
  tx = optimizer.paper_sgd()
  rates = optimizer.Rates(
    jax.tree.map(lambda _: 1e-6, variables['params']),
    jax.tree.map(lambda _: 5e-4, variables['params']),
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
    updates, opt_state = tx.update(grads, opt_state, params, rates=rates)
    return optax.apply_updates(params, updates), opt_state

  params = jax.tree.map(jnp.copy, variables['params'])
  state = (params, tx.init(params))
  return step.lower(*state, *batch).compile(), state


def measure(name: str, batch_size: int, repeats: int) -> dict[str, float]:
  """Median images/s of each form of a network, taking turns."""
  architecture = ARCHITECTURES[name]
  size = architecture.input_size
  rng = np.random.default_rng(0)
  batch = (
    jnp.asarray(rng.normal(size=(batch_size, size, size, 3)) * 50, jnp.float32),
    jnp.asarray(rng.integers(0, 1000, batch_size), jnp.int32),
  )
  forms = {'flax': PlainAlexNet(architecture), 'ours': AlexNet(architecture)}
  variables = jax.jit(forms['ours'].init)(jax.random.key(0), batch[0][:1])
  compiled = {
    form: compile_step(model, variables, batch) for form, model in forms.items()
  }
  seconds: dict[str, list[float]] = {form: [] for form in forms}
  for repeat in range(repeats + 1):
    for form, (step, state) in compiled.items():
      start = time.perf_counter()
      state = jax.block_until_ready(step(*state, *batch))
      if repeat:  # The first warms up.
        seconds[form].append(time.perf_counter() - start)
      compiled[form] = (step, state)
  return {
    form: batch_size / statistics.median(times)
    for form, times in seconds.items()
  }


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=5)
  arguments = parser.parse_args()
  print(f'{"network":<14}{"plain Flax":>12}{"ours":>12}{"ratio":>8}  images/s')
  ratios = {}
  for name in ('torchvision', 'paper'):
    speed = measure(name, arguments.batch_size, arguments.repeats)
    ratio = speed['ours'] / speed['flax']
    ratios[f'cpu_{name}_vs_flax'] = round(ratio, 3)
    print(
      f'{name:<14}{speed["flax"]:>12.1f}{speed["ours"]:>12.1f}{ratio:>8.2f}'
    )
  met = all(ratios[name] >= target for name, target in TARGETS.items())
  print(json.dumps({'ratios': ratios, 'targets': TARGETS, 'met': met}))


if __name__ == '__main__':
  main()
