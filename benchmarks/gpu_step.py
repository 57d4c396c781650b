"""A training step on GPUs that are not here: kernels and bytes, no time.

  .venv-gpu/bin/python benchmarks/gpu_step.py [--topology=h100:4]
    [--batch_size=1024] [--network=paper]

The step that the training loop runs, of this project's network and of plain
Flax's, compiled by JAX's CUDA plugin (`make .venv-gpu`): what a GPU is given to
launch, what these kernels read and write, and convolutions that became one call
of cuDNN with their bias and ReLU. It is NOT a time. The fewest bytes are those
of the state alone, read and written once. The last line is a JSON object.
"""

import argparse

import peers
import turns

from alexnet_jax.model import ARCHITECTURES
from alexnet_jax.preflight import compilation, topologies
from configs import imagenet

FUSED = '__cudnn$convBiasActivationForward'


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='h100:4')
  parser.add_argument('--batch_size', type=int, default=1024)
  parser.add_argument('--network', default='paper')
  arguments = parser.parse_args()
  topology = topologies.find(arguments.topology)
  architecture = ARCHITECTURES[arguments.network]
  print(f'{arguments.network}, batch {arguments.batch_size} on '
        f'{topology.name}, of a GPU; NOT a time')  # fmt: skip
  print(f'{"":<22}{"kernels":>8}{"fused":>7}{"GB moved":>10}{"fewest":>8}')
  ratios = {}
  for dtype in ('bfloat16', 'float32'):
    moved = {}
    for name in ('ours', 'plain Flax'):
      config = imagenet.get_config()
      config.model.name, config.model.dtype = arguments.network, dtype
      config.data.crop_size = architecture.input_size
      config.batch_size = arguments.batch_size
      model = None
      if name == 'plain Flax':
        model = peers.plain_flax(architecture, dtype)
      steps = compilation.Steps(config, topology, model)
      kernels = steps.train(arguments.batch_size).kernels
      assert kernels, f'{topology.name} is no GPU'
      moved[name] = kernels.bytes_moved
      print(
        f'{name + ", " + dtype:<22}{kernels.launched:>8}'
        f'{kernels.by_kind.get(FUSED, 0):>7}{kernels.bytes_moved / 1e9:>10.2f}'
        f'{2 * steps.checkpoint_bytes / 1e9:>8.2f}',
        flush=True,
      )
    ratios[f'gpu_bytes_vs_flax {dtype}'] = moved['plain Flax'] / moved['ours']
  turns.print_result(ratios, {}, **turns.machine('jax', 'jax-cuda12-plugin'))


if __name__ == '__main__':
  main()
