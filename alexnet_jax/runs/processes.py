"""Connects the processes of one run, and ends them together."""

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
from alexnet_jax.cli.terminal import patient, print_error

# Seconds without a heartbeat after which a process counts as lost. Each half of
# that one is sent, so that a process may pause for 25 s. JAX's default of 100 s
# would idle a pod for longer than a restart takes.
_HEARTBEAT_TIMEOUT = 50
# Seconds for which a process that is done waits for the other processes.
_SHUTDOWN_TIMEOUT = 60


def join(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
) -> None:
  """Connects to the other processes of a run; call it before JAX is used.

  On TPU pods, GKE and SLURM all arguments are None: JAX asks the cluster.

  Args:
    coordinator_address: host and port at which process 0 listens.
    num_processes: number of processes.
    process_id: number of this process, from 0.

  Raises:
    UserError: the other processes cannot be found, or the port is taken. (If
      they do not connect within five minutes, JAX ends the process.)
  """
  place = (coordinator_address, num_processes, process_id)
  if place != (None, None, None):
    _check(*place)
  if process_id == 0 and coordinator_address:
    _check_port(int(coordinator_address.rpartition(':')[2]))
  try:
    with patient(
      'the other processes (five minutes at most)',
      tell=lambda text: print_error(f'WARNING: {text}'),
    ):
      jax.distributed.initialize(
        *place,
        local_device_ids=_own_gpus(),
        heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
      )
  except (ValueError, RuntimeError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(
      f'--distributed: {reason} On TPU pods, GKE and SLURM the other processes '
      'are found; elsewhere give --coordinator_address=HOST:PORT '
      '--num_processes=N --process_id=I, or omit --distributed on one machine'
    ) from error
  command.leave_by(_leave_others)
  # If JAX ends the process because another is lost, its message should be the
  # last output, not a list of threads and modules.
  faulthandler.disable()


def _own_gpus() -> list[int] | None:
  """Returns which visible GPUs are this process's own; None: JAX chooses.

  On SLURM, JAX takes the GPU with the task's number on its node. That fails if
  each task sees only its own GPUs, numbered from 0 (--gpus-per-task).
  """
  task = os.environ.get('SLURM_LOCALID')
  visible = ('CUDA_VISIBLE_DEVICES', 'ROCR_VISIBLE_DEVICES')
  gpus = next(filter(None, map(os.environ.get, visible)), None)
  if not task or not gpus or os.environ.get('JAX_LOCAL_DEVICE_IDS'):
    return None
  number = len(gpus.split(','))
  # SLURM sets it to NUMBER or TYPE:NUMBER.
  per_task = os.environ.get('SLURM_GPUS_PER_TASK', '').rpartition(':')[2]
  if int(task) < number and per_task != str(number):
    return None
  return list(range(number))


def _check(address: str | None, number: int | None, index: int | None) -> None:
  if address is None or number is None or index is None:
    raise UserError(
      'give --coordinator_address=HOST:PORT, --num_processes and --process_id: '
      'all three, or none on TPU pods, GKE and SLURM'
    )
  host, _, port = address.rpartition(':')
  if not host or not port.isdigit():
    raise UserError(
      f'--coordinator_address={address}: must be HOST:PORT of process 0, the '
      'same for all processes'
    )
  if not 0 <= index < number:
    raise UserError(
      f'--process_id={index} of --num_processes={number}: must be from 0 to '
      f'{number - 1}'
    )


def _check_port(port: int) -> None:
  # JAX's service crashes if it cannot listen.
  dual = socket.has_dualstack_ipv6()
  with socket.socket(socket.AF_INET6 if dual else socket.AF_INET) as listener:
    try:
      listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      listener.bind(('', port))
    except OSError as error:
      raise UserError(
        f'--coordinator_address: cannot listen at port {port} '
        f'({error.strerror}): give another port, the same for all processes'
      ) from error


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
  """Raises ProcessLost if the error inside it comes from a lost process."""
  try:
    yield
  except Exception as error:
    if not several() or not _is_loss(error):
      raise
    raise ProcessLost(
      'another process of this run has ended or cannot be reached; its last '
      'output has the reason. Start all of them again with the same command to '
      f'resume ({error})'
    ) from error


# Messages of JAX, Orbax and the libraries below them, in errors of any type.
_LOSS_MESSAGES = (
  'Gloo',
  'oordination service',
  'oordinationService',
  'heartbeat',
  'Connection reset by peer',
  'Connection closed by peer',
  'Timed out while waiting for',  # A barrier.
)


def _is_loss(error: Exception) -> bool:
  if isinstance(error, ProcessLost):
    return False
  if isinstance(error, jax.errors.JaxRuntimeError):
    return 'RESOURCE_EXHAUSTED' not in str(error)
  return any(words in str(error) for words in _LOSS_MESSAGES)


def several() -> bool:
  """Whether this is one of several processes of a run."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def _leave_others(status: int) -> None:
  if several():
    leave(status)


def leave(status: int) -> NoReturn:
  """Ends a failed process so that the other processes notice.

  `sys.exit` would wait for them, while they wait for this one.
  """
  with contextlib.suppress(BrokenPipeError):
    sys.stdout.flush()
    sys.stderr.flush()
  if jax.process_index() == 0:
    # Process 0 runs the service that connects the processes. The others end
    # with it, so give them time to print their own errors.
    time.sleep(2)
  os._exit(status)


def on_first(function: Callable[[], int]) -> int:
  """Calls a function in process 0 and returns its result in all processes.

  Raises:
    UserError, StorageError: raised by `function`; in all processes.
  """
  result, error = 0, None
  if jax.process_index() == 0:
    try:
      result = function()
    except (UserError, StorageError) as e:
      error = e
  if jax.process_count() > 1:
    sent = np.array([result, error is not None])
    result, failed = map(int, multihost_utils.broadcast_one_to_all(sent))
    if failed and error is None:
      error = StorageError('process 0 stopped: see its output')
  if error:
    raise error
  return result
