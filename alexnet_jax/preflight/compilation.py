"""Compiles the training and evaluation steps of a config for devices."""

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import numpy as np
import tensorflow as tf

from alexnet_jax.cli.errors import UserError
from alexnet_jax.config.loading import Config
from alexnet_jax.data import color_stats, input_pipeline, preprocess
from alexnet_jax.data.of_run import needs_color_stats, preprocessing_of
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.learning import eval_steps, optimizer, steps
from alexnet_jax.learning.finish import finisher, input_blocks
from alexnet_jax.learning.placement import divides, mesh_of, place
from alexnet_jax.model import onednn
from alexnet_jax.model.build import build_model
from alexnet_jax.preflight.collectives import Collective, collectives
from alexnet_jax.preflight.executables import Kernels, Memory, Program, memory
from alexnet_jax.preflight.topologies import Topology, out_of_memory

# Any number: it changes the values of a schedule, not the program.
STEPS_PER_EPOCH = 10_000


@dataclasses.dataclass
class Step:
  """A step that was compiled, or did not fit.

  Attributes:
    batch_size: global.
    seconds: compilation time.
    memory: what the program needs; None if it did not fit.
    needed_bytes: on one device while a run is in this step: the program's
      memory, and what else is on the device.
    flops: the FLOP of one device, by XLA's count before compilation.
    cycles: the compiler's estimate for each part of the step; empty if it gives
      none.
    without_estimate: operations that have no estimate.
    kernels: what a GPU executes.
    collectives: what a device passes to collective operations, by kind.
    compiled: None if it did not fit.
    largest_that_fits: the batch size found by a search, if this one does not
      fit.
  """

  batch_size: int
  seconds: float
  memory: Memory | None
  needed_bytes: int
  flops: float | None = None
  cycles: dict[str, int] = dataclasses.field(default_factory=dict)
  without_estimate: list[str] = dataclasses.field(default_factory=list)
  kernels: Kernels | None = None
  collectives: dict[str, Collective] | None = None
  compiled: Any = None
  largest_that_fits: int | None = None

  def fits(self, topology: Topology) -> bool:
    """Returns whether it fits into a device's memory; True if unknown."""
    available = topology.memory_bytes
    return self.memory is not None and (
      available is None or self.needed_bytes <= available
    )


