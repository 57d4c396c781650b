"""A training step compiled for GPUs without hardware: kernels and bytes.

  .venv-gpu/bin/python benchmarks/gpu_step.py [--topology=h100:4]
    [--batch_size=1024] [--network=paper]

JAX's CUDA plugin (`make .venv-gpu`) compiles the step of the training loop, for
this project's network and for plain Flax's. The table has, per GPU:

  kernels   the number of kernels that a GPU launches
  fused     convolutions that became one cuDNN call with their bias and ReLU
  GB moved  what the kernels read and write
  fewest    what reading and writing the state once would move

No time is measured. The last line is a JSON object.
"""

import argparse

import libraries
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
        f'{topology.name}, per GPU; no time was measured')  # fmt: skip
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
        model = libraries.plain_flax(architecture, dtype)
      steps = compilation.Steps(config, topology, model)
      kernels = steps.train(arguments.batch_size).kernels
      assert kernels, f'{topology.name} is not a GPU'
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
