"""Timing of several implementations in turns, each in its own process.

A machine's speed varies over minutes, so implementations that are compared take
turns, and a ratio is the median of the rounds' ratios. They need processes of
their own because libraries keep memory and busy-waiting threads.
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

from alexnet_jax.cli.machine import keep_freed_memory

# For `configs`, which is not an installed package.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
# On CPU, even if there is a GPU or a TPU.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# Does one step and waits until it is done.
Once = Callable[[], Any]


def take_turns(
  forms: Mapping[str, Callable[[], Once]],
  rounds: int,
  warm_ups: int = 2,
  keep_memory: bool = False,
) -> dict[str, list[float]]:
  """Returns the seconds that each form takes in each round.

  Args:
    forms: functions that prepare a form in its process and return the function
      to time. They must be importable, such as the `functools.partial` of a
      module's function.
    rounds: number of timed turns of each form.
    warm_ups: number of turns before those, which are not timed.
    keep_memory: whether all processes keep freed memory, as training does
      (`cli/machine.py`).
  """
  context = multiprocessing.get_context('spawn')
  pipes, processes = {}, []
  for name, prepare in forms.items():
    pipe, other_end = context.Pipe()
    processes.append(
      context.Process(
        target=_serve, args=(other_end, prepare, keep_memory), daemon=True
      )
    )
    processes[-1].start()
    other_end.close()
    pipes[name] = pipe
    pipe.recv()  # One prepares at a time.
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


def _serve(pipe, prepare, keep_memory) -> None:
  if keep_memory:
    keep_freed_memory()
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
  """Removes the flags of XLA that importing alexnet_jax has set.

  Other libraries' processes call it before they compile anything.
  """
  flags = os.environ.get('XLA_FLAGS', '').split()
  os.environ['XLA_FLAGS'] = ' '.join(
    flag for flag in flags if 'ynn_fusion_type' not in flag
  )


def cores() -> int:
  """Returns the number of CPU cores that this process may use."""
  return len(os.sched_getaffinity(0))


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
  """Returns how many times as fast `faster` is: the rounds' median ratio."""
  return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def matrix_product(size: int = 4096) -> Once:
  """Returns XLA's float32 product of two square matrices.

  Its `2 * size ** 3` operations show what the machine can do.
  """
  import jax
  import jax.numpy as jnp

  a = jnp.ones((size, size), jnp.float32)
  product = jax.jit(jnp.matmul)
  return lambda: jax.block_until_ready(product(a, a))


def machine(*packages: str) -> dict[str, str]:
  """Returns the date, the machine, and the versions of Python and packages."""
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
  """Prints the JSON line with ratios, targets and whether they are met.

  Args:
    ratios: the measured ratios by name.
    least: targets that are lower bounds.
    most: targets that are upper bounds.
    **more: further entries of the JSON object.
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
