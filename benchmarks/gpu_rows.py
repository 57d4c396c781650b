"""What `gpu_step.py --time` times: this project, plain Flax and PyTorch."""

import contextlib
import dataclasses
import functools
import os
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import libraries
import turns
from jax.sharding import NamedSharding, PartitionSpec

from alexnet_jax.learning import optimizer, steps
from alexnet_jax.learning.placement import place
from alexnet_jax.model import ARCHITECTURES, AlexNet, Architecture

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
KEYS = {'bfloat16': 'bf16', 'float32': 'f32', 'no TF32': 'f32_no_tf32'}


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
    placement = place(model, state)
    step = steps.p_train_step(
      placement,
      model=model,
      tx=tx,
      rates=optimizer.rates_of(OPTIMIZER, 1000, 90_000),
      dropout_key=jax.random.key(1),
    )
    images, labels = libraries.batch_of(self.architecture, self.batch)
    # As `input_pipeline.to_devices` does.
    sharding = NamedSharding(placement.mesh, PartitionSpec(steps.AXIS))
    batch = jax.device_put(
      {'image': jnp.asarray(images)[None].astype(self.dtype),
       'label': jnp.asarray(labels)[None]},
      sharding,
    )  # fmt: skip
    return step, placement.put(state), batch

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
