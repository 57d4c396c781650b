"""A RUN's three files, with whatever is wrong with them in words.

Nothing here raises for what a file holds.
"""

import json
import pathlib
from typing import Any

from alexnet_jax.config.loading import flatten

# Beyond it nothing that is counted or measured here can lie.
_LARGEST = 1e12
# Fields that came later, and what runs from before did.
_EARLIER = {'model.ablations': [], 'eval.train_split': False}
# What the fields that are shown or compared must be.
_NAMES = ('data.name', 'data.lighting', 'data.val_split', 'model.name')
_NUMBERS = {
  'batch_size': 1,
  'model.num_classes': 1,
  'optimizer.learning_rate': 0,
  'seed': 0,
}
_NUMBERS_OR_NULL = {
  'model.dropout_rate': 0,
  'num_epochs': 0,
  'num_train_steps': 0,
}
_LISTS = ('members', 'model.ablations')
# Least and greatest of what results.json must have.
_SCORES = {
  'top1_error': (0, 1),
  'top5_error': (0, 1),
  'loss': (0, _LARGEST),
  'num_examples': (1, _LARGEST),
  'crops': (1, 10),
}
# And a line of metrics.jsonl, which the page draws.
_LINE = {
  'step': (0, _LARGEST),
  'epoch': (0, _LARGEST),
  'loss': (-_LARGEST, _LARGEST),
  'top1_error': (0, 1),
}

Lines = list[dict[str, float]]


def is_number(
  value: Any, least: float = -_LARGEST, greatest: float = _LARGEST
) -> bool:
  """Whether it is one, of an amount that can be."""
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and least <= value <= greatest
  )


def text(value: Any) -> str:
  """As text that can be written in UTF-8, whatever it was."""
  return str(value).encode('utf-8', 'replace').decode()


def read_config(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
  """config.json by dotted field; empty where it is not one."""
  content = _read_object(path, problems)
  if not content:
    return {}
  config = {**_EARLIER, **flatten(content)}
  if wrong := _wrong_field(config):
    problems.append(f'config.json: {wrong}')
    return {}
  return config


def read_results(
  path: pathlib.Path, config: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
  """results.json; what does not fit the config is told."""
  results = _read_object(path, problems)
  if not results:
    return {}
  for name, bounds in _SCORES.items():
    if not is_number(results.get(name), *bounds):
      problems.append(f'results.json: {name} is {results.get(name)!r}')
  if config:
    expected = {'split': config['data.val_split']}
    if 'members' not in config:
      expected |= {'architecture': config['model.name'], 'seed': config['seed']}
    for name, value in expected.items():
      if results.get(name, value) != value:
        problems.append(
          f'results.json: {name} is {results[name]!r}, {value!r} in config.json'
        )
    data = config['data.name'].split(':')[0]
    if not f'{results.get("dataset", data)}/'.startswith(f'{data}/'):
      problems.append(
        f'results.json: dataset is {results["dataset"]!r}, {data!r} in '
        'config.json'
      )
  return results


def read_metrics(
  path: pathlib.Path, problems: list[str]
) -> tuple[Lines, Lines]:
  """Training and validation lines of metrics.jsonl, by their steps."""
  lines: dict[str, Lines] = {'train': [], 'validation': []}
  content = _read_text(path, problems)
  if content is None:
    return [], []
  damaged, diverged = 0, []
  for one in content.splitlines():
    try:
      line = json.loads(one)
      split, step = lines[line['split']], line['step']
    except (ValueError, KeyError, TypeError, RecursionError):
      damaged += 1
      continue
    if line.get('loss') != line.get('loss') and is_number(step):
      diverged.append(step)
      continue
    if not all(is_number(line.get(k), *b) for k, b in _LINE.items()):
      damaged += 1
      continue
    numbers = {k: v for k, v in line.items() if is_number(v)}
    if numbers.get('images_per_second', 1) < 1e-6:
      del numbers['images_per_second']
    split.append(numbers)
  if diverged:
    problems.append(f'diverged: the loss is NaN from step {min(diverged):,} on')
  if damaged:
    number = len(content.splitlines())
    problems.append(f'{path.name}: {damaged} of {number} lines are damaged')
  if not lines['train']:
    problems.append(f'{path.name} has no training lines')
  for of_split in lines.values():
    of_split.sort(key=lambda line: line['step'])
  return lines['train'], lines['validation']


def unfinished(config: dict[str, Any], train: Lines) -> str | None:
  """'unfinished: ...', where the log ends before the training does."""
  if not config or not train:
    return None
  last, steps, epochs = (
    train[-1],
    config.get('num_train_steps'),
    config.get('num_epochs'),
  )
  if steps:
    if last['step'] < steps:
      return f'unfinished: step {last["step"]:,} of {steps:,}'
  elif epochs and last['epoch'] < epochs - 1e-3:
    return f'unfinished: epoch {last["epoch"]:.1f} of {epochs}'
  return None


def _wrong_field(config: dict[str, Any]) -> str:
  """What is said of the first field that is not as it must be."""
  for field in (*_NAMES, *_NUMBERS):
    if field not in config:
      return f'no {field}'
  if not (config.get('num_epochs') or config.get('num_train_steps')):
    return 'no num_epochs'
  for field, value in config.items():
    if field in _NAMES:
      fits = isinstance(value, str)
    elif field in _NUMBERS:
      fits = is_number(value, _NUMBERS[field])
    elif field in _NUMBERS_OR_NULL:
      fits = value is None or is_number(value, _NUMBERS_OR_NULL[field])
    elif field in _LISTS:
      fits = isinstance(value, list) and all(isinstance(v, str) for v in value)
    else:
      continue
    if not fits:
      return f'{field} is {value!r}'
  return ''


def _read_text(path: pathlib.Path, problems: list[str]) -> str | None:
  """A file's text; None, and a problem, where there is none."""
  try:
    if path.exists() and not path.is_file():
      raise OSError('it is no file')
    return path.read_text(encoding='utf-8')
  except FileNotFoundError:
    problems.append(f'no {path.name}')
  except (OSError, ValueError) as error:
    problems.append(f'{path.name} cannot be read: {error}')
  return None


def _read_object(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
  content = _read_text(path, problems)
  if content is None:
    return {}
  try:
    found = _plain(json.loads(content))
    if not isinstance(found, dict):
      raise ValueError('not an object')
    json.dumps(flatten(found))
    if not found:
      raise ValueError('nothing is in it')
  except (ValueError, RecursionError) as error:
    problems.append(f'{path.name} cannot be read: {error}')
    return {}
  return found


def _plain(value: Any) -> Any:
  """The same with text that can be written, and no monstrous number."""
  if isinstance(value, dict):
    return {text(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_plain(v) for v in value]
  if isinstance(value, str):
    return text(value)
  if isinstance(value, int | float) and not isinstance(value, bool):
    return value if is_number(value) else str(float('nan') if value != value
      else 'too large')  # fmt: skip
  return value
