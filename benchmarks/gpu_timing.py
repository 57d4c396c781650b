"""The table of `gpu_step.py --time`, which explains it."""

import contextlib
import dataclasses
import functools
import gc
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import libraries
import turns
from gpu_rows import KEYS, Row, start_jax

NETWORKS = ('paper', 'torchvision')
# The most telling rows first: what is computed, precision, batch sizes.
GROUPS = (
  ('training', 'bfloat16', (512, 128)),
  ('inference', 'bfloat16', (512, 128)),
  ('training', 'float32', (512, 128)),
  ('inference', 'float32', (512, 128)),
  ('training', 'no TF32', (512, 128)),
  ('inference', 'no TF32', (512, 128)),
  ('training', 'bfloat16', (2048,)),
  ('inference', 'bfloat16', (2048,)),
  ('training', 'float32', (2048,)),
  ('inference', 'float32', (2048,)),
  ('training', 'no TF32', (2048,)),
  ('inference', 'no TF32', (2048,)),
  ('torch.compile', 'bfloat16', (512,)),
  ('torch.compile', 'float32', (512,)),
)
TOY_GROUPS = (
  ('training', 'bfloat16', (2,)),
  ('inference', 'float32', (2,)),
)
ROUNDS, TURN_SECONDS = 5, 0.1
# Seconds at the end for the steps in processes of their own.
RESERVED = 75


