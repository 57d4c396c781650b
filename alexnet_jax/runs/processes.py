"""Several processes of one run: how they meet, agree, and end together."""

import contextlib
import faulthandler
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.cli import command
from alexnet_jax.cli.errors import ProcessLost, StorageError, UserError

# Seconds without a word after which a process counts as lost. JAX's own 100
# would let a pod stand still for longer than a restart takes.
_HEARTBEAT_TIMEOUT = 30
# Seconds for which one that is done waits for the others.
_SHUTDOWN_TIMEOUT = 60


def join(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Meets the other processes of a run, before JAX is used.

  Args:
    coordinator_address: host and port at which process 0 listens; None, as the
      others, where the cluster tells (TPU pods, GKE, SLURM).
    num_processes: how many there are.
    process_id: which one this is, from 0.

  Raises:
    UserError: nothing tells where the others are, or the port is taken. (Where
      they do not come within five minutes, JAX ends the process itself.)
  """
  place = (coordinator_address, num_processes, process_id)
  if place != (None, None, None):
    _check(*place)
  if process_id == 0 and coordinator_address:
    _check_port(int(coordinator_address.rpartition(':')[2]))
  try:
    jax.distributed.initialize(
      *place,
      heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
      shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
    )
  except (ValueError, RuntimeError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(
      f'--distributed: {reason} It finds the other processes on a TPU pod, GKE '
      'and SLURM; elsewhere give --coordinator_address=HOST:PORT '
      '--num_processes=N --process_id=I, or leave it out on one machine'
    ) from error
  command.leave_by(_leave_others)
  # Where JAX ends the process because another is lost, its message should be
  # the last, not a list of threads and modules.
  faulthandler.disable()


def _check(address: str | None, number: int | None, index: int | None) -> None:
  if address is None or number is None or index is None:
    raise UserError(
      '--coordinator_address=HOST:PORT, --num_processes and --process_id: all '
      'three, or none where the cluster tells'
    )
  host, _, port = address.rpartition(':')
  if not host or not port.isdigit():
    raise UserError(
      f'--coordinator_address={address}: HOST:PORT of process 0, the same for '
      'all'
    )
  if not 0 <= index < number:
    raise UserError(
      f'--process_id={index} of --num_processes={number}: from 0 to '
      f'{number - 1}'
    )


def _check_port(port: int) -> None:
  # JAX's service crashes where it cannot listen.
  dual = socket.has_dualstack_ipv6()
  with socket.socket(socket.AF_INET6 if dual else socket.AF_INET) as listener:
    try:
      listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      listener.bind(('', port))
    except OSError as error:
      raise UserError(
        f'--coordinator_address: port {port} cannot be listened at here '
        f'({error.strerror}): give another, the same to all processes'
      ) from error


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
  """Says so where a computation fails because another process was lost."""
  try:
    yield
  except Exception as error:
    if not several() or not _tells_of_a_loss(error):
      raise
    raise ProcessLost(
      'another process of this run has ended or cannot be reached: what it '
      'said last tells why. Start all of them again with the same command: '
      f'the run goes on from its newest checkpoint ({error})'
    ) from error


# What JAX, Orbax and what they stand on say then, in errors of any type.
_WORDS_OF_LOSS = (
  'Gloo',
  'oordination service',
  'oordinationService',
  'heartbeat',
  'Connection reset by peer',
  'Connection closed by peer',
)


def _tells_of_a_loss(error: Exception) -> bool:
  if isinstance(error, ProcessLost):
    return False
  if isinstance(error, jax.errors.JaxRuntimeError):
    return 'RESOURCE_EXHAUSTED' not in str(error)
  return any(words in str(error) for words in _WORDS_OF_LOSS)


def several() -> bool:
  """Whether this is one of several processes of a run."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def _leave_others(status: int) -> None:
  if several():
    leave(status)


def leave(status: int) -> NoReturn:
  """Ends one of several processes that failed, so that the others notice.

  `sys.exit` would wait for them, while they wait for this one.
  """
  with contextlib.suppress(BrokenPipeError):
    sys.stdout.flush()
    sys.stderr.flush()
  if jax.process_index() == 0:
    # With it goes what holds them together: if they fail too, they should be
    # able to say why.
    time.sleep(2)
  os._exit(status)


def on_first(function: Callable[[], int]) -> int:
  """What the first process alone finds, for all of them.

  Args:
    function: called in the first process.

  Raises:
    UserError, StorageError: of `function`, in all processes.
  """
  result, error = 0, None
  if jax.process_index() == 0:
    try:
      result = function()
    except (UserError, StorageError) as e:
      error = e
  if jax.process_count() > 1:
    told = np.array([result, error is not None])
    result, failed = map(int, multihost_utils.broadcast_one_to_all(told))
    if failed and error is None:
      error = StorageError('the first process stopped: see what it says')
  if error:
    raise error
  return result
