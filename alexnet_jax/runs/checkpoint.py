"""Checkpoints of a run, by Orbax, and only here.

A checkpoint counts when it is whole (`digests.py`). The newest whole one is
gone on from; what stands in its way is put aside, never deleted.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.path import atomicity, atomicity_defaults

from alexnet_jax.cli.errors import ProcessLost, StorageError, UserError
from alexnet_jax.cli.terminal import warn
from alexnet_jax.learning.steps import TrainState
from alexnet_jax.runs import digests, processes

FOLDER = 'checkpoints'
BROKEN_FOLDER = 'broken_checkpoints'
PREPROCESSING = 'preprocessing.json'

Scores = dict[str, Any]

# Of a full disk, a quota, and a limit on a file's size.
_FULL = ('No space left', 'RESOURCE_EXHAUSTED', 'Disk quota', 'File too large')


@contextlib.contextmanager
def _storage(doing: str, workdir: epath.Path) -> Iterator[None]:
  """What goes wrong in Orbax is a StorageError of one line.

  It raises whatever the layer below raises: OSError, ValueError and others.
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
      reason = 'no space left there; make room, and start again'
    raise StorageError(f'cannot {doing} in {workdir}: {reason}') from error


def saved_steps(workdir: epath.Path) -> list[int]:
  """The steps of a workdir's checkpoints, whole or not, the earliest first."""
  folder = workdir / FOLDER
  if not folder.exists():
    return []
  with _storage('look for checkpoints', workdir):
    return sorted(
      int(path.name)
      for path in folder.iterdir()
      if _is_step(path.name) and _is_committed(path)
    )


def _is_step(name: str) -> bool:
  return name.isascii() and name.isdecimal() and str(int(name)) == name


def _is_committed(folder: epath.Path) -> bool:
  """On gs:// a checkpoint has its name before it is complete."""
  return (
    not _is_remote(folder) or (folder / atomicity.COMMIT_SUCCESS_FILE).exists()
  )


def _is_remote(path: epath.Path) -> bool:
  return '://' in str(path)


def settle(workdir: epath.Path) -> int | None:
  """Finds the newest whole checkpoint, and puts the broken ones aside.

  They go to `broken_checkpoints/`; of saves that were killed nothing is left.

  Args:
    workdir: of the one run that lives there.

  Returns:
    Its step; None where nothing was ever saved.

  Raises:
    StorageError: none is whole; nothing was changed.
  """
  steps = saved_steps(workdir)
  step, broken = _newest_whole(workdir, steps[::-1])
  for number in steps:  # The best is mostly an older one.
    if step is not None and number < step:
      with _storage(f'read the checkpoint of step {number}', workdir):
        if faults := digests.faults(workdir / FOLDER / str(number)):
          broken[number] = faults
  with _storage('clear up', workdir):
    for path in (workdir / FOLDER).glob(f'*{atomicity.TMP_DIR_SUFFIX}*'):
      path.rmtree()
    for number, faults in broken.items():
      aside = workdir / BROKEN_FOLDER / str(number)
      aside.parent.mkdir(exist_ok=True)
      if aside.exists():  # Broken again.
        aside.rmtree()
      (workdir / FOLDER / str(number)).rename(aside)
      warn(
        f'the checkpoint of step {number} is broken: {"; ".join(faults[:3])}. '
        f'It is now {aside}; going on from step {step}'
      )
  return step


def _newest_whole(
  workdir: epath.Path, candidates: Sequence[int]
) -> tuple[int | None, dict[int, list[str]]]:
  """The first whole one of some steps, and what is wrong with those before."""
  broken: dict[int, list[str]] = {}
  for step in candidates:
    with _storage(f'read the checkpoint of step {step}', workdir):
      folder = workdir / FOLDER / str(step)
      faults = digests.faults(folder)
      if not folder.exists():  # By a run that lives there.
        faults = ['it was deleted in the meantime']
    if not faults:
      _check_preprocessing(workdir, step)
      return step, broken
    broken[step] = faults
  if broken:
    told = '; '.join(f'step {n}: {faults[0]}' for n, faults in broken.items())
    raise StorageError(
      f'no whole checkpoint in {workdir / FOLDER} ({told}). Nothing was '
      'changed; give another --workdir to start again'
    )
  return None, broken


