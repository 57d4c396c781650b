"""Runs as they are found on disk, finished or not, and which belong together.

A RUN is a workdir, or what is left of one without its checkpoints: config.json,
results.json, metrics.jsonl, and figures if there are any. Nothing here raises
for what a file holds: what is wrong is told in `Run.problems`.
"""

import collections
import dataclasses
import functools
import json
import math
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_jax.config import flatten
from alexnet_jax.errors import UserError

FILES = ('config.json', 'results.json', 'metrics.jsonl')

# Fields that came later, and what runs from before did.
_EARLIER = {'model.ablations': [], 'eval.train_split': False}
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
  'eval.every_epochs',
  'eval.step',
  'eval.train_split',
  'guards.',
  'log_every_steps',
  'profile',
  'members',
)
# What the fields that are shown here must be, where they are there.
_NAMES = ('data.name', 'data.lighting', 'model.name')
_NUMBERS = (
  'batch_size',
  'model.num_classes',
  'num_epochs',
  'optimizer.learning_rate',
  'seed',
)
_NUMBERS_OR_NULL = ('model.dropout_rate', 'num_train_steps')
_LISTS = ('members', 'model.ablations')
_SCORES = ('top1_error', 'top5_error', 'loss', 'num_examples', 'crops')


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

  @functools.cached_property
  def images_per_second(self) -> float | None:
    """The median over its log; None where there is none."""
    speeds = [line.get('images_per_second', 0.0) for line in self.train]
    return statistics.median(speeds) if speeds else None

  @functools.cached_property
  def training_seconds(self) -> float | None:
    """Time in training steps, without evaluations and pauses."""
    seconds, step = 0.0, 0.0
    for line in self.train:
      speed = line.get('images_per_second', 0.0)
      if speed > 0:
        images = (line['step'] - step) * self.config.get('batch_size', 0)
        seconds += images / speed
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

  Raises:
    UserError: a name is of no folder.
  """
  found = []
  for name in names:
    path = pathlib.Path(name)
    if not path.is_dir():
      raise UserError(
        f'no folder {name!r} (RUN): a workdir, or a folder of such, needed'
      )
    below = sorted({file.parent for f in FILES for file in path.rglob(f)})
    # A workdir's own folders (checkpoints) hold no runs.
    found += [path] if path in below or not below else below
  return list(dict.fromkeys(found))


def read(path: pathlib.Path) -> Run:
  """A folder as a run, with whatever is wrong with it."""
  problems: list[str] = []
  config = _read_json(path / 'config.json', problems)
  results = _read_json(path / 'results.json', problems)
  lines: dict[str, list] = {'train': [], 'validation': []}
  if 'members' not in config:  # Of an ensemble nothing was trained.
    lines = _read_metrics(path / 'metrics.jsonl', problems)
  config = {**_EARLIER, **flatten(config)} if config else {}
  if wrong := _wrong_fields(config):
    problems.append(f'config.json: {wrong}')
    config = {}
  missing = [k for k in _SCORES if results and not _is_number(results.get(k))]
  if missing:
    problems.append(f'results.json has no number for {", ".join(missing)}')
    results = {}
  unfinished = _unfinished(config, lines)
  if unfinished:
    problems.append(unfinished)
  parent = path.resolve().parent.name
  name = path.resolve().name
  return Run(
    path,
    f'{parent}/{name}' if name.isdecimal() else name,
    config,
    results,
    lines['train'],
    lines['validation'],
    tuple(problems),
  )


def read_all(paths: Sequence[pathlib.Path]) -> list[Run]:
  """Each as a run, with those told apart that have other classes."""
  runs = [read(path) for path in paths]
  classes: dict[Any, collections.Counter] = {}
  for run in runs:
    key = run.config.get('data.name')
    number = run.config.get('model.num_classes')
    if run.config:
      classes.setdefault(key, collections.Counter())[number] += 1
  checked = []
  for run in runs:
    number = run.config.get('model.num_classes')
    usual = classes.get(run.config.get('data.name'))
    if run.config and usual and number != usual.most_common(1)[0][0]:
      problem = (
        f'{number} classes, where other runs on {run.config.get("data.name")} '
        f'have {usual.most_common(1)[0][0]}: not compared with them'
      )
      run = dataclasses.replace(run, problems=(*run.problems, problem))
    checked.append(run)
  return checked


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
    return self.runs[0].results.get('crops', self.config.get('eval.crops'))

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
    """What note.txt in the experiment's folder says: of the pictures, say."""
    for folder in (self.runs[0].path, self.runs[0].path.parent):
      path = folder / 'note.txt'
      if path.is_file():
        return path.read_text(errors='replace').strip()
    return ''

  @property
  def compared(self) -> dict[str, Any]:
    """The fields of its config that tell it from others."""
    return compared(self.config)

  def values(self, field: str) -> list[float]:
    """A field of results.json, of each scored run that has it."""
    return [
      run.results[field]
      for run in self.scored
      if _is_number(run.results.get(field))
    ]