class Timing:
  """The table as it grows, and what the JSON line will hold."""

  def __init__(self, toy: bool, minutes: float):
    self._start = time.monotonic()
    self._minutes = minutes
    self._toy = toy
    self._ceilings: dict[str, float] = {}
    self._torch = bool(importlib.util.find_spec('torch'))
    self._lock = threading.Lock()
    self._ratios: dict[str, float] = {}
    self._more: dict[str, Any] = {
      'images_per_second': {}, 'share_of_product': {}, 'skipped': [],
      'errors': {}, 'programs': {}, 'steps_alone': {},
    }  # fmt: skip

  def left(self) -> float:
    """Returns the seconds that are left."""
    return self._start + 60 * self._minutes - time.monotonic()

  def run(self) -> None:
    """Prints the table and the JSON line."""
    watchdog = threading.Timer(self.left() + 20, self._stop)
    watchdog.daemon = True
    watchdog.start()
    device = jax.local_devices()[0]
    print(f'{device.device_kind}, {device.client.platform_version}'
          .replace('\n', ', '))  # fmt: skip
    if not self._torch:
      print('PyTorch is not installed: its columns are empty')
    self._measure_ceilings()
    print('images/s (ours / the library\'s)\n'
          f'{"":<39}{"ours":>8}{"plain Flax":>15}{"PyTorch":>15}'
          f'{"PyTorch+":>15}{"share":>7}')  # fmt: skip
    for mode, precision, batches in TOY_GROUPS if self._toy else GROUPS:
      for batch, network in itertools.product(batches, NETWORKS):
        row = Row(mode, network, precision, batch, self._toy)
        if self._toy and network != NETWORKS[0]:
          continue
        if self.left() < RESERVED:
          self._more['skipped'].append(' '.join(str(row).split()))
          continue
        forms = row.torch_forms() if self._torch else {}
        self._time(row, {**row.jax_forms(), **forms})
        self._release()
    self._skipped()
    self._alone()
    watchdog.cancel()
    self._finish()

  def _time(self, row: Row, forms: dict[str, Any]) -> None:
    errors: dict[str, Exception] = {}
    counts, ready = {}, {}
    for form, prepare in forms.items():
      with _kept(errors, form):
        once = prepare()
        once(2)
        start = time.perf_counter()
        once(3)
        each = (time.perf_counter() - start) / 3
        counts[form] = 1 if self._toy else max(2, round(TURN_SECONDS / each))
        ready[form] = once
    seconds: dict[str, list[float]] = {form: [] for form in ready}
    for _ in range(2 if self._toy else ROUNDS):
      for form, once in ready.items():
        if form in errors:
          continue
        with _kept(errors, form):
          start = time.perf_counter()
          once(counts[form])
          seconds[form].append((time.perf_counter() - start) / counts[form])
    for form in errors:
      seconds.pop(form, None)
    self._print(row, seconds, errors)
    if row.mode == 'training' and row.batch in (512, 2) and 'ours' in seconds:
      self._print_program(row, statistics.median(seconds['ours']))

  def _print(self, row, seconds, errors) -> None:
    speeds = {f: row.batch / statistics.median(x) for f, x in seconds.items()}
    line = f'{row!s}'
    for form in ('ours', 'plain Flax', 'PyTorch', 'PyTorch+'):
      cell = '-'
      if form in errors:
        cell = 'failed'
      elif form in speeds:
        cell = f'{speeds[form]:,.0f}'
        if form != 'ours' and 'ours' in speeds:
          times = turns.ratio(seconds[form], seconds['ours'])
          self._ratios[row.ratio_name(form)] = times
          cell += f' ({times:.2f})'
      elif 'PyTorch' in form and not self._torch:
        cell = 'absent'
      line += f'{cell:>{8 if form == "ours" else 15}}'
    name = ' '.join(str(row).split())
    if 'ours' in speeds:
      work = speeds['ours'] * libraries.flops(row.architecture, row.train)
      share = work / self._ceilings[row.precision]
      self._more['share_of_product'][name] = round(share, 4)
      line += f'{share:>7.1%}'
    print(line, flush=True)
    self._more['images_per_second'][name] = {
      form: round(speed, 1) for form, speed in speeds.items()
    }
    for form, error in errors.items():
      self._error(f'{name}, {form}', _described(error))

  def _error(self, name: str, text: str) -> None:
    self._more['errors'][name] = text.partition('\n')[0][:200]
    print(_wrapped(f'{name}: {text[:600]}'), flush=True)

  def _print_program(self, row: Row, seconds: float) -> None:
    """Prints what XLA expects of our step; the compilation cache has it."""
    errors: dict[str, Exception] = {}
    name = ' '.join(str(row).split())
    with _kept(errors, 'program'), row.precision_context():
      step, state, batch = row.our_program()
      compiled = step.lower(state, batch).compile()
      cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
      moved = float(cost.get('bytes accessed', 0))
      parts = {
        'arguments': memory.argument_size_in_bytes,
        'outputs': memory.output_size_in_bytes - memory.alias_size_in_bytes,
        'temporaries': memory.temp_size_in_bytes,
      }
      share = moved / seconds / self._ceilings['copy']
      print(
        f'  our program: {moved / 1e9:.2f} GB moved, {share:.0%} of the copy; '
        + ', '.join(f'{k} {v / 2**30:.2f}' for k, v in parts.items())
        + ' GiB', flush=True,
      )  # fmt: skip
      self._more['programs'][name] = {
        'bytes_moved': round(moved), 'share_of_copy': round(share, 4), **parts,
      }  # fmt: skip
    for error in errors.values():
      self._error(f'{name}, program', _described(error))

  def _measure_ceilings(self) -> None:
    size = 256 if self._toy else 8192
    for precision in KEYS:
      row = Row('', 'paper', precision, 0)
      x = jax.random.normal(jax.random.key(0), (size, size), row.dtype)
      product = jax.jit(jnp.matmul)
      with row.precision_context():
        seconds = _seconds(functools.partial(product, x, x))
      self._ceilings[precision] = 2 * size**3 / seconds
      print(f'product of {size}, {precision}: '
            f'{self._ceilings[precision] / 1e12:.2f} TFLOP/s')  # fmt: skip
    x = jnp.ones(size**2 * 4)
    seconds = _seconds(functools.partial(jax.jit(jnp.negative), x))
    self._ceilings['copy'] = 2 * x.nbytes / seconds
    print(f'copy of {x.nbytes / 2**30:.3f} GiB, read and written: '
          f'{self._ceilings["copy"] / 1e12:.3f} TB/s', flush=True)  # fmt: skip
    self._more['ceilings'] = {
      key: round(value / 1e12, 3) for key, value in self._ceilings.items()
    }

  def _release(self) -> None:
    gc.collect()
    if self._torch and not self._toy:
      import torch

      torch.cuda.empty_cache()

  def _alone(self) -> None:
    """Runs a step for its memory, and two that do not fit, in processes."""
    jax.clear_caches()
    self._release()
    # Images (-1 is an error of any device), and the fraction of the memory.
    trials = (512, ''), (4096, '.1'), (2**18, '')
    for batch, fraction in ((-1, ''),) if self._toy else trials:
      row = Row('training', 'paper', 'bfloat16', batch, self._toy)
      what = f'{batch} images in {fraction or "all"} of the memory'
      text = _in_process(row, fraction, max(5, min(40, self.left())))
      print(f'our step alone, paper, bfloat16, {what}:')
      print(_wrapped(text), flush=True)
      self._more['steps_alone'][what] = text[:300]

  def _skipped(self) -> None:
    for name in self._more['skipped']:
      print(f'skipped, for time: {name}')

  def _stop(self) -> None:
    print('stopped: not done 20 s after the time was up', flush=True)
    self._finish()
    os._exit(1)

  def _finish(self) -> None:
    with self._lock:
      packages = ['jax', 'jaxlib', 'flax', 'optax', 'numpy']
      turns.print_result(
        dict(self._ratios),
        {},
        **dict(self._more),
        seconds=round(60 * self._minutes - self.left()),
        device=jax.local_devices()[0].device_kind,
        **turns.machine(*packages, *['torch'] * self._torch),
      )


