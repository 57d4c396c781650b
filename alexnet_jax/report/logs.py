"""Reads metrics.jsonl, a run's log, and finds things in it."""

import itertools
import json
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_jax.report.reading import LARGEST, is_number, read_text

# What every line must have (the page draws it), with its bounds.
_LINE = {
  'step': (0, LARGEST),
  'epoch': (0, LARGEST),
  'loss': (-LARGEST, LARGEST),
  'top1_error': (0, 1),
}

Lines = list[dict[str, float]]


def read_log(path: pathlib.Path, problems: list[str]) -> tuple[Lines, Lines]:
  """Returns the training and validation lines, each sorted by step."""
  lines: dict[str, Lines] = {'train': [], 'validation': []}
  content = read_text(path, problems)
  if content is None:
    return [], []
  invalid, diverged = 0, []
  for one in content.splitlines():
    try:
      line = json.loads(one)
      split, step = lines[line['split']], line['step']
    except (ValueError, KeyError, TypeError, RecursionError):
      invalid += 1
      continue
    if line.get('loss') != line.get('loss') and is_number(step):
      diverged.append(step)
      continue
    if not all(is_number(line.get(k), *b) for k, b in _LINE.items()):
      invalid += 1
      continue
    numbers = {k: v for k, v in line.items() if is_number(v)}
    if numbers.get('images_per_second', 1) < 1e-6:
      del numbers['images_per_second']
    split.append(numbers)
  if diverged:
    problems.append(f'diverged: the loss is NaN from step {min(diverged):,} on')
  if invalid:
    number = len(content.splitlines())
    problems.append(f'{path.name}: {invalid} of {number} lines are invalid')
  if not lines['train']:
    problems.append(f'{path.name} has no training lines')
  for of_split in lines.values():
    of_split.sort(key=lambda line: line['step'])
  return lines['train'], lines['validation']


def unfinished(config: dict[str, Any], train: Lines) -> str | None:
  """Returns 'unfinished: ...' if the log ends before the training would."""
  if not config or not train:
    return None
  last, steps = train[-1], config.get('num_train_steps')
  epochs = config.get('num_epochs')
  if steps:
    if last['step'] < steps:
      return f'unfinished: step {last["step"]:,} of {steps:,}'
  elif epochs and last['epoch'] < epochs - 1e-3:
    return f'unfinished: epoch {last["epoch"]:.1f} of {epochs}'
  return None


def curve(
  lines: Sequence[dict[str, float]], field: str, most: int = 400
) -> Iterator[tuple[float, float]]:
  """Yields (epoch, value) points; means, if a log has more than `most`.

  Example:
    >>> list(curve([{'epoch': 1.0, 'loss': 2.0}, {'epoch': 2.0}], 'loss'))
    [(1.0, 2.0)]
  """
  have = [line for line in lines if field in line]
  size = -(-len(have) // most) if have else 1
  for i in range(0, len(have), size):
    part = have[i : i + size]
    yield (
      statistics.fmean(line['epoch'] for line in part),
      statistics.fmean(line[field] for line in part),
    )


def drops(train: Lines) -> list[tuple[float, float]]:
  """Returns (epoch, new learning rate) wherever the learning rate fell."""
  found = []
  for before, after in itertools.pairwise(train):
    old, new = before.get('learning_rate'), after.get('learning_rate')
    if old and new and new < old * 0.999:
      found.append((before['epoch'], new))
  return found


def epochs_to(train: Lines, error: float) -> float | None:
  """Returns the epochs until the logged training error was at most `error`.

  Ignores lines over fewer than half of the usual steps, as the last one may be:
  their error is too noisy.

  Example:
    >>> log = [{'step': 10, 'epoch': 1.0, 'top1_error': 0.5},
    ...        {'step': 20, 'epoch': 2.0, 'top1_error': 0.2}]
    >>> epochs_to(log, 0.25)
    2.0

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
