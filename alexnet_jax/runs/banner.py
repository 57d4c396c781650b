"""Prints the first lines of a run: versions, devices, and its main facts."""

import platform
from typing import Any

import flax
import jax
import optax
import orbax.checkpoint as ocp
import tensorflow as tf

import alexnet_jax
from alexnet_jax.cli.terminal import say


def banner(**facts: Any) -> None:
  """Prints versions, devices, and the given facts by name.

  Args:
    **facts: what else to print, such as `workdir=...`, one line each.
  """
  say(', '.join(f'{name} {version}' for name, version in versions().items()))
  for name, value in {'devices': devices(), **facts}.items():
    say(f'  {name:<16}{value}')


def versions() -> dict[str, str]:
  """Returns the versions of whatever a run's numbers depend on."""
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
  """Returns the devices as `8 x TPU v5 lite, 2 process(es)`."""
  kind = jax.devices()[0].device_kind
  return f'{jax.device_count()} x {kind}, {jax.process_count()} process(es)'