class Steps:
  """The training and evaluation steps of a config, for a topology."""

  def __init__(
    self,
    config: Config,
    topology: Topology,
    model: Any = None,
    blocks: bool = True,
  ):
    """Prepares the steps.

    Args:
      config: the config of the run.
      topology: to compile for.
      model: instead of the config's network; its parameters must be alike.
      blocks: False passes pixels on TPU too, instead of blocks of pixels.
    """
    self._config = config
    self._topology = topology
    own = build_model(config.model, topology.platform)
    self.model = model or own
    self._dtype = own.dtype
    self.preprocessing = like_preprocessing(config)
    size = config.data.crop_size
    self.blocks = input_blocks(own, size, topology.platform) if blocks else None
    tx = optimizer.paper_sgd(
      config.optimizer.momentum,
      config.optimizer.rate_in_velocity,
      config.optimizer.lars_coefficient,
    )
    plateau = optimizer.plateau_decay(config.optimizer)
    lengths = STEPS_PER_EPOCH, STEPS_PER_EPOCH * config.num_epochs
    self._make_state = lambda: steps.create_train_state(
      self.model, tx, plateau, config.data.crop_size, config.seed
    )
    self._state = jax.eval_shape(self._make_state)
    self._arguments = {
      'model': self.model,
      'tx': tx,
      'rates': optimizer.rates_of(config.optimizer, *lengths),
      'dropout_key': jax.random.key(config.seed + 1),
      'finish': finisher(self.preprocessing, blocks=self.blocks),
      **steps.arguments_of(config),
    }
    self._scopes = own.architecture.scope_names + steps.SCOPE_NAMES

  @property
  def checkpoint_bytes(self) -> int:
    """The size of a checkpoint."""
    return _num_bytes(self._state)

  def measure(self, compiled: Any, batch_size: int) -> float:
    """Returns the images/s of the training step on this machine's devices."""
    state = self._make_state()
    state = self._placed(self._topology.devices).put(state)
    ones = jax.tree.map(
      lambda x: np.ones((batch_size, *x.shape[2:]), x.dtype),
      self.train_batch(batch_size),
    )
    [batch] = input_pipeline.to_devices(iter([ones]), mesh_of())
    state = jax.block_until_ready(compiled(state, batch))
    done, begin = 0, time.monotonic()
    while done < 2 or time.monotonic() < begin + 2:
      state = jax.block_until_ready(compiled(state, batch))
      done += 1
    return done * batch_size / (time.monotonic() - begin)

  def train_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a global training batch, as for pmap."""
    p = self.preprocessing
    draws = {name: x[0] for name, x in preprocess.draw(p, 1, 0).items()}
    view = preprocess.train_view(_jpeg(p), draws, p, False)
    return self._batch(view, batch_size)

  def eval_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a global evaluation batch, as for pmap."""
    p, crops = self.preprocessing, self._config.eval.crops
    view = preprocess.eval_views(_jpeg(p), p, crops, False)
    return self._batch(view, batch_size, mask=np.float32(1))

  def _batch(self, view, batch_size, **more):
    n, finish = len(self._topology.devices), self._config.data.finish
    view = input_pipeline.device_input(
      view, self.preprocessing, finish, self.blocks, self._dtype
    )
    example = {**view, 'label': np.int32(0), **more}
    return {
      name: jax.ShapeDtypeStruct(
        (n, batch_size // n, *x.shape),
        x.dtype.as_numpy_dtype if isinstance(x, tf.Tensor) else x.dtype,
      )
      for name, x in example.items()
    }

  def train(self, batch_size: int) -> Step:
    """Compiles the training step."""
    return self._compile(Steps._train_parts, batch_size, waiting=0)

  def evaluate(self, batch_size: int) -> Step:
    """Compiles the evaluation step.

    Its memory includes the training state, which stays on the device. All
    parameters are there, too: those of which devices have parts, once more.
    """
    placement = self._placed(self._topology.devices)
    undivided = jax.tree.map(
      lambda x, spec: None if divides(spec) else x,
      self._state.params,
      placement.specs.params,
    )
    waiting = _num_bytes(placement.shapes(self._state)) - _num_bytes(undivided)
    return self._compile(Steps._eval_parts, batch_size, waiting)

  def _placed(self, devices):
    return place(
      self.model,
      self._state,
      self._config.parallelism,
      devices,
      self._config.grad_accumulation,
    )

  def _train_parts(self, batch_size):
    """Returns the step as a function of devices, and its argument shapes."""

    def step_on(devices):
      return steps.p_train_step(self._placed(devices), **self._arguments)

    return step_on, self._state, self.train_batch(batch_size)

  def _eval_parts(self, batch_size):
    crops = self._config.eval.crops
    finish = finisher(self.preprocessing, crops, self.blocks)
    step_on = functools.partial(eval_steps.p_eval_step, self.model, finish)
    return step_on, self._state.params, self.eval_batch(batch_size)

  def _compile(self, parts_of, batch_size, waiting) -> Step:
    step_on, first, batch = parts_of(self, batch_size)
    # Batches that are prefetched.
    per_device = _num_bytes(batch) // len(self._topology.devices)
    waiting += input_pipeline.PREFETCH * per_device
    lowered = step_on(devices=list(self._topology.devices)).lower(first, batch)
    begin = time.monotonic()
    try:
      compiled = lowered.compile(
        compiler_options=self._topology.compiler_options or None
      )
    except jax.errors.JaxRuntimeError as error:
      over = out_of_memory(error)
      if not over:
        reason = ' '.join(str(error).split())
        raise UserError(
          f'{self._topology.name}: the compiler failed: {reason}'
        ) from error
      seconds = time.monotonic() - begin
      return Step(batch_size, seconds, None, over[0] + waiting)
    seconds = time.monotonic() - begin
    needs = memory(compiled)
    program = Program.of(compiled)
    cycles, without = program.cycles(self._scopes)
    n = len(self._topology.devices)
    gpu = self._topology.platform in ('cuda', 'gpu', 'rocm')
    return Step(
      batch_size,
      seconds,
      needs,
      needs.peak + needs.code + waiting,
      flops=self._flops(parts_of, batch_size) or _flops(compiled),
      cycles=cycles,
      without_estimate=without,
      kernels=program.kernels() if gpu else None,
      collectives=collectives(program, n) if n > 1 else {},
      compiled=compiled,
    )

  def _flops(self, parts_of, batch_size) -> float | None:
    """Returns the network's own FLOP in one device's share of a batch.

    Counted as lowered for CPU with pixels as input. The form for TPU computes
    more than the network: conv1 has 12 x 12 taps, over blocks, and sums over
    channels are matrix products. oneDNN's convolutions would count as nothing.
    """
    try:
      devices = jax.devices('cpu')[:1]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU.
      return None
    of_pixels = self
    if self.blocks or self._config.grad_accumulation > 1:
      config = self._config.copy_and_resolve_references()
      config.grad_accumulation = 1  # XLA counts the body of a loop once.
      of_pixels = Steps(config, self._topology, self.model, blocks=False)
    step_on, first, batch = parts_of(of_pixels, batch_size)
    share = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), batch
    )
    with onednn.disabled():
      return _flops(step_on(devices=devices).lower(first, share))


def _flops(stage: Any) -> float | None:
  analysis = stage.cost_analysis()
  return analysis and analysis['flops']


def _num_bytes(tree: Any) -> int:
  return sum(
    math.prod(x.shape) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )


def _jpeg(p: Preprocessing) -> tf.Tensor:
  """Returns an encoded image."""
  size = p.resize_size
  return tf.io.encode_jpeg(np.zeros((size, size, 3), np.uint8))


def like_preprocessing(config: Config) -> Preprocessing:
  """Returns the preprocessing of a run, with arbitrary color statistics.

  The real ones take a pass over the training split. Neither shapes nor speed
  depend on them.
  """
  size = config.data.resize_size
  any_colors = color_stats.ColorStats(
    mean_image=np.full((size, size, 3), 120.5),
    mean=np.full(3, 120.5),
    std=np.full(3, 70.5),
    eigenvalues=np.array([14835.0, 1376.0, 388.0]),
    eigenvectors=np.eye(3),
    num_examples=np.array(1),
  )
  return preprocessing_of(
    config.data,
    any_colors if needs_color_stats(config.data) else None,
    dataset=None,
    class_names=(),
  )
