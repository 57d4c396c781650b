"""Checkpoints of a run, by Orbax, and only here."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from alexnet_jax.errors import StorageError, UserError
from alexnet_jax.learning.steps import TrainState

_METRIC = 'top1_error'


@contextlib.contextmanager
def _storage(doing: str, workdir: epath.Path) -> Iterator[None]:
  """What goes wrong in Orbax is a StorageError of one line.

  It raises whatever the layer below raises: OSError, ValueError and others.
  """
  try:
    yield
  except Exception as error:
    reason = ' '.join(str(error).split())[:300]
    raise StorageError(
      f'cannot {doing} in {workdir}: {type(error).__name__}: {reason}'
    ) from error


@contextlib.contextmanager
def open_manager(
  workdir: epath.Path, keep: int = 1, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
  """The checkpoints of a workdir: the best, and the latest `keep`.

  Saves are asynchronous; the end of the `with` waits for them. A live run owns
  its folder: others open it `read_only`.

  Raises:
    StorageError: here, and in all that is done with it, where the folder cannot
      be read or written.
  """

  def error(metrics):
    return metrics[_METRIC]

  policy = checkpoint_managers.AnyPreservationPolicy(
    [
      checkpoint_managers.LatestN(keep),
      checkpoint_managers.BestN(
        get_metric_fn=error,
        reverse=True,
        n=1,
        # Otherwise every save within an epoch would be kept for ever.
        keep_checkpoints_without_metrics=False,
      ),
    ]
  )
  with _storage('open the checkpoints', workdir):
    manager = ocp.CheckpointManager(
      workdir / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
        best_fn=error,
        best_mode='min',
        preservation_policy=policy,
        read_only=read_only,
        create=not read_only,
      ),
    )
  try:
    yield manager
  finally:
    with _storage('finish a checkpoint', workdir):
      manager.close()


def wait(manager: ocp.CheckpointManager) -> None:
  """Returns when all that was saved is on disk."""
  with _storage('finish a checkpoint', _workdir(manager)):
    manager.wait_until_finished()


def _workdir(manager: ocp.CheckpointManager) -> epath.Path:
  return epath.Path(manager.directory).parent


def save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  top1_error: float | None = None,
) -> None:
  """Saves a state under its step, with its validation error if there is one.

  A step is saved once: saving it again changes nothing.
  """
  step = int(state.step)
  if jax.process_count() > 1:
    state = jax.tree.map(
      ocp.utils.fully_replicated_host_local_array_to_global_array, state
    )
  with _storage(f'save step {step}', _workdir(manager)):
    manager.save(
      step,
      args=ocp.args.StandardSave(state),
      metrics=None if top1_error is None else {_METRIC: top1_error},
    )


def save_params(workdir: epath.Path, params: Any) -> None:
  """Makes a checkpoint of parameters alone, as step 0."""
  with open_manager(workdir) as manager:
    with _storage('save the parameters', workdir):
      manager.save(0, args=ocp.args.StandardSave({'params': params}))
    wait(manager)


def restore_or_init(
  manager: ocp.CheckpointManager, state: TrainState
) -> TrainState:
  """The latest saved state, or the given one where nothing is saved.

  It comes back as host arrays: any number of devices may go on with it.
  """
  step = manager.latest_step()
  if step is None:
    return state
  with _storage(f'read the checkpoint of step {step}', _workdir(manager)):
    return manager.restore(
      step, args=ocp.args.StandardRestore(jax.tree.map(_host_array, state))
    )


def _host_array(leaf) -> np.ndarray:
  # Never written to, so it takes no memory.
  return np.empty(leaf.shape, leaf.dtype)


def restore_params(
  workdir: epath.Path, which: str, params: Any
) -> tuple[int, int, Any]:
  """Parameters of one checkpoint, without the rest of the state.

  Args:
    workdir: of a run.
    which: 'best', 'latest' or the number of a saved step.
    params: a tree of the shapes and dtypes expected (abstract is enough).

  Returns:
    The step, the best step, and the parameters as host arrays.

  Raises:
    UserError: there is no such checkpoint.
  """
  if not (workdir / 'checkpoints').exists():
    raise UserError(
      f'no checkpoint in {workdir}: train first (the same command with '
      '--mode=train), or give the --workdir of a trained run'
    )
  with open_manager(workdir, read_only=True) as manager:
    step = _find_step(manager, workdir, which)
    best_step = manager.best_step()
    target = {'params': jax.tree.map(_host_array, params)}
    with _storage(f'read the checkpoint of step {step}', workdir):
      restored = manager.restore(
        step,
        args=ocp.args.PyTreeRestore(
          item=target,
          restore_args=ocp.checkpoint_utils.construct_restore_args(target),
          partial_restore=True,
        ),
      )
  _check_shapes(workdir, restored['params'], params)
  return step, step if best_step is None else best_step, restored['params']


def _check_shapes(workdir: epath.Path, found: Any, expected: Any) -> None:
  """Refuses parameters of another network, naming the first that differs."""
  found_leaves = jax.tree_util.tree_leaves_with_path(found)
  for (path, leaf), other in zip(
    found_leaves, jax.tree.leaves(expected), strict=True
  ):
    if leaf.shape != other.shape:
      name = '/'.join(key.key for key in path)
      raise UserError(
        f'{workdir} holds another network: {name} is {leaf.shape} there, '
        f'{other.shape} in the one that the config names (model.*)'
      )


def has_checkpoint(workdir: epath.Path) -> bool:
  """Whether a run was saved there."""
  if not (workdir / 'checkpoints').exists():
    return False
  with open_manager(workdir, read_only=True) as manager:
    return manager.latest_step() is not None


def _find_step(manager, workdir, which) -> int:
  steps = sorted(manager.all_steps())
  if not steps:
    raise UserError(f'no checkpoint in {workdir}: train first')
  if which == 'latest':
    return steps[-1]
  if which == 'best':
    best_step = manager.best_step()
    # A run that was stopped before its first evaluation has no best.
    return steps[-1] if best_step is None else best_step
  if which.isdecimal() and int(which) in steps:
    return int(which)
  raise UserError(
    f'no checkpoint {which!r} in {workdir} (eval.step): best, latest, or one '
    f'of the steps {", ".join(map(str, steps))}'
  )


def params_digest(params: Any) -> str:
  """SHA-256 of the parameters' bytes, leaf by leaf in sorted order."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  digest = hashlib.sha256()
  for _, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
