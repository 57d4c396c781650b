"""Things timed in turns within one run, each in a process of its own.

The machine is noisy and its noise comes in waves: what is compared takes turns,
and a ratio is the median of those of each round. Of its own process, since
libraries keep threads that wait by spinning, and memory.
"""

import datetime
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# For `configs`, which is no package that is installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
# Whatever else is there.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

Once = Callable[[], Any]  # Does a thing once, and waits until it is done.


def take_turns(
  forms: Mapping[str, Callable[[], Once]], rounds: int, warm_ups: int = 2
) -> dict[str, list[float]]:
  """Seconds that each form takes in each round.

  Args:
    forms: functions that prepare a form, in its process, and return what is
      timed. They must be importable: `functools.partial` of a function of a
      module.
    rounds: how often each has its turn.
    warm_ups: turns before those, which are not timed.
  """
  context = multiprocessing.get_context('spawn')
  pipes, processes = {}, []
  for name, prepare in forms.items():
    here, there = context.Pipe()
    processes.append(
      context.Process(target=_serve, args=(there, prepare), daemon=True)
    )
    processes[-1].start()
    there.close()
    pipes[name] = here
    here.recv()  # One prepares at a time.
  seconds: dict[str, list[float]] = {name: [] for name in forms}
  for turn in range(warm_ups + rounds):
    for name, pipe in pipes.items():
      pipe.send(None)
      taken = pipe.recv()
      if turn >= warm_ups:
        seconds[name].append(taken)
  for pipe in pipes.values():
    pipe.close()
  for process in processes:
    process.join()
  return seconds


def _serve(pipe, prepare) -> None:
  once = prepare()
  pipe.send(None)
  while True:
    try:
      pipe.recv()
    except EOFError:
      return
    start = time.perf_counter()
    once()
    pipe.send(time.perf_counter() - start)


def xla_defaults() -> None:
  """Takes back what importing alexnet_jax sets of XLA's flags.

  For peers: call it in their process before anything is compiled.
  """
  flags = os.environ.get('XLA_FLAGS', '').split()
  os.environ['XLA_FLAGS'] = ' '.join(
    flag for flag in flags if 'ynn_fusion_type' not in flag
  )


def cores() -> int:
  """Of this process."""
  return len(os.sched_getaffinity(0))


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
  """How many times `faster` is as fast: the median of the rounds' ratios."""
  return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def matrix_product(size: int = 4096) -> Once:
  """A float32 product of two matrices, by XLA: what the machine can do.

  It takes `2 * size ** 3` operations.
  """
  import jax
  import jax.numpy as jnp

  a = jnp.ones((size, size), jnp.float32)
  product = jax.jit(jnp.matmul)
  return lambda: jax.block_until_ready(product(a, a))


def machine(*packages: str) -> dict[str, str]:
  """Where and with what a figure was taken."""
  model = platform.processor() or platform.machine()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      names = [
        line.split(':')[1].strip() for line in file if 'model name' in line
      ]
    model = names[0] if names else model
  versions = {name: importlib.metadata.version(name) for name in packages}
  return {
    'date': datetime.date.today().isoformat(),
    'machine': f'{model}, {cores()} CPU cores',
    'python': platform.python_version(),
    **versions,
  }


def print_result(
  ratios: Mapping[str, float],
  least: Mapping[str, float],
  most: Mapping[str, float] | None = None,
  **more: Any,
) -> None:
  """The JSON line: what was found, what was to be reached, what ran.

  Args:
    ratios: by name.
    least: what some of them are to reach.
    most: what others are to stay within.
    **more: what else is worth keeping.
  """
  rounded = {name: round(value, 3) for name, value in ratios.items()}
  most = most or {}
  missed = [name for name, bound in least.items() if rounded[name] < bound]
  missed += [name for name, bound in most.items() if rounded[name] > bound]
  result = {
    'ratios': rounded,
    'targets': {**least, **most},
    'met': not missed,
    'missed': missed,
    **more,
  }
  print(json.dumps(result), flush=True)