def _check_preprocessing(workdir: epath.Path, step: int) -> None:
  path = workdir / PREPROCESSING
  if not digests.belongs(workdir / FOLDER / str(step), path):
    raise StorageError(
      f'{path} has changed since step {step} was saved (SHA-256). Nothing was '
      'changed; remove it, and training makes it anew'
    )


class Checkpoints:
  """The checkpoints of the run that owns a workdir: the latest, and the best.

  A state is saved before it is evaluated, so that a kill within the evaluation
  costs no training; its scores are kept with it when they are there.
  """

  def __init__(self, workdir: epath.Path, keep: int):
    """Opens them.

    Args:
      workdir: of the run, as `settle` left it.
      keep: how many of the latest are kept, besides the best.

    Raises:
      StorageError: here, and in all that is done with it, where the folder
        cannot be read or written.
    """
    self._workdir = workdir
    self._folder = workdir / FOLDER
    self._errors: dict[int, float] = {}
    for step in saved_steps(workdir):
      self._note(step, digests.scores(self._folder / str(step)))
    with _storage('open the checkpoints', workdir):
      self._manager = _Manager(
        self._folder,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=_Preserved(keep, self._errors),
          temporary_path_class=_sealing(self._folder),
        ),
      )

  def save(self, state: TrainState) -> None:
    """Saves a state under its step, while the run goes on.

    A step is saved once: saving it again changes nothing.
    """
    step = int(state.step)
    if jax.process_count() > 1:
      state = jax.tree.map(
        ocp.utils.fully_replicated_host_local_array_to_global_array, state
      )
    with _storage('save a checkpoint', self._workdir):
      self._manager.save(step, args=ocp.args.StandardSave(state))

  def wait(self) -> None:
    """Returns when all that was saved is on disk."""
    with _storage('save a checkpoint', self._workdir):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for what is being saved."""
    with _storage('save a checkpoint', self._workdir):
      self._manager.close()

  @property
  def latest(self) -> int | None:
    """The step of the newest; None where nothing is saved."""
    return self._manager.latest_step()

  @property
  def best(self) -> int | None:
    """The step of the least validation error; None before an evaluation."""
    return _best(self._errors)

  def scores(self, step: int) -> Scores | None:
    """What `record` kept; None where the step was not evaluated."""
    return digests.scores(self._folder / str(step))

  def record(self, step: int, scores: Scores) -> None:
    """Keeps the scores of a saved step with it: they tell which is the best."""
    self.wait()
    if jax.process_index() == 0:
      with _storage(f'keep the scores of step {step}', self._workdir):
        digests.record_scores(self._folder / str(step), scores)
    self._note(step, scores)

  def _note(self, step: int, scores: Scores | None) -> None:
    if scores is not None:
      self._errors[step] = scores['top1_error']

  def restore(self, step: int, state: TrainState) -> TrainState:
    """The state of a saved step.

    It comes back as host arrays: any number of devices may go on with it.

    Args:
      step: a whole one.
      state: of the shapes and dtypes expected.
    """
    with _storage(f'read the checkpoint of step {step}', self._workdir):
      return self._manager.restore(
        step, args=ocp.args.StandardRestore(jax.tree.map(_host_array, state))
      )


@contextlib.contextmanager
def open_checkpoints(workdir: epath.Path, keep: int) -> Iterator[Checkpoints]:
  """`Checkpoints`; the end of the `with` waits for what is being saved."""
  checkpoints = Checkpoints(workdir, keep)
  try:
    yield checkpoints
  finally:
    checkpoints.close()


class _Manager(ocp.CheckpointManager):
  """One that leaves the preemption service to `signals.py`.

  Both would tell it how far the run is, each by a count of its own, and the
  processes would not agree on where to stop.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


def _best(errors: dict[int, float]) -> int | None:
  """Of equal ones the later."""
  return min(errors, key=lambda n: (errors[n], -n)) if errors else None


class _Preserved(checkpoint_managers.PreservationPolicy):
  """The latest few, and the best."""

  def __init__(self, keep: int, errors: dict[int, float]):
    self._keep = keep
    self._errors = errors

  def should_preserve(self, checkpoints, *, context):
    del context
    there = sorted(c.step for c in checkpoints)
    kept = {*there[-self._keep :], _best(self._errors)}
    return [c.step in kept for c in checkpoints]


