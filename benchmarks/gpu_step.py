"""A training step on GPUs: compiled without hardware, or timed on one.

  .venv-gpu/bin/python benchmarks/gpu_step.py [--topology=h100:4]
    [--batch_size=1024] [--network=paper]
  python benchmarks/gpu_step.py --time [--minutes=4.5] [--toy]

The first command needs no GPU. JAX's CUDA plugin (`make .venv-gpu`) compiles
the step of the training loop, for this project's network and for plain Flax's,
and no time is measured. The table has, per GPU:

  kernels   the number of kernels that a GPU launches
  fused     convolutions that became one cuDNN call with their bias and ReLU
  GB moved  what the kernels read and write
  fewest    what reading and writing the state once would move

The second command times the step of the training loop and the forward pass of
this project, of plain Flax and of PyTorch, on the first NVIDIA GPU. It needs
jax, flax, optax, numpy and torch (without torch, those columns are empty), and
ends after `--minutes`; the rows that it did not reach are named. `--toy` runs
a few rows with small images on CPU, to test the command.

  bfloat16   float32 parameters; PyTorch runs under torch.autocast
  float32    TF32 as each library has it by default: JAX in convolutions and
             matrix products, PyTorch in convolutions only
  no TF32    float32 throughout
  PyTorch    channels last, fused SGD, cudnn.benchmark
  PyTorch+   in float32, with TF32 in matrix products too; in the rows of
             torch.compile, compiled
  share      of the speed of a matrix product, 8192 x 8192, of the same
             precision

Images are on the device. A row's libraries take turns of several steps; speeds
are medians over the turns, and a ratio, (ours / the library's), is the median
of the turns' ratios. The last line is a JSON object.
"""

import argparse
import os
import tempfile

import jax
import libraries
import turns
from gpu_rows import start_jax
from gpu_timing import Timing

from alexnet_jax.model import ARCHITECTURES

FUSED = '__cudnn$convBiasActivationForward'


def compile_without_hardware(topology: str, name: str, batch: int) -> None:
  """Prints the table of kernels and the JSON line."""
  # `turns` has set it, but JAX was imported before.
  jax.config.update('jax_platforms', os.environ['JAX_PLATFORMS'])
  # They need TensorFlow.
  from alexnet_jax.preflight import compilation, topologies
  from configs import imagenet

  target = topologies.find(topology)
  architecture = ARCHITECTURES[name]
  print(
    f'{name}, batch {batch} on {target.name}, per GPU; no time was measured'
  )
  print(f'{"":<22}{"kernels":>8}{"fused":>7}{"GB moved":>10}{"fewest":>8}')
  ratios = {}
  for dtype in ('bfloat16', 'float32'):
    moved = {}
    for form in ('ours', 'plain Flax'):
      config = imagenet.get_config()
      config.model.name, config.model.dtype = name, dtype
      config.data.crop_size = architecture.input_size
      config.batch_size = batch
      model = None
      if form == 'plain Flax':
        model = libraries.plain_flax(architecture, dtype)
      compiler = compilation.Steps(config, target, model)
      kernels = compiler.train(batch).kernels
      assert kernels, f'{target.name} is not a GPU'
      moved[form] = kernels.bytes_moved
      print(
        f'{form + ", " + dtype:<22}{kernels.launched:>8}'
        f'{kernels.by_kind.get(FUSED, 0):>7}{kernels.bytes_moved / 1e9:>10.2f}'
        f'{2 * compiler.checkpoint_bytes / 1e9:>8.2f}',
        flush=True,
      )
    ratios[f'gpu_bytes_vs_flax {dtype}'] = moved['plain Flax'] / moved['ours']
  turns.print_result(ratios, {}, **turns.machine('jax', 'jax-cuda12-plugin'))


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='h100:4')
  parser.add_argument('--batch_size', type=int, default=1024)
  parser.add_argument('--network', default='paper')
  parser.add_argument('--time', action='store_true', help='on a GPU')
  parser.add_argument('--minutes', type=float, default=4.5)
  parser.add_argument('--toy', action='store_true', help='on CPU, small')
  arguments = parser.parse_args()
  if not arguments.time:
    compile_without_hardware(
      arguments.topology, arguments.network, arguments.batch_size
    )
    return
  timing = Timing(arguments.toy, arguments.minutes)
  with tempfile.TemporaryDirectory() as folder:
    os.environ['STEP_CACHE'] = folder
    try:
      start_jax(arguments.toy)
    except (RuntimeError, AssertionError) as error:
      parser.error(
        f'--time needs an NVIDIA GPU and jax[cuda]; --toy runs on CPU: {error}'
      )
    timing.run()


if __name__ == '__main__':
  main()
