"""Explains a device that is out of memory, with the batch that would fit."""

import re

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
  fits, _ = compilation.largest_that_fits(compile_at, step, topology, parts)
  cure = f'--config.{field}={fits}, ' if fits else ''
  return UserError(
    f'{message}: {needs} on each device. Give {cure}'
    '--config.model.dtype=bfloat16 or more devices'
  )
