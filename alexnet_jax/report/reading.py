"""Reads a run's config.json and results.json.

Nothing here raises because of a file's content: what is wrong is appended to a
list of problems, in words.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from alexnet_jax.config.loading import flatten
from alexnet_jax.config.saved import ADDED

# No count or measurement of a run can be larger.
LARGEST = 1e12
# Defaults of fields that runs from earlier versions lack.
_EARLIER = {
  **ADDED,
  'model.ablations': [],
  'data.train_crop': 'random',
  'eval.train_split': False,
}


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
  return value is None or is_number(value, 0)


# The fields that the page shows or compares, and what their values must be.
_REQUIRED: dict[str, Callable[[Any], bool]] = {
  'data.name': _is_text,
  'data.lighting': _is_text,
  'data.val_split': _is_text,
  'model.name': _is_text,
  'batch_size': lambda value: is_number(value, 1),
  'model.num_classes': lambda value: is_number(value, 1),
  'optimizer.learning_rate': lambda value: is_number(value, 0),
  'seed': lambda value: is_number(value, 0),
}
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
  'model.dropout_rate': _is_count,
  'num_epochs': _is_count,
  'num_train_steps': _is_count,
  'members': _is_texts,
  'model.ablations': _is_texts,
}
# Required fields of results.json, with their least and greatest values.
_SCORES = {
  'top1_error': (0, 1),
  'top5_error': (0, 1),
  'loss': (0, LARGEST),
  'num_examples': (1, LARGEST),
  'crops': (1, 10),
}


def is_number(
  value: Any, least: float = -LARGEST, greatest: float = LARGEST
) -> bool:
  """Returns whether a value is a number within bounds.

  Example:
    >>> is_number(0.5, 0, 1), is_number(True), is_number(float('nan'))
    (True, False, False)
  """
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and least <= value <= greatest
  )


def text(value: Any) -> str:
  """Returns a value as text that can be encoded in UTF-8."""
  return str(value).encode('utf-8', 'replace').decode()


def read_config(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
  """Returns config.json by dotted field; empty if it is not valid."""
  content = read_object(path, problems)
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
  """Returns results.json; what contradicts the config is a problem.

  `top5_error` may be null: five classes or fewer have no top-5 error. A run
  that a search stopped has no scores.
  """
  results = read_object(path, problems)
  if not results or stopped(results):
    return results
  for name, bounds in _SCORES.items():
    value = results.get(name, 'missing')
    if value is None and name == 'top5_error':
      continue
    if not is_number(value, *bounds):
      problems.append(f'results.json: {name} is {value!r}')
  if 'num_classes' in results:
    problems.append(
      f'results.json: only {results["num_classes"]} classes could be predicted '
      '(eval.classes)'
    )
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


def stopped(results: dict[str, Any]) -> str:
  """Returns why a search stopped a run, in words; empty if none did.

  Example:
    >>> stopped({'stopped': 'another is faster'}), stopped({'loss': 0.1})
    ('another is faster', '')
  """
  reason = results.get('stopped')
  return reason if isinstance(reason, str) else ''


def _wrong_field(config: dict[str, Any]) -> str:
  """Describes the first field that is missing or has the wrong type."""
  for field in _REQUIRED:
    if field not in config:
      return f'no {field}'
  if not (config.get('num_epochs') or config.get('num_train_steps')):
    return 'no num_epochs'
  for field, fits in (_REQUIRED | _OPTIONAL).items():
    if field in config and not fits(config[field]):
      return f'{field} is {config[field]!r}'
  return ''


def read_text(path: pathlib.Path, problems: list[str]) -> str | None:
  """Returns a file's text; None, and a problem, if it cannot be read."""
  try:
    if path.exists() and not path.is_file():
      raise OSError('not a file')
    return path.read_text(encoding='utf-8')
  except FileNotFoundError:
    problems.append(f'no {path.name}')
  except (OSError, ValueError) as error:
    problems.append(f'{path.name} cannot be read: {error}')
  return None


def read_object(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
  """Returns a JSON file's object; empty, and a problem, if there is none."""
  content = read_text(path, problems)
  if content is None:
    return {}
  try:
    found = _plain(json.loads(content))
    if not isinstance(found, dict):
      raise ValueError('not an object')
    json.dumps(flatten(found))
    if not found:
      raise ValueError('an empty object')
  except (ValueError, RecursionError) as error:
    problems.append(f'{path.name} cannot be read: {error}')
    return {}
  return found


def _plain(value: Any) -> Any:
  """Returns JSON with encodable text, and its huge numbers as text."""
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
