"""What the processes of a run compute together, each from its part."""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.cli.errors import UserError

T = TypeVar('T')


def share() -> tuple[int, int]:
  """Returns this process's number and the number of processes.

  Example:
    >>> share()  # For `Dataset.parts`.
    (0, 1)
  """
  return jax.process_index(), jax.process_count()


def from_all(compute: Callable[[], T]) -> list[T]:
  """Returns what each process computes, in all processes.

  Args:
    compute: called once; its result is exact in every process (it is pickled).

  Raises:
    UserError: raised by `compute` in some process; in all processes.

  Example:
    >>> from_all(lambda: 'here')
    ['here']
  """
  outcome: T | UserError
  try:
    outcome = compute()
  except UserError as error:
    outcome = error
  outcomes = [outcome]
  if jax.process_count() > 1:
    outcomes = [pickle.loads(each) for each in _gather(pickle.dumps(outcome))]
  results = []
  for each in outcomes:
    if isinstance(each, UserError):
      raise each
    results.append(each)
  return results


def check_same(facts: dict[str, Any]) -> None:
  """Checks that all processes of a run were started alike.

  Each would otherwise train on its own: the results are those of no config.

  Args:
    facts: by name, what must be the same in all.

  Raises:
    UserError: they differ; in all processes.

  Example:
    >>> check_same({'config.seed': 0})
  """
  first, *others = from_all(lambda: facts)
  for number, other in enumerate(others, 1):
    for name in [*first, *other]:
      here, there = first.get(name), other.get(name)
      if here != there:
        raise UserError(
          f'process 0 has {name} {str(here)[:100]}, process {number} '
          f'{str(there)[:100]}: start all with the same command, and let all '
          'read the same files'
        )


def _gather(data: bytes) -> list[bytes]:
  sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(data)] = np.frombuffer(data, np.uint8)
  rows = multihost_utils.process_allgather(padded)
  return [
    row[:size].tobytes()
    for row, size in zip(rows, sizes.reshape(-1), strict=True)
  ]
