"""What this project adds to Orbax: one-line errors and sealed checkpoints."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from alexnet_jax.cli.errors import ProcessLost, StorageError
from alexnet_jax.runs import digests, processes

# Error messages that mean the disk is full.
_FULL = ('No space left', 'RESOURCE_EXHAUSTED', 'Disk quota', 'File too large')


@contextlib.contextmanager
def storage_errors(action: str, workdir: epath.Path) -> Iterator[None]:
  """Turns Orbax's errors, which may be of any type, into one line.

  Args:
    action: what is being done, for the message, such as 'save a checkpoint'.
    workdir: where it is done.

  Raises:
    StorageError: the action failed.
    ProcessLost: it failed because another process of the run was lost.
  """
  try:
    with processes.noticing_losses():
      yield
  except ProcessLost:
    raise
  except Exception as error:
    message = ' '.join(str(error).split())
    reason = f'{type(error).__name__}: {message[:300]}'
    if any(words in message for words in _FULL):
      reason = 'no space left there; make room, then run the command again'
    raise StorageError(f'cannot {action} in {workdir}: {reason}') from error


def sealing(
  folder: epath.Path,
  preprocessing: epath.Path,
  check_lock: Callable[[], None] = lambda: None,
  **more: Any,
) -> ocp.CheckpointManagerOptions:
  """Returns options with which Orbax commits only checkpoints with digests.

  Orbax calls back before it commits a checkpoint, which on a file system is
  renaming its folder, and on gs:// writing a last file into it. Whatever
  interrupted saves have left, on either, is removed at the start.

  Args:
    folder: the run's folder of checkpoints; no other run uses it.
    preprocessing: the run's preprocessing.json, whose digest is kept too.
    check_lock: called first; it may raise.
    **more: other options.
  """

  def seal() -> None:
    check_lock()
    for path in uncommitted(folder):  # The one that is being saved.
      digests.seal(path, preprocessing)

  return ocp.CheckpointManagerOptions(
    async_options=ocp.AsyncOptions(
      post_finalization_callback=seal, barrier_sync_fn=_wait_for_others
    ),
    cleanup_tmp_directories=True,
    lightweight_initialize=True,  # Reads no file that has no digest.
    **more,
  )


def _wait_for_others(key: str, timeout_ms: int) -> None:
  """Waits at a barrier, unless the save has failed in this process.

  Orbax would wait here for twenty minutes, for processes that wait for this one
  to save its part. (It waits as it handles the error.)
  """
  if sys.exc_info()[1] is None:
    barrier = ocp.multihost.get_barrier_sync_fn()
    barrier(key=key, timeout_ms=timeout_ms)


def uncommitted(folder: epath.Path) -> list[epath.Path]:
  """Returns the checkpoints that are being saved, or never were to the end."""
  if not folder.exists():
    return []
  return [p for p in folder.iterdir() if ocp.path.step.is_path_temporary(p)]


def wait_until_gone(paths: Iterable[epath.Path]) -> None:
  """Waits until folders that were removed or renamed can be made again.

  TensorFlow believes for 5 s that a removed folder on gs:// still exists, and
  Orbax fails to save there.
  """
  until = time.monotonic() + 10
  while any(p.exists() for p in paths) and time.monotonic() < until:
    time.sleep(0.1)


def host_arrays(tree: Any) -> Any:
  """Returns uninitialized host arrays of the same shapes and dtypes.

  Orbax takes the shapes to restore from them. Nothing writes to them, so they
  take no memory.
  """
  return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
