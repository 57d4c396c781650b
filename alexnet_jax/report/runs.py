"""Finds and reads runs on disk, finished or not.

A run is a workdir, or a workdir without its checkpoints: config.json,
results.json, metrics.jsonl, and figures if it has any. `Run.problems` says what
is wrong with it.
"""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import folder_of
from alexnet_jax.report import logs, reading

FILES = ('config.json', 'results.json', 'metrics.jsonl')


@dataclasses.dataclass(frozen=True)
class Run:
  """One run.

  Attributes:
    path: its folder.
    name: `EXPERIMENT/SEED`, or the folder's name.
    config: config.json by dotted field; empty if it cannot be read.
    results: results.json; empty if it cannot be read.
    train: training lines of metrics.jsonl, sorted by step.
    validation: validation lines.
    problems: what is missing, invalid or unfinished, in words.
  """

  path: pathlib.Path
  name: str
  config: dict[str, Any]
  results: dict[str, Any]
  train: list[dict[str, float]]
  validation: list[dict[str, float]]
  problems: tuple[str, ...]

  @property
  def scored(self) -> bool:
    """Whether its errors count: those of a finished training."""
    return bool(self.results) and not self.problems and not self.stopped

  @property
  def stopped(self) -> str:
    """Why a search stopped it, in words; empty if it was not stopped."""
    return reading.stopped(self.results)

  @property
  def resumed(self) -> str:
    """How often it resumed, and on which devices if they changed; or empty.

    Runs of earlier versions have no record of it.
    """
    starts = self.results.get('starts')
    devices = [
      reading.text(start.get('devices', '?'))
      for start in (starts if isinstance(starts, list) else [])
      if isinstance(start, dict)
    ]
    if len(devices) < 2:
      return ''
    times = len(devices) - 1
    text = f'resumed {times} time{"s" if times > 1 else ""}'
    if len(set(devices)) > 1:
      text += f', on {", then ".join(dict.fromkeys(devices))}'
    return text

  @property
  def seed(self) -> int | None:
    """The run's seed; an ensemble has None, and so has an unknown one."""
    return None if 'members' in self.config else self.config.get('seed')

  @property
  def note(self) -> str:
    """The text of note.txt in its folder or the one above."""
    for folder in (self.path, self.path.parent):
      path = folder / 'note.txt'
      with contextlib.suppress(OSError):
        if path.is_file():
          return path.read_bytes().decode(errors='replace').strip()
    return ''

  @property
  def crops(self) -> Any:
    """The number of crops per image it was evaluated on."""
    return self.results.get('crops', self.config.get('eval.crops'))

  @functools.cached_property
  def images_per_second(self) -> float | None:
    """The median over its log; None if it has none."""
    name = 'images_per_second'
    speeds = [line[name] for line in self.train if name in line]
    return statistics.median(speeds) if speeds else None

  @functools.cached_property
  def training_seconds(self) -> float | None:
    """Time in training steps, without evaluations and interruptions."""
    seconds, step = 0.0, 0.0
    for line in self.train:
      if 'images_per_second' in line and self.config:
        images = (line['step'] - step) * self.config['batch_size']
        seconds += images / line['images_per_second']
      step = line['step']
    return seconds or None


def find(names: Sequence[str]) -> list[pathlib.Path]:
  """Returns the run folders among some folders and below them, sorted.

  A folder that is named twice, by whatever path, is returned once.

  Raises:
    UserError: a name is not a folder.
  """
  found: dict[pathlib.Path, pathlib.Path] = {}
  for name in names:
    path = folder_of(name, 'RUN')
    try:
      is_folder = path.is_dir()
    except OSError as error:
      raise UserError(f'cannot read {name!r} (RUN): {error}') from error
    if not is_folder:
      raise UserError(
        f'no folder {name!r} (RUN): name a workdir, or a folder of workdirs'
      )
    for folder in _below(path, set()) or [path]:
      found.setdefault(folder.resolve(), folder)
  return list(found.values())


def _below(path: pathlib.Path, seen: set[pathlib.Path]) -> list[pathlib.Path]:
  """Returns the folder itself if it is a run, else the runs below it."""
  if path.resolve() in seen:  # Symbolic links may form a circle.
    return []
  seen.add(path.resolve())
  try:
    if any((path / name).exists() for name in FILES):
      return [path]
    folders = sorted(one for one in path.iterdir() if one.is_dir())
  except OSError:
    return [path]  # Reading it reports the problem.
  return [run for folder in folders for run in _below(folder, seen)]


def read(path: pathlib.Path) -> Run:
  """Reads a folder as a run, with whatever is wrong with it."""
  problems: list[str] = []
  config = reading.read_config(path / 'config.json', problems)
  results = reading.read_results(path / 'results.json', config, problems)
  train: logs.Lines = []
  validation: logs.Lines = []
  if 'members' not in config:  # An ensemble has no log of its own.
    train, validation = logs.read_log(path / 'metrics.jsonl', problems)
  problem = logs.unfinished(config, train)
  if problem and not reading.stopped(results):
    problems.append(problem)
  parent, name = path.resolve().parent.name, path.resolve().name
  return Run(
    path,
    reading.text(f'{parent}/{name}' if name.isdecimal() else name),
    config,
    results,
    train,
    validation,
    tuple(map(reading.text, problems)),
  )


def read_all(paths: Sequence[pathlib.Path]) -> list[Run]:
  """Reads runs; a number of classes unlike most on a dataset is a problem."""
  runs = [read(path) for path in paths]
  classes: dict[str, collections.Counter] = collections.defaultdict(
    collections.Counter
  )
  for run in runs:
    if run.config and 'members' not in run.config:
      classes[run.config['data.name']][run.config['model.num_classes']] += 1
  return [_with_classes_compared(run, classes) for run in runs]


def _with_classes_compared(run: Run, classes: dict[str, Any]) -> Run:
  if not run.config or 'members' in run.config:
    return run
  number, name = run.config['model.num_classes'], run.config['data.name']
  counts = classes[name]
  others = {k: n for k, n in counts.items() if k != number}
  # Without a majority no number is right: all are excluded.
  if not others or counts[number] > max(others.values()):
    return run
  problem = (
    f'{number} classes, where other runs on {name} have '
    f'{", ".join(str(k) for k in sorted(others))}: not compared with them'
  )
  return dataclasses.replace(run, problems=(*run.problems, problem))
