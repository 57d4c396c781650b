"""A training step compiled for TPUs without hardware: estimated cycles.

  python benchmarks/tpu_step.py [--slices=v5e:2x2/256,v5e:2x2/32,v5e:4x4/32]
    [--network=paper] [--dtype=bfloat16] [--variants]

libtpu compiles the step of the training loop for slices, with a number of
images per chip: for plain Flax's network (nn.Conv, nn.max_pool, LRN by
reduce_window), and for this project's with config.parallelism 'data' and
'hybrid'. The cycles are the compiler's ESTIMATES, which are deterministic;
nothing is measured. They count nothing for gradients of pooling and for most
collective operations (docs/preflight.md), whose bytes are listed: those that
leave a chip. `--variants` switches off one optimization at a time.

The last line is a JSON object. `tpu_mcycles` and `tpu_mcycles_hybrid` are the
paper's network in bfloat16, batch 1024 on v5e:2x2.
"""

import argparse
from typing import Any
from unittest import mock

import jax
import libraries
import turns
from jax.sharding import PartitionSpec

from alexnet_jax.learning.placement import Placement, mesh_of
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
# Names and targets of slices and images per chip.
NAMES = {
  ('v5e:2x2', 256): 'tpu_mcycles',
  ('v5e:2x2', 32): 'tpu_mcycles_2x2_32',
  ('v5e:4x4', 32): 'tpu_mcycles_4x4_32',
}
MOST = {
  'tpu_mcycles': 20.0,
  'tpu_mcycles_hybrid': 18.8,
  'tpu_mcycles_2x2_32_hybrid': 4.2,
  'tpu_mcycles_4x4_32_hybrid': 4.0,
  'sent v5e:2x2/32, hybrid to data': 1 / 8,
  'sent v5e:4x4/32, hybrid to data': 1 / 8,
}


class _PlainSteps(compilation.Steps):
  """Steps of a network that has all its parameters on each device."""

  def _placed(self, devices):
    specs = jax.tree.map(lambda _: PartitionSpec(), self._state)
    return _Plain('data', mesh_of(devices), specs)


class _Plain(Placement):
  def of_device(self, model, sum_dtype=None):
    return model


def compile_step(
  topology: topologies.Topology,
  batch_size: int,
  network: str,
  dtype: str,
  variant: str,
  parallelism: str = 'data',
) -> compilation.Step:
  """Compiles a variant of the training step."""
  config = default.get_config()
  config.parallelism = parallelism
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
    kind = _PlainSteps if variant == PLAIN else compilation.Steps
    steps = kind(config, topology, model, blocks)
    return steps.train(batch_size)


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--slices', default='v5e:2x2/256,v5e:2x2/32,v5e:4x4/32')
  parser.add_argument('--network', default='paper')
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--variants', action='store_true')
  arguments = parser.parse_args()
  print('ESTIMATED cycles of a training step, millions; nothing was measured')
  ratios: dict[str, float] = {}
  layers: dict[str, Any] = {}
  for each in arguments.slices.split(','):
    name, _, images = each.partition('/')
    topology = topologies.find(name)
    size = int(images) * len(topology.devices)
    what = (topology, size, arguments.network, arguments.dtype)
    if arguments.variants:
      for variant in VARIANTS:
        step = compile_step(*what, variant)
        cycles = sum(step.cycles.values()) / 1e6
        ratios[f'mcycles {each}, {variant}'] = cycles
        print(f'{each:<14}{cycles:>10.2f}  {variant}', flush=True)
      continue
    steps = {
      'plain Flax': compile_step(*what, PLAIN),
      'data': compile_step(*what, OURS),
      'hybrid': compile_step(*what, OURS, 'hybrid'),
    }
    sent, mcycles = {}, {}
    for kind, step in steps.items():
      mcycles[kind] = sum(step.cycles.values()) / 1e6
      sent[kind] = sum(c.bytes_sent for c in step.collectives.values())
      print(
        f'{each:<14}{kind:<12}{mcycles[kind]:>8.2f} M cycles'
        f'{sent[kind] / 1e6:>8.1f} MB sent',
        flush=True,
      )
    ratios[f'tpu_vs_flax {each}'] = mcycles['plain Flax'] / mcycles['data']
    ratios[f'sent {each}, hybrid to data'] = sent['hybrid'] / sent['data']
    layers[each] = {
      part: round(number / 1e6, 3)
      for part, number in steps['data'].cycles.items()
    }
    as_usual = (arguments.network, arguments.dtype) == ('paper', 'bfloat16')
    if as_usual and (known := NAMES.get((name, int(images)))):
      ratios[known] = mcycles['data']
      ratios[f'{known}_hybrid'] = mcycles['hybrid']
  turns.print_result(
    ratios,
    {},
    {name: bound for name, bound in MOST.items() if name in ratios},
    mcycles_by_layer=layers,
    **turns.machine('jax', 'libtpu'),
  )


if __name__ == '__main__':
  main()