def group(runs: Sequence[Run]) -> list[Experiment]:
  """Runs as experiments, in the order in which they were given."""
  groups: dict[str, list[Run]] = {}
  for run in runs:
    key: Any = str(run.path)
    # Ensembles and what has no config stand alone.
    if run.config and 'members' not in run.config:
      crops = run.results.get('crops', run.config.get('eval.crops'))
      classes = run.config.get('model.num_classes')
      key = json.dumps(
        [compared(run.config), crops, classes], sort_keys=True, default=str
      )
    groups.setdefault(key, []).append(run)
  return [
    Experiment(
      members[0].name.rsplit('/', 1)[0],
      tuple(sorted(members, key=lambda run: (run.seed or 0, run.name))),
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


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _read_json(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
      raise ValueError('not an object')
    flatten(content)
  except FileNotFoundError:
    problems.append(f'no {path.name}')
  except (OSError, ValueError, RecursionError) as error:
    problems.append(f'{path.name} cannot be read: {error}')
  else:
    return content
  return {}


def _wrong_fields(config: dict[str, Any]) -> str:
  """'FIELD is VALUE', of the first that cannot be so."""
  for field, value in config.items():
    if (
      (field in _NAMES and not isinstance(value, str))
      or (field in _NUMBERS and not _is_number(value))
      or (
        field in _NUMBERS_OR_NULL and not (value is None or _is_number(value))
      )
      or (
        field in _LISTS
        and not (
          isinstance(value, list) and all(isinstance(v, str) for v in value)
        )
      )
    ):
      return f'{field} is {value!r}'
  return ''


def _read_metrics(
  path: pathlib.Path, problems: list[str]
) -> dict[str, list[dict[str, float]]]:
  lines: dict[str, list] = {'train': [], 'validation': []}
  try:
    texts = path.read_text().splitlines()
  except FileNotFoundError:
    problems.append(f'no {path.name}')
    return lines
  except (OSError, ValueError) as error:
    problems.append(f'{path.name} cannot be read: {error}')
    return lines
  damaged = 0
  for text in texts:
    try:
      line = json.loads(text)
      split = line['split']
      numbers = {k: v for k, v in line.items() if _is_number(v)}
      # What the page draws must be there.
      [numbers[k] for k in ('step', 'epoch', 'loss', 'top1_error')]
      lines[split].append(numbers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
      damaged += 1
  if damaged:
    problems.append(f'{path.name}: {damaged} of {len(texts)} lines are damaged')
  if not texts:
    problems.append(f'{path.name} is empty')
  for of_split in lines.values():
    of_split.sort(key=lambda line: line['step'])
  return lines


def _unfinished(config: dict[str, Any], lines: dict[str, list]) -> str | None:
  """'unfinished: ...', where the log ends before the training does."""
  if not config or not lines['train']:
    return None
  last = lines['train'][-1]
  steps: Any = config.get('num_train_steps')
  epochs: Any = config.get('num_epochs')
  if _is_number(steps):
    if last['step'] < steps:
      return f'unfinished: step {last["step"]:,} of {steps:,}'
  elif _is_number(epochs) and last['epoch'] < epochs - 1e-3:
    return f'unfinished: epoch {last["epoch"]:.1f} of {epochs}'
  return None


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


def epochs_to(run: Run, error: float) -> float | None:
  """Epochs until the logged training error was at most `error`."""
  for line in run.train:
    if line['top1_error'] <= error:
      return line['epoch']
  return None
