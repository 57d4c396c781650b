"""Loads config files and parses `--config.FIELD=VALUE` flags."""

import difflib
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import ml_collections
from absl import flags

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.terminal import one_line

Config: TypeAlias = ml_collections.ConfigDict

# The folder that holds the package's own copy of configs/.
PACKAGED = pathlib.Path(__file__).parent.parent / '_packaged'

# Names of fields in other programs. A field is also found by its last word,
# such as `momentum`.
_SYNONYMS = {
  'arch': 'model.name',
  'architecture': 'model.name',
  'batch': 'batch_size',
  'bf16': 'model.dtype',
  'bs': 'batch_size',
  'classes': 'model.num_classes',
  'dataset': 'data.name',
  'dropout': 'model.dropout_rate',
  'epochs': 'num_epochs',
  'eval_every': 'eval.every_epochs',
  'finetune': 'init_from',
  'image_size': 'data.crop_size',
  'iterations': 'num_train_steps',
  'log_every': 'log_every_steps',
  'lr': 'optimizer.learning_rate',
  'lr_schedule': 'optimizer.schedule',
  'max_steps': 'num_train_steps',
  'network': 'model.name',
  'patience': 'optimizer.plateau_patience',
  'precision': 'model.dtype',
  'pretrained': 'init_from',
  'random_seed': 'seed',
  'save_every': 'checkpoint.every_steps',
  'scheduler': 'optimizer.schedule',
  'steps': 'num_train_steps',
  'train_batch_size': 'batch_size',
  'train_steps': 'num_train_steps',
  'warmup': 'optimizer.warmup_epochs',
  'wd': 'optimizer.weight_decay',
}


def parse_flags(argv: list[str]) -> list[str]:
  """Parses absl's flags and the config's, as `absl.flags.FLAGS(argv)` does.

  A config file that does not exist is looked for among the package's own. (By
  themselves absl and ml_collections end with status 1 and mostly a traceback.)

  Raises:
    UserError: a flag, the config file, a field or a value is invalid.
    StorageError: the config is a workdir's, which cannot be read.
  """
  argv = with_packaged(argv)
  path = flag_value(argv, 'config')
  known = flatten(load(path)) if path is not None else None
  for name, _ in _flags(argv):
    _check_name(name, known)
  try:
    rest = flags.FLAGS(argv)
  except Exception as error:
    raise UserError(one_line(error)) from error
  if rest[1:]:
    raise UserError(
      f'unexpected argument {rest[1]!r}: fields are set by --config.FIELD=VALUE'
    )
  return rest


def flag_value(argv: list[str], flag: str) -> str | None:
  """Returns the value of a flag, the last one if it is given twice."""
  return dict(_flags(argv)).get(flag)


def _flags(argv: list[str]) -> Iterator[tuple[str, str]]:
  """Yields the names and values of `--NAME=VALUE` and `--NAME VALUE`."""
  words = argv[1:]
  while words and words[0] != '--':
    word = words.pop(0)
    if not re.match('--?[a-zA-Z]', word):
      continue
    name, equals, value = word.lstrip('-').partition('=')
    if not equals and words and not re.match('--?[a-zA-Z]', words[0]):
      # A boolean flag takes no value, and what follows it is an error.
      value = words.pop(0)
    yield name, value


def with_packaged(argv: list[str]) -> list[str]:
  """Replaces a --config that does not exist by the package's own file."""
  value = flag_value(argv, 'config') or ''
  path = value.split(':')[0]
  if os.path.exists(path) or not os.path.isfile(PACKAGED / path):
    return argv
  config = re.compile(rf'(?<=config=){re.escape(value)}$|^{re.escape(value)}$')
  return [config.sub(str(PACKAGED / value), argument) for argument in argv]


def _check_name(name: str, known: dict[str, Any] | None) -> None:
  """Refuses an unknown field or flag, naming those that may be meant."""
  field = name.removeprefix('no').removeprefix('config.')
  if name.startswith(('config.', 'noconfig.')):
    if known is not None and field not in known:
      hint = _hint(field, known) or ' (--help lists all fields)'
      raise UserError(f'unknown config field {field!r} (--{name}){hint}')
  elif name not in flags.FLAGS and name.removeprefix('no') not in flags.FLAGS:
    # `--lr=0.1` for `--config.optimizer.learning_rate=0.1`.
    fields = [f'config.{field}' for field in known or _SYNONYMS.values()]
    hint = _hint(name, [*flags.FLAGS, *fields], '--')
    raise UserError(f'unknown flag --{name}{hint} (--help lists all flags)')


def _hint(name: str, known: Iterable[str], prefix: str = '') -> str:
  """`; did you mean A or B?`, of names whose last words are alike."""
  leaf = name.split('.')[-1].lower().replace('-', '_')
  leaf = _SYNONYMS.get(leaf, leaf).split('.')[-1]
  leaves = {other.split('.')[-1] for other in known}
  close = difflib.get_close_matches(leaf, leaves, n=2, cutoff=0.7)
  alike = [
    prefix + other
    for match in ([leaf] if leaf in leaves else close)
    for other in known
    if other.split('.')[-1] == match
  ] or difflib.get_close_matches(name, known, cutoff=0.6)
  return f'; did you mean {" or ".join(alike[:3])}?' if alike else ''


def load(path: str) -> Config:
  """Returns the config of `FILE.py` or `FILE.py:ARGUMENT`.

  Raises:
    UserError: the file does not exist or fails, or returns no config.
  """
  path, *argument = path.split(':', 1)
  file = pathlib.Path(path)
  if not os.path.isfile(path):
    # Those beside it, if it names a folder, else the package's own.
    folder = os.path.dirname(path)
    folder = folder if os.path.isdir(folder) else 'configs'
    names = {
      found.name
      for root in (folder, PACKAGED / folder)
      if os.path.isdir(root)
      for found in os.scandir(root)
    }
    there = sorted(f'{folder}/{n}' for n in names if n.endswith('.py'))
    raise UserError(
      f'no config file {path!r} (--config): there are {", ".join(there)}'
    )
  # Configs import `configs.default`, and others relative to the parent of their
  # folder, or of the one above it (configs/paper).
  roots = file.absolute().parents[1:3]
  if PACKAGED.parent in roots or PACKAGED.parent in file.parents:
    roots = ()
  for root in (*roots, PACKAGED):
    if str(root) not in sys.path:
      sys.path.append(str(root))
  try:
    config = runpy.run_path(path)['get_config'](*argument)
  except (UserError, StorageError):
    raise
  except KeyError as error:
    raise UserError(
      f'{path} (--config): no function get_config, or no field {error}'
    ) from error
  except Exception as error:
    raise UserError(
      f'{path} (--config): {type(error).__name__}: {one_line(error)}'
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f'{path} (--config): get_config returns a {type(config).__name__}, not a '
      'ConfigDict; see configs/default.py'
    )
  return config


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
  """Returns the fields of a config, or of a config.json, by dotted name.

  Example:
    >>> flatten({'seed': 0, 'optimizer': {'momentum': 0.9}})
    {'seed': 0, 'optimizer.momentum': 0.9}
  """
  fields = {}
  for name, value in config.items():
    if isinstance(value, dict | Config):
      fields.update(flatten(value, f'{prefix}{name}.'))
    else:
      fields[prefix + name] = value
  return fields
