"""AlexNet on CPU: this project, plain Flax, PyTorch and TensorFlow.

  python benchmarks/cpu_step.py [--dtype=float32] [--batch_size=64]
    [--rounds=7] [--networks=torchvision,paper] [--modes=training,inference]
    [--keep_memory]

Training is a step: forward, backward, SGD with momentum and weight decay,
dropout. Inference is the forward pass. The libraries take turns, each in its
own process (`turns.py`), with their best settings (`libraries.py`); a ratio is
the median over the rounds. With --dtype=bfloat16 PyTorch runs under autocast
and Keras under mixed_bfloat16, and this project's float32 takes turns too. The
processes have glibc's own settings, or with --keep_memory those of our training
command (`cli/machine.py`). The ceiling is the speed of XLA's float32 product of
4096 x 4096 in the same rounds. The last line is a JSON object.
"""

import argparse
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import libraries
import turns

from alexnet_jax.cli import machine
from alexnet_jax.learning import optimizer, steps
from alexnet_jax.learning.placement import place
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.ablations import ablated
from configs import default

# Lower bounds of our images/s, divided by those of the other library or dtype.
TARGETS = {
  'cpu_torchvision_vs_pytorch': 1.0,
  'cpu_paper_vs_pytorch': 1.5,
  'cpu_torchvision_vs_flax': 2.2,
  'cpu_paper_vs_flax': 4.0,
}
# The same on a CPU with AMX.
TARGETS_WITH_AMX = {
  'cpu_bf16_torchvision_vs_pytorch': 1.1,
  'cpu_bf16_paper_vs_pytorch': 2.0,
  'cpu_bf16_inference_torchvision_vs_pytorch': 1.0,
  'cpu_bf16_vs_f32_torchvision': 2.5,
  'cpu_bf16_vs_f32_paper': 2.5,
}
PRODUCT = 4096


def ours(
  name: str,
  batch_size: int,
  train: bool,
  ablations: tuple[str, ...] = (),
  dtype: str = 'float32',
) -> turns.Once:
  """Returns this project's training step or forward pass."""
  if not train:
    architecture = ablated(ARCHITECTURES[name], ablations)
    model = AlexNet(architecture, dtype=jnp.dtype(dtype))
    return libraries.flax_inference(model, architecture, batch_size, dtype)
  step, *state, batch = our_step(name, batch_size, ablations, dtype)

  def once():
    state[:] = [jax.block_until_ready(step(*state, batch))]

  return once


def our_step(
  name: str, batch_size: int, ablations: tuple[str, ...], dtype: str
) -> tuple[Any, Any, dict[str, Any]]:
  """Returns the step of the training loop, a state and a batch."""
  architecture = ablated(ARCHITECTURES[name], ablations)
  model = AlexNet(architecture, dtype=jnp.dtype(dtype))
  config = default.get_config().optimizer
  config.learning_rate = libraries.RATE
  tx = optimizer.paper_sgd()
  state = steps.create_train_state(
    model, tx, optimizer.plateau_decay(config), architecture.input_size, 0
  )
  images, labels = libraries.batch_of(architecture, batch_size)
  images = jnp.asarray(images, dtype)
  batch = jax.device_put({'image': images[None], 'label': labels[None]})
  placement = place(model, state)
  step = steps.p_train_step(
    placement,
    model=model,
    tx=tx,
    rates=optimizer.rates_of(config, 1000, 90_000),
    dropout_key=jax.random.key(0),
  )
  return step, placement.put(state), batch


def plain_flax(
  name: str, batch_size: int, train: bool, dtype: str = 'float32'
) -> turns.Once:
  """Returns those of Flax's own layers, with XLA's default flags."""
  turns.xla_defaults()
  architecture = ARCHITECTURES[name]
  make = libraries.flax_step if train else libraries.flax_inference
  model = libraries.plain_flax(architecture, dtype)
  return make(model, architecture, batch_size, dtype)


