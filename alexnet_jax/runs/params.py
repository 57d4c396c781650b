"""Reads and writes the parameters of a network, without the training state."""

import hashlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import patient, warn
from alexnet_jax.runs.intact import (
  FOLDER,
  PREPROCESSING,
  best_step,
  first_intact,
  saved_steps,
  validation_errors,
)
from alexnet_jax.runs.storage import host_arrays, sealing, storage_errors


def save_params(workdir: epath.Path, params: Any) -> None:
  """Saves parameters as the checkpoint of step 0.

  Args:
    workdir: local or on gs://.
    params: a tree of arrays.

  Raises:
    StorageError: they cannot be written.

  Example:
    >>> import tempfile
    >>> workdir = epath.Path(tempfile.mkdtemp())
    >>> save_params(workdir, {'fc8': {'bias': np.ones(2)}})
    >>> restore_params(workdir, 'latest', {'fc8': {'bias': np.zeros(2)}})
    (0, 0, {'fc8': {'bias': array([1., 1.])}})
  """
  folder = workdir / FOLDER
  options = sealing(folder, workdir / PREPROCESSING)
  with (
    storage_errors('save the parameters', workdir),
    ocp.CheckpointManager(folder, options=options) as manager,
  ):
    manager.save(0, args=ocp.args.StandardSave({'params': params}))


def restore_params(
  workdir: epath.Path, which: str, params: Any
) -> tuple[int, int, Any]:
  """Returns the parameters of one checkpoint; see `save_params`.

  If the best or the latest checkpoint is corrupt, the next one is used, with a
  warning.

  Args:
    workdir: the workdir of a run.
    which: 'best', 'latest' or the number of a saved step.
    params: a tree of the expected shapes and dtypes (may be abstract).

  Returns:
    The step, the best step, and the parameters as host arrays.

  Raises:
    UserError: there is no such checkpoint, or it is of another network.
    StorageError: no checkpoint is intact.
  """
  if not saved_steps(workdir):
    raise UserError(
      f'no checkpoint in {workdir}: train first (the same command with '
      '--mode=train), or give the --workdir of a trained run'
    )
  errors = validation_errors(workdir)
  step, corrupt = first_intact(workdir, _candidates(workdir, which, errors))
  assert step is not None
  for number, faults in corrupt.items():
    warn(
      f'the checkpoint of step {number} is corrupt: {"; ".join(faults[:3])}; '
      f'using step {step}'
    )
  target = {'params': host_arrays(params)}
  with (
    patient(f'{workdir}', seconds=20),
    storage_errors(f'read the checkpoint of step {step}', workdir),
    ocp.PyTreeCheckpointer() as checkpointer,
  ):
    restored = checkpointer.restore(
      workdir / FOLDER / str(step) / 'default',
      args=ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )
  _check_shapes(workdir, restored['params'], params)
  best = best_step({n: e for n, e in errors.items() if n not in corrupt})
  return step, step if best is None else best, restored['params']


def _candidates(
  workdir: epath.Path, which: str, errors: dict[int, float]
) -> list[int]:
  """Returns saved steps, the most wanted first."""
  latest = saved_steps(workdir)[::-1]
  if which == 'latest':
    return latest
  if which == 'best':
    # A run that was stopped before its first evaluation has no errors.
    return sorted(latest, key=lambda n: (errors.get(n, np.inf), -n))
  if which.isdecimal() and int(which) in latest:
    return [int(which)]
  raise UserError(
    f'no checkpoint {which!r} in {workdir} (eval.step): give best, latest, or '
    f'one of the steps {", ".join(map(str, latest[::-1]))}'
  )


def _check_shapes(workdir: epath.Path, restored: Any, expected: Any) -> None:
  leaves = jax.tree_util.tree_leaves_with_path(restored)
  for (path, leaf), other in zip(
    leaves, jax.tree.leaves(expected), strict=True
  ):
    if leaf.shape != other.shape:
      name = '/'.join(key.key for key in path)
      raise UserError(
        f'{workdir} holds another network: {name} has the shape {leaf.shape}, '
        f'{other.shape} in the network of the config (model.*)'
      )


def params_digest(params: Any) -> str:
  """Returns the SHA-256 of the parameters, leaf by leaf in sorted order.

  Example:
    >>> params_digest({'fc8': {'bias': np.zeros(2, np.float32)}})[:8]
    'af5570f5'
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  digest = hashlib.sha256()
  for _, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
