"""Which devices a run was on, each time it started: starts.json."""

import json
from typing import Any

import jax
from etils import epath

from alexnet_jax.cli.files import write_text
from alexnet_jax.runs.banner import devices

NAME = 'starts.json'


def record(workdir: epath.Path, step: int) -> None:
  """Adds a start of the run; only process 0 writes.

  Starts from later steps are forgotten, as those steps are trained again.

  Args:
    workdir: the workdir of the run.
    step: of the checkpoint that it starts from; 0 for a new run.

  Raises:
    StorageError: the file cannot be written.
  """
  if jax.process_index() == 0:
    earlier = [start for start in read(workdir) if start['step'] < step]
    starts = [*earlier, {'step': step, 'devices': devices()}]
    write_text(workdir / NAME, json.dumps(starts) + '\n')


def read(workdir: epath.Path) -> list[dict[str, Any]]:
  """Returns the starts of a run, first to last: `step` and `devices`.

  Empty if there is no such file, or if it is not valid.
  """
  try:
    starts = json.loads((workdir / NAME).read_text())
    return [
      {'step': int(start['step']), 'devices': str(start['devices'])}
      for start in starts
    ]
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return []
