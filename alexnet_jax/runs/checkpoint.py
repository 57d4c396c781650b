"""The checkpoints of the run that owns a workdir: save, resume, keep the best.

Orbax stores them. A checkpoint counts only if it is intact (`digests.py`).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from alexnet_jax.cli.errors import StorageError
from alexnet_jax.cli.files import sync
from alexnet_jax.cli.terminal import warn
from alexnet_jax.learning.steps import TrainState
from alexnet_jax.runs import digests, intact
from alexnet_jax.runs.intact import FOLDER, PREPROCESSING
from alexnet_jax.runs.storage import (
  host_arrays,
  sealing,
  storage_errors,
  uncommitted,
  wait_until_gone,
)
from alexnet_jax.runs.workdirs import no_check

CORRUPT_FOLDER = 'broken_checkpoints'
# In the folder of checkpoints. Orbax moves there what is not kept, so that a
# kill during a deletion leaves no half of a checkpoint under its own name.
_DELETED = 'deleted'

Scores = dict[str, Any]


def settle(workdir: epath.Path) -> int | None:
  """Returns the step to resume from, and puts corrupt checkpoints aside.

  They are moved to `broken_checkpoints/`, never deleted.

  Args:
    workdir: held by this run alone (`workdirs.sole_run`).

  Returns:
    The step of the newest intact checkpoint; None if nothing was ever saved.

  Raises:
    StorageError: no checkpoint is intact; nothing was changed.
  """
  steps = intact.saved_steps(workdir)
  step, corrupt = intact.first_intact(workdir, steps[::-1])
  for number in steps:  # The best checkpoint is mostly an older one.
    if step is not None and number < step:
      with storage_errors(f'read the checkpoint of step {number}', workdir):
        if faults := digests.faults(workdir / FOLDER / str(number)):
          corrupt[number] = faults
  with storage_errors('clean up', workdir):
    for number, faults in corrupt.items():
      target = workdir / CORRUPT_FOLDER / str(number)
      target.parent.mkdir(exist_ok=True)
      if target.exists():  # The same step was corrupt before.
        target.rmtree()
      source = workdir / FOLDER / str(number)
      source.rename(target)
      wait_until_gone([source])
      warn(
        f'the checkpoint of step {number} is corrupt: {"; ".join(faults[:3])}. '
        f'Moved it to {target}; resuming from step {step}'
      )
  return step


class Checkpoints:
  """Saves and restores the latest and the best checkpoints of a run.

  A state is saved before it is evaluated, so a kill during the evaluation costs
  no training. The scores are added to the checkpoint afterwards.
  """

  def __init__(
    self,
    workdir: epath.Path,
    keep: int,
    check_lock: Callable[[], None] = no_check,
  ):
    """Opens the checkpoints.

    Args:
      workdir: the workdir of the run, as `settle` left it.
      keep: how many of the latest to keep, besides the best.
      check_lock: called before a checkpoint is committed
        (`workdirs.sole_run`).

    Raises:
      StorageError: here and in every method, if the folder cannot be read or
        written.
    """
    self._workdir = workdir
    self._folder = workdir / FOLDER
    self._errors = intact.validation_errors(workdir)
    with storage_errors('open the checkpoints', workdir):
      leftovers = uncommitted(self._folder)
      self._empty()
      self._manager = _Manager(
        self._folder,
        options=sealing(
          self._folder,
          workdir / PREPROCESSING,
          check_lock,
          preservation_policy=_Preserved(keep, self._errors),
          todelete_subdir=_DELETED,  # On gs://, Orbax deletes at once.
        ),
      )
      wait_until_gone(leftovers)

  def save(self, state: TrainState) -> None:
    """Saves a state under its step, in the background.

    Each process writes what its devices have of it. Saving a step that is
    already saved does nothing.
    """
    step = int(state.step)
    with storage_errors('save a checkpoint', self._workdir):
      self._manager.wait_until_finished()
      self._empty()
      self._manager.save(step, args=ocp.args.StandardSave(state))

  def wait(self) -> None:
    """Waits until everything is on disk."""
    with storage_errors('save a checkpoint', self._workdir):
      self._manager.wait_until_finished()
      self._empty()
      # The names of the checkpoint and of its folders.
      for folder in (self._folder, self._workdir, self._workdir.parent):
        sync(folder)

  def close(self) -> None:
    """Waits until everything is on disk, and stops Orbax's threads."""
    with storage_errors('save a checkpoint', self._workdir):
      self._manager.close()
      self._empty()

  def _empty(self) -> None:
    """Removes the checkpoints that are not kept."""
    deleted = self._folder / _DELETED
    if jax.process_index() == 0 and deleted.exists():
      # A power cut must not undo the move and leave half of them.
      sync(deleted)
      sync(self._folder)
      deleted.rmtree()

  @property
  def latest(self) -> int | None:
    """The newest saved step; None if nothing is saved."""
    return self._manager.latest_step()

  @property
  def best(self) -> int | None:
    """The step of the lowest validation error; None before an evaluation."""
    return intact.best_step(self._errors)

  def scores(self, step: int) -> Scores | None:
    """The recorded scores of a step; None if it was not evaluated."""
    return digests.scores(self._folder / str(step))

  def record(self, step: int, scores: Scores) -> None:
    """Adds the scores of a saved step to its checkpoint."""
    self.wait()
    if jax.process_index() == 0:
      with storage_errors(f'keep the scores of step {step}', self._workdir):
        digests.record_scores(self._folder / str(step), scores)
    self._errors[step] = scores['top1_error']

  def restore(self, step: int, state: TrainState) -> TrainState:
    """Returns the state of a saved step.

    Its leaves are host arrays, so any number of devices can continue with it.

    Args:
      step: the step of an intact checkpoint.
      state: a state of the expected shapes and dtypes.
    """
    with storage_errors(f'read the checkpoint of step {step}', self._workdir):
      return self._manager.restore(
        step, args=ocp.args.StandardRestore(host_arrays(state))
      )


@contextlib.contextmanager
def open_checkpoints(
  workdir: epath.Path,
  keep: int,
  check_lock: Callable[[], None] = no_check,
) -> Iterator[Checkpoints]:
  """Opens `Checkpoints` for a `with`, whose end waits for the disk.

  It does not wait after a StorageError: what cannot be written would take
  Orbax minutes.
  """
  checkpoints = Checkpoints(workdir, keep, check_lock)
  try:
    yield checkpoints
  except StorageError:
    raise
  except BaseException:
    checkpoints.close()
    raise
  checkpoints.close()


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, without its own use of the preemption service.

  `signals.py` uses that service. If Orbax did too, each with its own count of
  steps, the processes would not agree on where to stop.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class _Preserved(checkpoint_managers.PreservationPolicy):
  """Keeps the latest few checkpoints and the best."""

  def __init__(self, keep: int, errors: dict[int, float]):
    self._keep = keep
    self._errors = errors  # Shared with `Checkpoints`, which adds to it.

  def should_preserve(self, checkpoints, *, context):
    del context
    steps = sorted(c.step for c in checkpoints)
    kept = {*steps[-self._keep :], intact.best_step(self._errors)}
    return [c.step in kept for c in checkpoints]
