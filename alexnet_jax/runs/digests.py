"""Detects corrupt checkpoints by the SHA-256 of each of their files.

Orbax restores an array with changed bits and reports nothing. So each
checkpoint holds a `digests.json`:

- the size and SHA-256 of the files that hold the state, and of the run's
  preprocessing.json;
- the scores of its evaluation, once there are some;
- a SHA-256 of itself.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from alexnet_jax.cli.files import sync_all, write_text

FILE = 'digests.json'


class _CorruptError(Exception):
  """A `digests.json` is missing, unreadable or has changed."""


def seal(folder: epath.Path, preprocessing: epath.Path) -> None:
  """Writes the `digests.json` of a checkpoint whose state is written.

  Args:
    folder: the folder of the checkpoint. Orbax may have yet to commit it: the
      files outside of its folders, such as `_CHECKPOINT_METADATA`, tell of the
      save alone, and get no digest.
    preprocessing: path of the run's preprocessing.json, which may not exist.
  """
  files = {name: _digest(path) for name, path in _files(folder) if '/' in name}
  sync_all(folder)  # Before it gets its name.
  other = _digest(preprocessing) if preprocessing.exists() else None
  _write(folder, {'files': files, 'preprocessing': other, 'scores': None})


def faults(folder: epath.Path) -> list[str]:
  """Returns what is wrong with a checkpoint's files; [] if it is intact.

  Example:
    >>> faults(epath.Path('/tmp/no_such_checkpoint'))
    ['digests.json is missing']
  """
  try:
    expected = _read(folder)['files']
  except _CorruptError as error:
    return [f'{FILE} {error}']
  found = []
  # A digests.json from an untrusted source names files. They are compared with
  # those of the folder, never opened.
  present = dict(_files(folder))
  for name in sorted(expected.keys() | present.keys()):
    if name not in present:
      found.append(f'{name} is missing')
    elif name in expected:
      try:
        size, digest = _digest(present[name])
      except OSError as error:
        found.append(f'{name} cannot be read ({error})')
        continue
      if size != expected[name][0]:
        found.append(f'{name} has {size} bytes, not {expected[name][0]}')
      elif digest != expected[name][1]:
        found.append(f'{name} has changed since it was saved (SHA-256)')
  return found


def belongs(folder: epath.Path, preprocessing: epath.Path) -> bool:
  """Whether preprocessing.json is unchanged since a checkpoint was saved.

  A file that is missing now, or was missing then, counts as unchanged.
  """
  expected = _read(folder)['preprocessing']
  if expected is None or not preprocessing.exists():
    return True
  return _digest(preprocessing) == expected


def scores(folder: epath.Path) -> dict[str, Any] | None:
  """Returns the scores of a checkpoint; None if it was not evaluated."""
  try:
    return _read(folder)['scores']
  except _CorruptError:
    return None


def record_scores(folder: epath.Path, values: dict[str, Any]) -> None:
  """Adds the scores of an evaluation to a checkpoint's `digests.json`."""
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
    # The source may be untrusted: check the types of what `seal` writes.
    for size, name in content['files'].values():
      size + 0, name + ''
    scored, _ = content['scores'], content['preprocessing']
    if scored is not None:
      for name in ('num_examples', 'loss', 'top1_error'):
        scored[name] + 0
      if scored['top5_error'] is not None:  # None: five classes or fewer.
        scored['top5_error'] + 0
  except FileNotFoundError as error:
    raise _CorruptError('is missing') from error
  except (OSError, ValueError, KeyError, TypeError, AttributeError,
          RecursionError) as error:  # fmt: skip
    raise _CorruptError(f'cannot be read ({type(error).__name__})') from error
  if not intact:
    raise _CorruptError('has changed since it was saved (SHA-256)')
  return content


def _text(content: dict[str, Any]) -> str:
  return json.dumps(content, indent=1) + '\n'


def _digest_of(content: dict[str, Any]) -> str:
  canonical = json.dumps(content, sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()


def _digest(path: epath.Path) -> list[Any]:
  """Returns the size and SHA-256 of a file."""
  size, digest = 0, hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(1 << 24):
      size += len(block)
      digest.update(block)
  return [size, digest.hexdigest()]


def _files(folder: epath.Path, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the relative name and the path of each file except `FILE`."""
  for path in folder.iterdir():
    name = prefix + path.name
    if path.is_dir():
      yield from _files(path, name + '/')
    elif name not in (FILE, f'.{FILE}.tmp'):
      yield name, path
