"""What this project adds to Orbax: one-line errors and sealed checkpoints."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint.path import atomicity, atomicity_defaults

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
  folder: epath.Path, preprocessing: epath.Path
) -> type[atomicity.TemporaryPathBase]:
  """Returns an Orbax class that adds the digests before a checkpoint appears.

  Orbax writes each checkpoint under a temporary name. The digests are written
  last, so a checkpoint has its final name only when it is complete.

  Args:
    folder: the run's folder of checkpoints.
    preprocessing: the run's preprocessing.json, whose digest is kept too.
  """
  base: Any = atomicity_defaults.get_default_temporary_path_class(folder)

  class Sealing(base):
    async def finalize(self) -> None:
      final = self.get_final()
      if final.parent != folder:  # A part of a checkpoint.
        return await super().finalize()
      if base is not atomicity.AtomicRenameTemporaryPath:
        digests.seal(self.get(), preprocessing, committed=False)
        return await super().finalize()
      # Orbax writes its last file and renames the folder in one call. So let it
      # rename to a second temporary name first.
      self._final_path = final.with_name(
        f'{final.name}{atomicity.TMP_DIR_SUFFIX}.sealing'
      )
      await super().finalize()
      digests.seal(self._final_path, preprocessing)
      self._final_path.rename(final)
      self._final_path = final

  return Sealing


def host_arrays(tree: Any) -> Any:
  """Returns uninitialized host arrays of the same shapes and dtypes.

  Orbax takes the shapes to restore from them. Nothing writes to them, so they
  take no memory.
  """
  return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
