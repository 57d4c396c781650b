"""What a run prints first: versions, devices, and what it is about."""

import platform
from typing import Any

import flax
import jax
import optax
import orbax.checkpoint as ocp
import tensorflow as tf

import alexnet_jax
from alexnet_jax.cli.terminal import say


def versions() -> dict[str, str]:
  """Of this package, Python, and what a run's numbers depend on."""
  return {
    'alexnet_jax': alexnet_jax.__version__,
    'python': platform.python_version(),
    'jax': jax.__version__,
    'flax': flax.__version__,
    'optax': optax.__version__,
    'orbax': ocp.__version__,
    'tensorflow': tf.__version__,
  }


def devices() -> str:
  """`8 x TPU v5 lite, 2 process(es)`."""
  kind = jax.devices()[0].device_kind
  return f'{jax.device_count()} x {kind}, {jax.process_count()} process(es)'


def banner(**facts: Any) -> None:
  """The first lines of a run: versions, devices, and what it is about."""
  say(', '.join(f'{name} {version}' for name, version in versions().items()))
  say(f'  {"devices":<16}{devices()}')
  for name, value in facts.items():
    say(f'  {name.replace("_", " "):<16}{value}')
