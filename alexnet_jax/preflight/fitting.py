"""The largest batch that fits, for preflight and for a run out of memory."""

import re
from collections.abc import Callable

import jax

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import say
from alexnet_jax.config.loading import Config
from alexnet_jax.preflight import compilation, topologies
from alexnet_jax.preflight.topologies import GIB
from alexnet_jax.runs.scoring import num_images


def explain(config: Config, mode: str, error: Exception) -> UserError:
  """Returns an error with the memory that was asked for, and what would fit.

  Args:
    config: of the run.
    mode: 'train' or 'eval': which step did not fit.
    error: JAX's, with RESOURCE_EXHAUSTED in its text.
  """
  field = 'batch_size' if mode == 'train' else 'eval.batch_size'
  size = config.batch_size if mode == 'train' else config.eval.batch_size
  text = ' '.join(str(error).split())
  asked = re.search(r'allocat\w* ([\d.]+ ?(?:[KMGT]?i?B|bytes))', text)
  what = f'cannot allocate {asked[1]}' if asked else text[:200]
  message = f"a device's memory is full ({what}) with {field}={size}"
  if jax.process_count() > 1:
    return UserError(f'{message}; python -m alexnet_jax.preflight finds a '
                     'batch that fits')  # fmt: skip
  topology = topologies.find('local')
  steps, n = compilation.Steps(config, topology), len(topology.devices)
  compile_at, parts = steps.train, config.grad_accumulation
  if mode == 'eval':
    compile_at, parts = steps.evaluate, 1
    size = num_images(size, config.eval.crops, n)
  say(f'{message}: looking for the largest that fits ...')
  step = compile_at(size)
  room = topology.memory_bytes
  if not room:
    return UserError(f'{message}: lower it')
  needs = f'it needs {step.needed_bytes / GIB:.2f} of {room / GIB:.2f} GiB'
  if step.fits(topology):
    return UserError(
      f'{message}. By its compiler {needs} on each device: end the other '
      'programs on it, or give JAX more of it (XLA_PYTHON_CLIENT_MEM_FRACTION)'
    )
  fits, _ = largest_that_fits(compile_at, step, topology, parts)
  cure = f'--config.{field}={fits}, ' if fits else ''
  return UserError(
    f'{message}: {needs} on each device. Give {cure}'
    '--config.model.dtype=bfloat16 or more devices'
  )


def largest_that_fits(
  compile_at: Callable[[int], compilation.Step],
  over: compilation.Step,
  topology: topologies.Topology,
  parts: int = 1,
) -> tuple[int, int]:
  """Searches the largest batch that fits, by compiling a few.

  Args:
    compile_at: `Steps.train` or `Steps.evaluate`.
    over: a step that does not fit.
    topology: the devices.
    parts: of each device's images (`grad_accumulation`), which must be equal.

  Returns:
    A batch size that fits (0 if none was found) and one that does not. They
    differ by at most an eighth of the first, or by one image per part.
  """
  n, room = len(topology.devices) * parts, topology.memory_bytes
  assert room
  # Images per part, and the bytes that they need.
  low = 0
  high, high_bytes = over.batch_size // n, over.needed_bytes
  above, above_bytes = 0, 0  # The previous `high`.
  for tried in range(10):
    if high - low <= max(1, low // 8):
      break
    if low and tried % 2:
      guess = low + low // 8  # If this does not fit, the search ends.
    elif low:
      guess = (low + high) // 2
    elif not above:
      guess = int(high * room / high_bytes)
    else:
      # None fits yet: part of the memory does not depend on the batch.
      slope = (above_bytes - high_bytes) / (above - high)
      # Compilers round, so the slope may be zero.
      fewer = int((high_bytes - room) / slope) + 1 if slope > 0 else high
      guess = max(high - fewer, high // 8)
    guess = min(max(guess, low + 1), high - 1)
    step = compile_at(guess * n)
    if step.fits(topology):
      low = guess
    else:
      above, above_bytes = high, high_bytes
      high, high_bytes = guess, step.needed_bytes
  return low * n, high * n
