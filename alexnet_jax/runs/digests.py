"""Whether a checkpoint is whole: the SHA-256 of each of its files.

Orbax restores arrays whose bits have changed without a word. So each
checkpoint holds a `digests.json` with the size and SHA-256 of its other files
and of the run's preprocessing.json, the scores of its evaluation once there are
some, and a SHA-256 of itself.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from alexnet_jax.cli.files import write_text

FILE = 'digests.json'

# What Orbax still writes where a checkpoint is committed by a file (gs://).
_WRITTEN_AT_COMMIT = ('_CHECKPOINT_METADATA', 'commit_success.txt')


class _BrokenError(Exception):
  """A `digests.json` that does not say what it said."""


def seal(
  folder: epath.Path, preprocessing: epath.Path, committed: bool = True
) -> None:
  """Writes the digests of a checkpoint's files, the last of them to be written.

  Args:
    folder: of the checkpoint.
    preprocessing: the run's preprocessing.json, if there is one.
    committed: False where Orbax will still write the files that commit it.
  """
  files = {
    name: _digest(path)
    for name, path in _files(folder)
    if committed or name not in _WRITTEN_AT_COMMIT
  }
  beside = _digest(preprocessing) if preprocessing.exists() else None
  _write(folder, {'files': files, 'preprocessing': beside, 'scores': None})


def faults(folder: epath.Path) -> list[str]:
  """What is wrong with a checkpoint's files, by their names; [] if whole."""
  try:
    expected = _read(folder)['files']
  except _BrokenError as error:
    return [f'{FILE} {error}']
  found = []
  # No path is made from what the file says: it may come from anybody.
  there = dict(_files(folder))
  for name in sorted(expected.keys() | there.keys()):
    if name not in there:
      found.append(f'{name} is missing')
    elif name in expected:
      try:
        size, digest = _digest(there[name])
      except OSError as error:
        found.append(f'{name} cannot be read ({error})')
        continue
      if size != expected[name][0]:
        found.append(f'{name} has {size} bytes, not {expected[name][0]}')
      elif digest != expected[name][1]:
        found.append(f'{name} has changed since it was saved (SHA-256)')
  return found


def belongs(folder: epath.Path, preprocessing: epath.Path) -> bool:
  """Whether a preprocessing.json is still the one of a whole checkpoint."""
  expected = _read(folder)['preprocessing']
  if expected is None or not preprocessing.exists():
    return True
  return _digest(preprocessing) == expected


def scores(folder: epath.Path) -> dict[str, Any] | None:
  """The scores of a checkpoint's evaluation; None where nothing tells."""
  try:
    return _read(folder)['scores']
  except _BrokenError:
    return None


def record_scores(folder: epath.Path, values: dict[str, Any]) -> None:
  """Keeps the scores of an evaluation with the checkpoint."""
  _write(folder, {**_read(folder), 'scores': values})


def _write(folder: epath.Path, content: dict[str, Any]) -> None:
  content['sha256'] = _digest_of(content)
  write_text(folder / FILE, _text(content))


def _read(folder: epath.Path) -> dict[str, Any]:
  try:
    text = (folder / FILE).read_text()
    content = json.loads(text)
    intact = text == _text(content)
    intact &= content.pop('sha256') == _digest_of(content)
    # Anybody may have written it: it must have the form that `seal` gives.
    for size, name in content['files'].values():
      size + 0, name + ''
    scored, _ = content['scores'], content['preprocessing']
    if scored is not None:
      for name in ('num_examples', 'loss', 'top1_error', 'top5_error'):
        scored[name] + 0
  except FileNotFoundError as error:
    raise _BrokenError('is missing') from error
  except (OSError, ValueError, KeyError, TypeError, AttributeError,
          RecursionError) as error:  # fmt: skip
    raise _BrokenError(f'cannot be read ({type(error).__name__})') from error
  if not intact:
    raise _BrokenError('has changed since it was saved (SHA-256)')
  return content


def _text(content: dict[str, Any]) -> str:
  return json.dumps(content, indent=1) + '\n'


def _digest_of(content: dict[str, Any]) -> str:
  canonical = json.dumps(content, sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()


def _digest(path: epath.Path) -> list[Any]:
  """Size and SHA-256 of a file."""
  size, digest = 0, hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(1 << 24):
      size += len(block)
      digest.update(block)
  return [size, digest.hexdigest()]


def _files(folder: epath.Path, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Names, relative to a folder, and paths of all its files but `FILE`."""
  for path in folder.iterdir():
    name = prefix + path.name
    if path.is_dir():
      yield from _files(path, name + '/')
    elif name not in (FILE, f'.{FILE}.tmp'):
      yield name, path
