"""AlexNet on CPU: this project, plain Flax, PyTorch and TensorFlow.

  python benchmarks/cpu_step.py [--batch_size=64] [--rounds=7]
    [--networks=torchvision,paper] [--modes=training,inference]

A training step in float32: forward, backward, SGD with momentum and weight
decay, dropout. Inference is the forward pass alone. The libraries take turns,
each in a process of its own (`turns.py`), at their best settings (`peers.py`);
a ratio is the median of the rounds'. The ceiling is what a matrix product of
4096 x 4096 reaches in the same rounds. The last line is a JSON object.
"""

import argparse
import functools
import statistics

import jax
import peers
import turns

from alexnet_jax.learning import optimizer, steps
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model import architectures as layers
from alexnet_jax.model.ablations import ablated
from configs import default

# How many times the images/s of each in a training step.
TARGETS = {
  'cpu_torchvision_vs_pytorch': 0.95,
  'cpu_paper_vs_pytorch': 1.3,
  'cpu_torchvision_vs_flax': 2.2,
  'cpu_paper_vs_flax': 4.0,
}
PRODUCT = 4096


def ours(
  name: str, batch_size: int, train: bool, ablations: tuple[str, ...] = ()
) -> turns.Once:
  """This project's network, in the step that the training loop runs."""
  architecture = ablated(ARCHITECTURES[name], ablations)
  model = AlexNet(architecture)
  if not train:
    return peers.flax_inference(model, architecture, batch_size)
  config = default.get_config().optimizer
  config.learning_rate = peers.RATE
  tx = optimizer.paper_sgd()
  state = steps.create_train_state(
    model, tx, optimizer.plateau_decay(config), architecture.input_size, 0
  )
  state = [steps.replicate(state)]
  images, labels = peers.batch_of(architecture, batch_size)
  batch = jax.device_put({'image': images[None], 'label': labels[None]})
  step = steps.p_train_step(
    model=model,
    tx=tx,
    rates=optimizer.rates_of(config, 1000, 90_000),
    dropout_key=jax.random.key(0),
  )

  def once():
    state[:] = [jax.block_until_ready(step(*state, batch))]

  return once


def plain_flax(name: str, batch_size: int, train: bool) -> turns.Once:
  """The same of Flax's own layers, and of XLA's own choices."""
  turns.xla_defaults()
  architecture = ARCHITECTURES[name]
  make = peers.flax_step if train else peers.flax_inference
  return make(peers.plain_flax(architecture), architecture, batch_size)


def flops(name: str, train: bool) -> float:
  """Of a picture: two for each multiplication of the layers' products.

  The gradient of the picture itself is not computed.
  """
  forward = []
  for _, layer, size, inputs in peers.layer_inputs(ARCHITECTURES[name]):
    if isinstance(layer, layers.Conv):
      taps = layer.kernel**2 * inputs // layer.groups
      forward.append(layer.output_size(size) ** 2 * taps * layer.features)
    else:
      forward.append(inputs * (layer.features or 1000))
  total = sum(forward)
  return 2.0 * (3 * total - forward[0] if train else total)


def measure(
  name: str, train: bool, batch_size: int, rounds: int
) -> dict[str, list[float]]:
  """Seconds of each library's turns; PyTorch's are its faster layout's."""
  architecture = ARCHITECTURES[name]
  arguments = (name, batch_size, train)
  pytorch = functools.partial(
    peers.pytorch_step, architecture, batch_size, train=train
  )
  seconds = turns.take_turns(
    {
      'ours': functools.partial(ours, *arguments),
      'PyTorch': functools.partial(pytorch, channels_last=False),
      'PyTorch, channels last': functools.partial(pytorch, channels_last=True),
      'TensorFlow': functools.partial(
        peers.keras_step, architecture, batch_size, train
      ),
      'plain Flax': functools.partial(plain_flax, *arguments),
      'matrix product': functools.partial(turns.matrix_product, PRODUCT),
    },
    rounds,
  )
  layouts = seconds['PyTorch'], seconds.pop('PyTorch, channels last')
  seconds['PyTorch'] = min(layouts, key=statistics.median)
  return seconds


def main() -> None:
  """Prints a table for each network and mode, and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--networks', default='torchvision,paper')
  parser.add_argument('--modes', default='training,inference')
  arguments = parser.parse_args()
  keys = {'PyTorch': 'pytorch', 'TensorFlow': 'tf', 'plain Flax': 'flax'}
  ratios, speeds = {}, {}
  for mode in arguments.modes.split(','):
    train = mode == 'training'
    print(f'\n{mode}, batch {arguments.batch_size}, images/s (ours is so many'
          ' times as fast)')  # fmt: skip
    columns = ('ours', *keys, 'of the ceiling')
    print(f'{"network":<12}' + ''.join(f'{c:>16}' for c in columns))
    for name in arguments.networks.split(','):
      seconds = measure(name, train, arguments.batch_size, arguments.rounds)
      product = seconds.pop('matrix product')
      speed = {
        form: arguments.batch_size / statistics.median(each)
        for form, each in seconds.items()
      }
      cells = [f'{speed["ours"]:.1f}']
      for form, key in keys.items():
        times = turns.ratio(seconds[form], seconds['ours'])
        prefix = 'cpu' if train else 'cpu_inference'
        ratios[f'{prefix}_{name}_vs_{key}'] = times
        cells.append(f'{speed[form]:.1f} ({times:.2f})')
      ceiling = 2 * PRODUCT**3 / statistics.median(product)
      share = speed['ours'] * flops(name, train) / ceiling
      cells.append(f'{share:.0%} of {ceiling / 1e9:.0f} G')
      print(f'{name:<12}' + ''.join(f'{cell:>16}' for cell in cells))
      speeds[f'{name} {mode}'] = {
        **{form: round(value, 2) for form, value in speed.items()},
        'share of matrix-product ceiling': round(share, 3),
        'matrix-product GFLOP/s': round(ceiling / 1e9, 1),
      }
  turns.print_result(
    ratios,
    {name: least for name, least in TARGETS.items() if name in ratios},
    images_per_second=speeds,
    **turns.machine('jax', 'flax', 'torch', 'tensorflow-cpu', 'keras'),
  )


if __name__ == '__main__':
  main()
