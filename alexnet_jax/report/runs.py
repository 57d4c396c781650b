"""Runs as they are found on disk, finished or not, and which belong together.

A RUN is a workdir, or what is left of one without its checkpoints: config.json,
results.json, metrics.jsonl, and figures if there are any. What is wrong with it
is told in `Run.problems`.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_jax.cli.errors import UserError
from alexnet_jax.report import reading

FILES = ('config.json', 'results.json', 'metrics.jsonl')

# Runs that differ in no other field are seeds of one experiment.
_NOT_COMPARED = (
  'seed',
  'checkpoint.',
  'compilation_cache',
  'data.cache_dir',
  'data.data_dir',
  'data.finish',
  'data.max_error_rate',
  'eval.batch_size',
  # What results.json says counts.
  'eval.crops',
  'eval.step',
  'eval.train_split',
  'guards.',
  'log_every_steps',
  'profile',
  'members',
)


@dataclasses.dataclass(frozen=True)
class Run:
  """One folder.

  Attributes:
    path: of the folder.
    name: `EXPERIMENT/SEED`, or the folder's own name.
    config: config.json by dotted field; empty where it cannot be read.
    results: results.json; empty where it cannot be read.
    train: training lines of metrics.jsonl, in order of their steps.
    validation: validation lines.
    problems: what is missing, damaged or unfinished, in words.
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
    """Whether its errors are those of a finished training."""
    return bool(self.results) and not self.problems

  @property
  def seed(self) -> int | None:
    """Of the run; None of an ensemble, or where nothing tells."""
    return None if 'members' in self.config else self.config.get('seed')

  @property
  def note(self) -> str:
    """What note.txt beside it or above says: of the pictures, say."""
    for folder in (self.path, self.path.parent):
      path = folder / 'note.txt'
      with contextlib.suppress(OSError):
        if path.is_file():
          return path.read_text(errors='replace').strip()
    return ''

  @property
  def crops(self) -> Any:
    """On which it was scored."""
    return self.results.get('crops', self.config.get('eval.crops'))

  @functools.cached_property
  def images_per_second(self) -> float | None:
    """The median over its log; None where there is none."""
    name = 'images_per_second'
    speeds = [line[name] for line in self.train if name in line]
    return statistics.median(speeds) if speeds else None

  @functools.cached_property
  def training_seconds(self) -> float | None:
    """Time in training steps, without evaluations and pauses."""
    seconds, step = 0.0, 0.0
    for line in self.train:
      if 'images_per_second' in line and self.config:
        images = (line['step'] - step) * self.config['batch_size']
        seconds += images / line['images_per_second']
      step = line['step']
    return seconds or None

  def figure(self, name: str) -> pathlib.Path | None:
    """A picture of `alexnet_jax.figures` that lies in the folder."""
    path = self.path / name
    return path if path.is_file() else None

  @property
  def kernels(self) -> pathlib.Path | None:
    """Figure 3: by `alexnet_jax.figures`, or the run's own."""
    return self.figure('figure3.png') or self.figure('conv1.png')


def find(names: Sequence[str]) -> list[pathlib.Path]:
  """RUN folders: as given, and those below others, in sorted order.

  A folder that is named twice, by whatever path, is one run.

  Raises:
    UserError: a name is of no folder.
  """
  found: dict[pathlib.Path, pathlib.Path] = {}
  for name in names:
    path = pathlib.Path(name)
    try:
      is_folder = path.is_dir()
    except OSError as error:
      raise UserError(f'cannot look into {name!r} (RUN): {error}') from error
    if not is_folder:
      raise UserError(
        f'no folder {name!r} (RUN): a workdir, or a folder of such, needed'
      )
    for folder in _below(path, set()) or [path]:
      found.setdefault(folder.resolve(), folder)
  return list(found.values())


def _below(path: pathlib.Path, seen: set[pathlib.Path]) -> list[pathlib.Path]:
  """A folder if it is a run (it holds no others), or those below it."""
  if path.resolve() in seen:  # Links may lead round in a circle.
    return []
  seen.add(path.resolve())
  try:
    if any((path / name).exists() for name in FILES):
      return [path]
    folders = sorted(one for one in path.iterdir() if one.is_dir())
  except OSError:
    return [path]  # What cannot be read is told in its row.
  return [run for folder in folders for run in _below(folder, seen)]


def read(path: pathlib.Path) -> Run:
  """A folder as a run, with whatever is wrong with it."""
  problems: list[str] = []
  config = reading.read_config(path / 'config.json', problems)
  results = reading.read_results(path / 'results.json', config, problems)
  train: reading.Lines = []
  validation: reading.Lines = []
  if 'members' not in config:  # Of an ensemble nothing was trained.
    metrics = path / 'metrics.jsonl'
    train, validation = reading.read_metrics(metrics, problems)
  if told := reading.unfinished(config, train):
    problems.append(told)
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
  """Each as a run, with those told apart that have other classes."""
  runs = [read(path) for path in paths]
  classes: dict[str, collections.Counter] = collections.defaultdict(
    collections.Counter
  )
  for run in runs:
    if run.config and 'members' not in run.config:
      classes[run.config['data.name']][run.config['model.num_classes']] += 1
  return [_with_classes_told(run, classes) for run in runs]