def measure(
  name: str,
  train: bool,
  dtype: str,
  batch_size: int,
  rounds: int,
  keep_memory: bool,
) -> dict[str, list[float]]:
  """Returns the seconds of each library's turns.

  Those of PyTorch are of its faster layout.
  """
  architecture = ARCHITECTURES[name]
  arguments = (name, batch_size, train)
  pytorch = functools.partial(
    libraries.pytorch_step, architecture, batch_size, train=train, dtype=dtype
  )
  float32 = {'ours, float32': functools.partial(ours, *arguments)}
  seconds = turns.take_turns(
    {
      'ours': functools.partial(ours, *arguments, dtype=dtype),
      **(float32 if dtype != 'float32' else {}),
      'PyTorch': functools.partial(pytorch, channels_last=False),
      'PyTorch, channels last': functools.partial(pytorch, channels_last=True),
      'TensorFlow': functools.partial(
        libraries.keras_step, architecture, batch_size, train, dtype
      ),
      'plain Flax': functools.partial(plain_flax, *arguments, dtype),
      'matrix product': functools.partial(turns.matrix_product, PRODUCT),
    },
    rounds,
    keep_memory=keep_memory,
  )
  layouts = seconds['PyTorch'], seconds.pop('PyTorch, channels last')
  seconds['PyTorch'] = min(layouts, key=statistics.median)
  return seconds


def main() -> None:
  """Prints a table for each network and mode, and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--dtype', default='float32', choices=('float32', 'bfloat16')
  )
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--networks', default='torchvision,paper')
  parser.add_argument('--modes', default='training,inference')
  parser.add_argument('--keep_memory', action='store_true')
  arguments = parser.parse_args()
  if arguments.keep_memory and not machine.keep_freed_memory():
    parser.error(
      '--keep_memory: not glibc, or MALLOC_*, GLIBC_TUNABLES are set'
    )
  dtype = arguments.dtype
  prefix = 'cpu' if dtype == 'float32' else 'cpu_bf16'
  has_amx = 'amx_bf16' in machine.cpu_flags()
  if dtype == 'bfloat16' and not has_amx:
    print('This CPU has no AMX: there are no targets for bfloat16.')
  keys = {'PyTorch': 'pytorch', 'TensorFlow': 'tf', 'plain Flax': 'flax'}
  if dtype != 'float32':
    keys = {'ours, float32': 'f32', **keys}
  ratios, speeds = {}, {}
  for mode in arguments.modes.split(','):
    train = mode == 'training'
    inference = '' if train else '_inference'
    print(f'\n{mode}, {dtype}, batch {arguments.batch_size}, images/s'
          " (ours / the library's); ceiling: a float32 product")  # fmt: skip
    columns = ('ours', *keys, 'of the ceiling')
    print(f'{"network":<12}' + ''.join(f'{c:>16}' for c in columns))
    for name in arguments.networks.split(','):
      seconds = measure(
        name,
        train,
        dtype,
        arguments.batch_size,
        arguments.rounds,
        arguments.keep_memory,
      )
      product = seconds.pop('matrix product')
      speed = {
        form: arguments.batch_size / statistics.median(each)
        for form, each in seconds.items()
      }
      cells = [f'{speed["ours"]:.1f}']
      for form, key in keys.items():
        times = turns.ratio(seconds[form], seconds['ours'])
        key = (
          f'{prefix}{inference}_vs_f32_{name}'
          if key == 'f32'
          else f'{prefix}{inference}_{name}_vs_{key}'
        )
        ratios[key] = times
        cells.append(f'{speed[form]:.1f} ({times:.2f})')
      ceiling = 2 * PRODUCT**3 / statistics.median(product)
      share = (
        speed['ours'] * libraries.flops(ARCHITECTURES[name], train) / ceiling
      )
      cells.append(f'{share:.0%} of {ceiling / 1e9:.0f} G')
      print(f'{name:<12}' + ''.join(f'{cell:>16}' for cell in cells))
      speeds[f'{name} {mode}'] = {
        **{form: round(value, 2) for form, value in speed.items()},
        'share of matrix-product ceiling': round(share, 3),
        'matrix-product GFLOP/s': round(ceiling / 1e9, 1),
      }
  targets = TARGETS | (TARGETS_WITH_AMX if has_amx else {})
  turns.print_result(
    ratios,
    {name: least for name, least in targets.items() if name in ratios},
    dtype=dtype,
    keep_memory=arguments.keep_memory,
    images_per_second=speeds,
    **turns.machine('jax', 'flax', 'torch', 'tensorflow-cpu', 'keras'),
  )


if __name__ == '__main__':
  main()