@contextlib.contextmanager
def _kept(errors: dict[str, Exception], name: str):
  """Keeps an error, such as too little memory, for the table."""
  try:
    yield
  except Exception as error:
    # Its traceback would keep arrays on the device.
    errors[name] = error.with_traceback(None)


def _described(error: Exception) -> str:
  kind = type(error)
  return f'{kind.__module__}.{kind.__name__}: {str(error).strip()}'


def _wrapped(text: str) -> str:
  lines = (textwrap.fill(line, 94) for line in text.splitlines())
  return textwrap.indent('\n'.join(lines), '  ')


def _seconds(call: Callable[[], Any], count: int = 20) -> float:
  """Returns the median time of a call, over five turns of several calls."""
  times = []
  for _ in range(6):
    start = time.perf_counter()
    for _ in range(count):
      result = call()
    jax.block_until_ready(result)
    times.append((time.perf_counter() - start) / count)
  return statistics.median(times[1:])


def _in_process(row: Row, fraction: str, seconds: float) -> str:
  """Returns what a step in its own process reports, or its error."""
  context = multiprocessing.get_context('spawn')
  pipe, other_end = context.Pipe()
  if fraction:
    os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] = fraction
  process = context.Process(
    target=_one_step, args=(row, other_end), daemon=True
  )
  process.start()
  os.environ.pop('XLA_PYTHON_CLIENT_MEM_FRACTION', None)
  other_end.close()
  try:
    return (
      pipe.recv() if pipe.poll(seconds) else f'no answer in {seconds:.0f} s'
    )
  except EOFError:
    process.join(5)
    return f'the process ended with status {process.exitcode}'
  finally:
    process.kill()
    process.join(5)


def _one_step(row: Row, pipe: Any) -> None:
  try:
    start_jax(row.toy)
    device = jax.local_devices()[0]
    small = dataclasses.replace(row, batch=1)
    step, state, batch = small.our_program()
    sizes = {'image': (*batch['image'].shape[2:],), 'label': ()}
    for name, shape in sizes.items():
      make = functools.partial(
        jnp.zeros, (1, row.batch, *shape), batch[name].dtype
      )
      batch[name] = jax.jit(make, out_shardings=batch[name].sharding)()
    for _ in range(3):
      state = jax.block_until_ready(step(state, batch))
    stats = device.memory_stats() or {}
    names = ('peak_bytes_in_use', 'bytes_in_use', 'bytes_limit')
    pipe.send(
      ', '.join(f'{name} {stats.get(name, "unknown")}' for name in names)
    )
  except Exception as error:
    pipe.send(_described(error)[:1500])