def _sealing(folder: epath.Path) -> type[atomicity.TemporaryPathBase]:
  """Orbax's way of making a checkpoint appear whole, with its digests in it."""
  beside = folder.parent / PREPROCESSING
  base: Any = atomicity_defaults.get_default_temporary_path_class(folder)

  class Sealing(base):
    async def finalize(self) -> None:
      final = self.get_final()
      if final.parent != folder:  # A part of one.
        return await super().finalize()
      if base is not atomicity.AtomicRenameTemporaryPath:
        digests.seal(self.get(), beside, committed=False)
        return await super().finalize()
      # Orbax writes its last file here and renames the folder; so it gets
      # another temporary name first.
      self._final_path = final.with_name(
        f'{final.name}{atomicity.TMP_DIR_SUFFIX}.sealing'
      )
      await super().finalize()
      digests.seal(self._final_path, beside)
      self._final_path.rename(final)
      self._final_path = final

  return Sealing


def save_params(workdir: epath.Path, params: Any) -> None:
  """Makes a checkpoint of parameters alone, as step 0."""
  folder = workdir / FOLDER
  with _storage('save the parameters', workdir), ocp.CheckpointManager(
    folder,
    options=ocp.CheckpointManagerOptions(temporary_path_class=_sealing(folder)),
  ) as manager:  # fmt: skip
    manager.save(0, args=ocp.args.StandardSave({'params': params}))


def _host_array(leaf) -> np.ndarray:
  # Never written to, so it takes no memory.
  return np.empty(leaf.shape, leaf.dtype)


def restore_params(
  workdir: epath.Path, which: str, params: Any
) -> tuple[int, int, Any]:
  """Parameters of one checkpoint, without the rest of the state.

  Where the best or the latest is broken, the next one is taken, with a warning.

  Args:
    workdir: of a run.
    which: 'best', 'latest' or the number of a saved step.
    params: a tree of the shapes and dtypes expected (abstract is enough).

  Returns:
    The step, the best step, and the parameters as host arrays.

  Raises:
    UserError: there is no such checkpoint, or one of another network.
    StorageError: none is whole.
  """
  steps = saved_steps(workdir)
  if not steps:
    raise UserError(
      f'no checkpoint in {workdir}: train first (the same command with '
      '--mode=train), or give the --workdir of a trained run'
    )
  errors = {}
  for step in steps:
    if scores := digests.scores(workdir / FOLDER / str(step)):
      errors[step] = scores['top1_error']
  found, broken = _newest_whole(workdir, _candidates(workdir, which, errors))
  assert found is not None
  for number, faults in broken.items():
    warn(
      f'the checkpoint of step {number} is broken: {"; ".join(faults[:3])}; '
      f'taking step {found}'
    )
  target = {'params': jax.tree.map(_host_array, params)}
  with (
    _storage(f'read the checkpoint of step {found}', workdir),
    ocp.CheckpointManager(
      workdir / FOLDER, options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager,
  ):
    restored = manager.restore(
      found,
      args=ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )
  _check_shapes(workdir, restored['params'], params)
  best = _best({n: e for n, e in errors.items() if n not in broken})
  return found, found if best is None else best, restored['params']


def _candidates(
  workdir: epath.Path, which: str, errors: dict[int, float]
) -> list[int]:
  """Saved steps in the order in which they are wanted."""
  latest = saved_steps(workdir)[::-1]
  if which == 'latest':
    return latest
  if which == 'best':
    # A run that was stopped before its first evaluation has no best.
    return sorted(latest, key=lambda n: (errors.get(n, np.inf), -n))
  if which.isdecimal() and int(which) in latest:
    return [int(which)]
  raise UserError(
    f'no checkpoint {which!r} in {workdir} (eval.step): best, latest, or one '
    f'of the steps {", ".join(map(str, latest[::-1]))}'
  )


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


def params_digest(params: Any) -> str:
  """SHA-256 of the parameters' bytes, leaf by leaf in sorted order."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  digest = hashlib.sha256()
  for _, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
