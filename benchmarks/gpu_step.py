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
import contextlib
import dataclasses
import functools
import gc
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import tempfile
import textwrap
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import libraries
import turns
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.learning import optimizer, steps
from alexnet_jax.model import ARCHITECTURES, AlexNet, Architecture

FUSED = '__cudnn$convBiasActivationForward'
# The fields of `config.optimizer` in configs/imagenet.py that a step needs;
# ml_collections may be missing on the machine.
OPTIMIZER = types.SimpleNamespace(
  learning_rate=libraries.RATE,
  momentum=libraries.MOMENTUM,
  weight_decay=libraries.DECAY,
  rate_in_velocity=True,
  rules=(),
  frozen_layers=(),
  warmup_epochs=0.0,
  schedule='plateau',
  drop_factor=0.1,
  plateau_patience=5,
  plateau_max_drops=3,
  plateau_min_improvement=1e-4,
)
NETWORKS = ('paper', 'torchvision')
KEYS = {'bfloat16': 'bf16', 'float32': 'f32', 'no TF32': 'f32_no_tf32'}
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


@dataclasses.dataclass(frozen=True)
class Row:
  """What is timed in a row of the table.

  Attributes:
    mode: 'training', 'inference' or 'torch.compile' (a training step).
    network: key of `ARCHITECTURES`.
    precision: key of `KEYS`.
    batch: number of images.
    toy: whether images are small and the device is a CPU.
  """

  mode: str
  network: str
  precision: str
  batch: int
  toy: bool = False

  def __str__(self) -> str:
    return (
      f'{self.mode:<14}{self.network:<12}{self.precision:<9}{self.batch:>4}'
    )

  @property
  def architecture(self) -> Architecture:
    """The network."""
    architecture = ARCHITECTURES[self.network]
    if not self.toy:
      return architecture
    narrow = tuple(
      dataclasses.replace(layer, features=layer.features and 16)
      for layer in architecture.layers
    )
    size = architecture.min_input_size
    return dataclasses.replace(architecture, input_size=size, layers=narrow)

  @property
  def train(self) -> bool:
    """Whether it is a training step."""
    return self.mode != 'inference'

  @property
  def dtype(self) -> str:
    """The dtype of images and activations."""
    return 'bfloat16' if self.precision == 'bfloat16' else 'float32'

  def ratio_name(self, form: str) -> str:
    """Returns such as gpu_bf16_inference_paper_vs_flax_128."""
    parts = ['gpu', KEYS[self.precision]]
    parts += ['inference'] * (not self.train) + [self.network, 'vs']
    parts.append('flax' if form == 'plain Flax' else 'pytorch')
    if form == 'PyTorch+':
      compiled = self.mode == 'torch.compile'
      parts.append('compiled' if compiled else 'tf32')
    parts += [str(self.batch)] * (self.batch not in (512, 2))
    return '_'.join(parts)

  def jax_forms(self) -> dict[str, Callable[[], Any]]:
    """Returns what prepares the forms of this project and of Flax."""
    architecture = self.architecture
    arguments = architecture, self.batch, self.dtype
    if self.train:
      forms = {'ours': self._our_step}
      make = libraries.flax_step
    else:
      make = libraries.flax_inference
      forms = {'ours': lambda: make(self._model(), *arguments)}
    if self.mode != 'torch.compile':
      plain = libraries.plain_flax(architecture, self.dtype)
      forms['plain Flax'] = lambda: make(plain, *arguments)
    return {
      k: functools.partial(self._in_precision, f) for k, f in forms.items()
    }

  def torch_forms(self) -> dict[str, Callable[[], turns.Once]]:
    """Returns what prepares the forms of PyTorch."""
    prepare = functools.partial(
      libraries.pytorch_step, self.architecture, self.batch, True, self.train,
      device='cpu' if self.toy else 'cuda', dtype=self.dtype,
    )  # fmt: skip
    tf32 = {'tf32': (False, self.precision == 'float32')}
    if self.mode == 'torch.compile':
      backend = 'eager' if self.toy else 'inductor'
      return {'PyTorch+': functools.partial(prepare, **tf32, backend=backend)}
    forms = {'PyTorch': functools.partial(prepare, **tf32)}
    if self.precision == 'float32':
      forms['PyTorch+'] = functools.partial(prepare, tf32=(True, True))
    return forms

  def our_program(self) -> tuple[Any, Any, dict[str, Any]]:
    """Returns the training loop's step, a state and a batch."""
    model, size = self._model(), self.architecture.input_size
    tx = optimizer.paper_sgd(OPTIMIZER.momentum, OPTIMIZER.rate_in_velocity)
    plateau = optimizer.plateau_decay(OPTIMIZER)
    state = steps.create_train_state(model, tx, plateau, size, 0)
    step = steps.p_train_step(
      model=model,
      tx=tx,
      rates=optimizer.rates_of(OPTIMIZER, 1000, 90_000),
      dropout_key=jax.random.key(1),
    )
    images, labels = libraries.batch_of(self.architecture, self.batch)
    # As `input_pipeline.to_devices` does.
    sharding = NamedSharding(
      Mesh(jax.local_devices(), (steps.AXIS,)), PartitionSpec(steps.AXIS)
    )
    batch = jax.device_put(
      {'image': jnp.asarray(images)[None].astype(self.dtype),
       'label': jnp.asarray(labels)[None]},
      sharding,
    )  # fmt: skip
    return step, steps.replicate(state), batch

  def precision_context(self) -> Any:
    """Returns a context in which JAX has the row's precision."""
    if self.precision != 'no TF32':
      return contextlib.nullcontext()
    return jax.default_matmul_precision('highest')

  def _model(self):
    return AlexNet(self.architecture, dtype=jnp.dtype(self.dtype))

  def _our_step(self) -> turns.Once:
    step, *state, batch = self.our_program()

    def once(count=1):
      for _ in range(count):
        state[:] = [step(*state, batch)]
      jax.block_until_ready(state)

    return once

  def _in_precision(self, prepare) -> turns.Once:
    """Returns the form after its first call, which compiles it."""
    with self.precision_context():
      once = prepare()
      once()

    def in_context(count=1):
      with self.precision_context():
        once(count)

    return in_context


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
    self._print(row, seconds, errors, list(forms))
    if row.mode == 'training' and row.batch in (512, 2) and 'ours' in seconds:
      self._print_program(row, statistics.median(seconds['ours']))

  def _print(self, row, seconds, errors, timed) -> None:
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
    print(f'stopped: not done {20} s after the time was up', flush=True)
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


def start_jax(toy: bool) -> None:
  """Starts JAX on the first GPU, or on CPU.

  Raises:
    RuntimeError: there is no NVIDIA GPU.
    AssertionError: JAX has no CUDA plugin.
  """
  # PyTorch needs memory, too.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  os.environ.setdefault('CUDA_VISIBLE_DEVICES', '0')
  jax.config.update('jax_platforms', 'cpu' if toy else 'cuda')
  # Processes of their own compile nothing again.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_compilation_cache_dir', os.environ['STEP_CACHE'])
  jax.local_devices()


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
