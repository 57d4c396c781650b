"""Finds the intact checkpoints of a workdir."""

from collections.abc import Sequence

import orbax.checkpoint as ocp
from etils import epath

from alexnet_jax.cli.errors import StorageError
from alexnet_jax.runs import digests
from alexnet_jax.runs.storage import storage_errors

FOLDER = 'checkpoints'
PREPROCESSING = 'preprocessing.json'


def saved_steps(workdir: epath.Path) -> list[int]:
  """Returns the steps of all checkpoints, intact or not, in ascending order.

  Those that Orbax did not commit, because the run was killed, are left out.

  Example:
    >>> saved_steps(epath.Path('/tmp/no_such_run'))
    []
  """
  folder = workdir / FOLDER
  if not folder.exists():
    return []
  with storage_errors('look for checkpoints', workdir):
    return sorted(
      int(path.name)
      for path in folder.iterdir()
      if _is_step(path.name) and ocp.path.step.is_path_finalized(path)
    )


def _is_step(name: str) -> bool:
  return name.isascii() and name.isdecimal() and str(int(name)) == name


def validation_errors(workdir: epath.Path) -> dict[int, float]:
  """Returns the top-1 error of each checkpoint that was evaluated, by step."""
  scores = {
    step: digests.scores(workdir / FOLDER / str(step))
    for step in saved_steps(workdir)
  }
  return {step: of['top1_error'] for step, of in scores.items() if of}


def best_step(errors: dict[int, float]) -> int | None:
  """Returns the step of the lowest error, None if there is none.

  Ties go to the later step.

  Example:
    >>> best_step({100: 0.5, 200: 0.25, 300: 0.25})
    300
  """
  return min(errors, key=lambda n: (errors[n], -n)) if errors else None


def first_intact(
  workdir: epath.Path, candidates: Sequence[int]
) -> tuple[int | None, dict[int, list[str]]]:
  """Looks for an intact checkpoint.

  Args:
    workdir: the workdir of a run.
    candidates: steps in the order in which they are wanted.

  Returns:
    The first intact step, None if there are no candidates; and the faults of
    the corrupt checkpoints before it, by step.

  Raises:
    StorageError: no candidate is intact, or preprocessing.json has changed
      since the checkpoint was saved.
  """
  corrupt: dict[int, list[str]] = {}
  for step in candidates:
    with storage_errors(f'read the checkpoint of step {step}', workdir):
      folder = workdir / FOLDER / str(step)
      faults = digests.faults(folder)
      if not folder.exists():  # The run that owns the workdir deleted it.
        faults = ['it was deleted in the meantime']
    if not faults:
      _check_preprocessing(workdir, step)
      return step, corrupt
    corrupt[step] = faults
  if corrupt:
    listed = '; '.join(f'step {n}: {of[0]}' for n, of in corrupt.items())
    raise StorageError(
      f'no intact checkpoint in {workdir / FOLDER} ({listed}). Nothing was '
      'changed; give another --workdir to start again'
    )
  return None, corrupt


def _check_preprocessing(workdir: epath.Path, step: int) -> None:
  path = workdir / PREPROCESSING
  if not digests.belongs(workdir / FOLDER / str(step), path):
    raise StorageError(
      f'{path} has changed since step {step} was saved (SHA-256). Nothing was '
      'changed; remove the file, and training computes it again'
    )
