"""Where the time of a training step on CPU goes: the layers, and the rest.

  python benchmarks/cpu_parts.py [--network=torchvision] [--dtype=bfloat16]
    [--batch_size=64] [--steps=5] [--keep_memory]

The step is that of the training loop. JAX's profiler times each operation of
the compiled program; its name tells the layer that it belongs to, and whether
it computes a gradient. The last line is a JSON object, in milliseconds a step.
"""

import argparse
import collections
import pathlib
import tempfile

import cpu_step
import jax
import turns

from alexnet_jax.cli import machine
from alexnet_jax.learning import steps
from alexnet_jax.model import ARCHITECTURES
from alexnet_jax.preflight.executables import Program

Parts = dict[str, dict[str, float]]


def measure(name: str, dtype: str, batch_size: int, count: int) -> Parts:
  """Returns the milliseconds a step of each part, forward and gradient."""
  step, *state, batch = cpu_step.our_step(name, batch_size, (), dtype)
  compiled = step.lower(*state, batch).compile()
  for _ in range(2):
    state = [jax.block_until_ready(step(*state, batch))]
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(count):
        state = [jax.block_until_ready(step(*state, batch))]
    (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
    profile = jax.profiler.ProfileData.from_file(str(path))
  scopes = ARCHITECTURES[name].scope_names + steps.SCOPE_NAMES
  shares = Program.of(compiled).shares(scopes)
  gradients = _gradients(compiled.as_text())
  parts: Parts = collections.defaultdict(lambda: collections.defaultdict(float))
  for plane in profile.planes:
    for line in plane.lines:
      for event in line.events:
        # A custom call's event also has the name of what it calls.
        operation = event.name.partition('__')[0]
        for part, share in shares.get(operation, {}).items():
          kind = 'gradient' if operation in gradients else 'forward'
          parts[part][kind] += share * event.duration_ns / 1e6 / count
  return {part: parts[part] for part in (*scopes, 'other') if part in parts}


def _gradients(text: str) -> set[str]:
  """Returns the names of the operations that compute gradients."""
  return {
    line.split(' = ')[0].split('%')[-1]
    for line in text.splitlines()
    if 'transpose(jvp' in line
  }


def main() -> None:
  """Prints the table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--network', default='torchvision')
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--keep_memory', action='store_true')
  arguments = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  if arguments.keep_memory and not machine.keep_freed_memory():
    parser.error(
      '--keep_memory: not glibc, or MALLOC_*, GLIBC_TUNABLES are set'
    )
  parts = measure(
    arguments.network, arguments.dtype, arguments.batch_size, arguments.steps
  )
  print(
    f'{arguments.network}, {arguments.dtype}, batch {arguments.batch_size}, '
    'ms per step'
  )
  print(f'{"part":<12}{"forward":>10}{"gradient":>10}')
  for part, kinds in parts.items():
    print(f'{part:<12}{kinds["forward"]:>10.1f}{kinds["gradient"]:>10.1f}')
  total = sum(sum(kinds.values()) for kinds in parts.values())
  print(f'{"sum":<12}{total:>10.1f}')
  rounded = {
    part: {kind: round(ms, 1) for kind, ms in kinds.items()}
    for part, kinds in parts.items()
  }
  turns.print_result({}, {}, ms=rounded, **turns.machine('jax', 'flax'))


if __name__ == '__main__':
  main()
