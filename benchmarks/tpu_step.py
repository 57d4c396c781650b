"""A training step compiled for TPUs without hardware: estimated cycles.

  python benchmarks/tpu_step.py [--topologies=v5e:2x2,v4:2x2x1,v6e:2x2]
    [--batches=1024] [--network=paper] [--dtype=bfloat16] [--variants]

libtpu compiles the step of the training loop, for this project's network and
for plain Flax's (nn.Conv, nn.max_pool, LRN by reduce_window). The cycles are
the compiler's ESTIMATES, which are deterministic; nothing is measured. They
count nothing for gradients of pooling and for all-reduces (docs/preflight.md).
`--variants` switches off one optimization at a time. The last line is a JSON
object; its `tpu_mcycles` is the paper's network in bfloat16, batch 1024 on
v5e:2x2.
"""

import argparse
from typing import Any
from unittest import mock

import jax
import libraries
import turns

from alexnet_jax.model import ARCHITECTURES, lrn
from alexnet_jax.model.build import build_model
from alexnet_jax.preflight import compilation, topologies
from configs import default

PLAIN, OURS = 'plain Flax', 'ours'
VARIANTS = (
  OURS,
  "data.finish='device'",
  'pixels, not blocks',
  'the batch in one part',
  'parts in any order',
  'LRN by shifted sums',
  PLAIN,
)
TARGET = ('v5e:2x2', 1024, 'paper', 'bfloat16')
MOST = {'tpu_mcycles': 22.0}


def compile_step(
  topology: topologies.Topology,
  batch_size: int,
  network: str,
  dtype: str,
  variant: str,
) -> compilation.Step:
  """Compiles a variant of the training step."""
  config = default.get_config()
  config.model.name, config.model.dtype = network, dtype
  config.batch_size = batch_size
  architecture = ARCHITECTURES[network]
  config.data.crop_size = architecture.input_size
  # As in configs/imagenet.py.
  config.model.dropout_scaling = 'test'
  model, blocks = None, variant not in (PLAIN, 'pixels, not blocks')
  if variant == PLAIN:
    model = libraries.plain_flax(architecture, dtype)
  elif variant == 'the batch in one part':
    own = build_model(config.model, topology.platform)
    model = own.clone(conv_batch=None)
  elif variant == "data.finish='device'":
    config.data.finish = 'device'
  by_product = lrn._sum_by_product
  if variant == 'LRN by shifted sums':
    by_product = lambda x, _, *window: lrn._sum_by_shifts(x, *window)  # noqa: E731
  barrier = jax.lax.optimization_barrier
  if variant == 'parts in any order':
    barrier = lambda operands: operands  # noqa: E731
  with (
    mock.patch.object(lrn, '_sum_by_product', by_product),
    mock.patch.object(jax.lax, 'optimization_barrier', barrier),
  ):
    steps = compilation.Steps(config, topology, model, blocks)
    return steps.train(batch_size)


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topologies', default='v5e:2x2,v4:2x2x1,v6e:2x2')
  parser.add_argument('--batches', default='1024')
  parser.add_argument('--network', default='paper')
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--variants', action='store_true')
  arguments = parser.parse_args()
  print('ESTIMATED cycles of a training step, millions; nothing was measured')
  print(
    f'{"topology":<12}{"batch":>7}{"plain Flax":>12}{"ours":>8}{"ratio":>8}'
  )
  ratios: dict[str, float] = {}
  layers: dict[str, Any] = {}
  for name in arguments.topologies.split(','):
    topology = topologies.find(name)
    for batch_size in map(int, arguments.batches.split(',')):
      what = (name, batch_size, arguments.network, arguments.dtype)
      if arguments.variants:
        for variant in VARIANTS:
          step = compile_step(topology, *what[1:], variant)
          cycles = sum(step.cycles.values()) / 1e6
          ratios[f'mcycles {name} {batch_size}, {variant}'] = cycles
          print(f'{name:<12}{batch_size:>7}{cycles:>12.2f}  {variant}',
                flush=True)  # fmt: skip
        continue
      plain, ours = (
        compile_step(topology, *what[1:], form) for form in (PLAIN, OURS)
      )
      cycles = [sum(step.cycles.values()) / 1e6 for step in (plain, ours)]
      ratio = cycles[0] / cycles[1]
      print(
        f'{name:<12}{batch_size:>7}{cycles[0]:>12.2f}{cycles[1]:>8.2f}'
        f'{ratio:>8.2f}',
        flush=True,
      )
      ratios[f'tpu_vs_flax {name} {batch_size}'] = ratio
      layers[f'{name} {batch_size}'] = {
        part: round(number / 1e6, 3) for part, number in ours.cycles.items()
      }
      if what == TARGET:
        ratios['tpu_mcycles'] = cycles[1]
  turns.print_result(
    ratios,
    {},
    {name: bound for name, bound in MOST.items() if name in ratios},
    mcycles_by_layer=layers,
    **turns.machine('jax', 'libtpu'),
  )


if __name__ == '__main__':
  main()