def _with_classes_told(run: Run, classes: dict[str, Any]) -> Run:
  if not run.config or 'members' in run.config:
    return run
  number, name = run.config['model.num_classes'], run.config['data.name']
  counts = classes[name]
  others = {k: n for k, n in counts.items() if k != number}
  # Where as many have the one number as the other, all are told of.
  if not others or counts[number] > max(others.values()):
    return run
  told = ', '.join(str(k) for k in sorted(others))
  problem = (
    f'{number} classes, where other runs on {name} have {told}: not compared '
    'with them'
  )
  return dataclasses.replace(run, problems=(*run.problems, problem))


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Runs that differ in their seed alone.

  Attributes:
    name: of the folder that holds the seeds.
    runs: in order of their seeds.
  """

  name: str
  runs: tuple[Run, ...]

  @property
  def config(self) -> dict[str, Any]:
    """By dotted field; that of the first seed."""
    return self.runs[0].config

  @property
  def scored(self) -> tuple[Run, ...]:
    """Those whose errors count."""
    return tuple(run for run in self.runs if run.scored)

  @property
  def crops(self) -> int | None:
    """On which it was scored."""
    return self.runs[0].crops

  @property
  def data_name(self) -> str:
    """Of the set, without its version."""
    return str(self.config.get('data.name', '?')).split(':')[0]

  @property
  def network(self) -> str:
    """Name and what was changed: `paper, no_lrn, dropout 0`."""
    if 'members' in self.config:
      members = self.runs[0].results.get('members')
      number = len(members) if isinstance(members, list) else '?'
      return f'{number} networks averaged'
    parts = [str(self.config.get('model.name', '?'))]
    parts += map(str, self.config.get('model.ablations') or [])
    if self.config.get('model.dropout_rate') is not None:
      parts.append(f'dropout {self.config["model.dropout_rate"]:g}')
    return ', '.join(parts)

  @property
  def note(self) -> str:
    """That of its runs."""
    return self.runs[0].note

  @property
  def compared(self) -> dict[str, Any]:
    """The fields of its config that tell it from others."""
    return compared(self.config)

  def values(self, field: str) -> list[float]:
    """A field of results.json, of each scored run that has it."""
    return [
      run.results[field]
      for run in self.scored
      if reading.is_number(run.results.get(field))
    ]


def group(runs: Sequence[Run]) -> list[Experiment]:
  """Runs as experiments, in the order in which they were given.

  Of two with one seed the second is told of and does not count.
  """
  groups: dict[str, dict[Any, Run]] = {}
  for i, run in enumerate(runs):
    key, seed = str(i), run.seed
    # Ensembles and what has no config stand alone.
    if run.config and 'members' not in run.config:
      fields = [compared(run.config), run.crops, run.note]
      key = json.dumps(fields, sort_keys=True)
    of_key = groups.setdefault(key, {})
    if seed in of_key:
      problem = f'the experiment and seed of {of_key[seed].name} again'
      run = dataclasses.replace(run, problems=(*run.problems, problem))
      of_key[seed, i] = run
    else:
      of_key[seed] = run
  return [
    Experiment(
      next(iter(members.values())).name.rsplit('/', 1)[0],
      tuple(
        sorted(members.values(), key=lambda run: (run.seed or 0, run.name))
      ),
    )
    for members in groups.values()
  ]


def compared(config: dict[str, Any]) -> dict[str, Any]:
  """The fields of a config that make an experiment another."""
  return {
    field: value
    for field, value in config.items()
    if not field.startswith(_NOT_COMPARED)
  }


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
  """Mean and standard deviation (n - 1); None of one value alone."""
  spread = statistics.stdev(values) if len(values) > 1 else None
  return statistics.fmean(values), spread


def curve(
  lines: Sequence[dict[str, float]], field: str, most: int = 400
) -> Iterator[tuple[float, float]]:
  """Epochs and a field; of a long log, means of as many parts as `most`."""
  have = [line for line in lines if field in line]
  size = -(-len(have) // most) if have else 1
  for i in range(0, len(have), size):
    part = have[i : i + size]
    yield (
      statistics.fmean(line['epoch'] for line in part),
      statistics.fmean(line[field] for line in part),
    )


def drops(run: Run) -> list[tuple[float, float]]:
  """Epochs at which the logged learning rate fell, and what it fell to."""
  found = []
  for before, after in zip(run.train, run.train[1:], strict=False):
    old, new = before.get('learning_rate'), after.get('learning_rate')
    if old and new and new < old * 0.999:
      found.append((before['epoch'], new))
  return found


def epochs_to(train: reading.Lines, error: float) -> float | None:
  """Epochs until the logged training error was at most `error`.

  A line over few steps, as the last may be, says too little to count.

  Args:
    train: training lines of metrics.jsonl.
    error: a fraction.
  """
  before = 0.0
  for line in train:
    steps, before = line['step'] - before, line['step']
    if line['top1_error'] <= error and 2 * steps >= train[0]['step']:
      return line['epoch'] or None
  return None
