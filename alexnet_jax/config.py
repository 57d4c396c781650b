"""Configs: loaded, and compared with the one that a workdir was made by."""

import difflib
import importlib.util
import json
import os
import runpy
import sys
from typing import Any, TypeAlias

import ml_collections
from absl import flags
from etils import epath

from alexnet_jax.errors import StorageError, UserError

Config: TypeAlias = ml_collections.ConfigDict

# A run may go on with these changed: its result does not depend on them.
_FREE_FIELDS = (
  'checkpoint.every_steps',
  'checkpoint.keep',
  'compilation_cache',
  'data.cache_dir',
  'data.data_dir',
  'data.finish',
  'data.max_error_rate',
  'eval.batch_size',
  'eval.step',
  'eval.train_split',
  'guards.min_epoch_steps',
  'guards.not_finite',
  'guards.stall',
  'guards.stall_margin',
  'guards.stall_steps',
  'guards.zero_learning_rate',
  'log_every_steps',
  # These may grow; `check_workdir` sees to that.
  'num_epochs',
  'num_train_steps',
  'profile',
)


def absolute(directory: str) -> epath.Path:
  """A folder, local or `gs://`, with its whole path, as Orbax wants it.

  Raises:
    UserError: a bucket, and what Orbax reads buckets by is not installed.
  """
  if '://' in directory:
    try:
      found = importlib.util.find_spec('google.cloud.storage')
    except ModuleNotFoundError:
      found = None
    if directory.startswith('gs://') and not found:
      raise UserError(
        f'{directory} needs google-cloud-storage: make venv EXTRAS=tpu (or '
        'cuda), or pip install google-cloud-storage'
      )
    return epath.Path(directory)
  return epath.Path(os.path.abspath(os.path.expanduser(directory)))


def parse_flags(argv: list[str]) -> list[str]:
  """`absl.flags.FLAGS(argv)` whose every complaint is one UserError.

  absl and ml_collections as they come end with status 1, mostly with a
  traceback, and name an unknown field by its last word alone.
  """
  try:
    _check_overrides(argv)
    rest = flags.FLAGS(argv)
  except UserError:
    raise
  except Exception as error:
    raise UserError(_one_line(error)) from error
  if rest[1:]:
    raise UserError(
      f'unexpected argument {rest[1]!r}: fields are set by --config.FIELD=VALUE'
    )
  return rest


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split())


def _check_overrides(argv: list[str]) -> None:
  """Does the config file load, and does it have the fields that are set?"""
  path = _flag_value(argv, '--config')
  if path is None:
    return
  config = _load(path)
  for argument in argv[1:]:
    name = argument.lstrip('-').split('=')[0]
    if not name.startswith('config.'):
      continue
    field = name.removeprefix('config.')
    known = flatten(config)
    if field not in known:
      close = difflib.get_close_matches(field, known, cutoff=0.5)
      same_leaf = [k for k in known if k.split('.')[-1] == field.split('.')[-1]]
      hints = (same_leaf or close)[:3]
      hint = f'; did you mean {" or ".join(hints)}?' if hints else ''
      raise UserError(f'unknown config field {field!r} (--{name}){hint}')


def _flag_value(argv: list[str], flag: str) -> str | None:
  value = None  # The last counts, as for absl.
  for i, argument in enumerate(argv):
    if argument.startswith(flag + '='):
      value = argument.split('=', 1)[1]
    elif argument == flag and i + 1 < len(argv):
      value = argv[i + 1]
  return value


def _load(path: str) -> Config:
  # FILE.py:ARGUMENT, as ml_collections has it.
  path, *argument = path.split(':', 1)
  if not os.path.isfile(path):
    folder = os.path.dirname(path) or '.'
    there = sorted(
      os.path.join(folder, name)
      for name in (os.listdir(folder) if os.path.isdir(folder) else [])
      if name.endswith('.py')
    )
    hint = f' (there are {", ".join(there)})' if there else ''
    raise UserError(f'no config file {path!r} (--config){hint}')
  # Configs import `configs.default`: the parent of their folder, or of the one
  # above it (configs/paper), must be found.
  folder = os.path.dirname(os.path.abspath(path))
  for root in (
    os.path.dirname(folder),
    os.path.dirname(os.path.dirname(folder)),
  ):
    if root not in sys.path:
      sys.path.append(root)
  try:
    config = runpy.run_path(path)['get_config'](*argument)
  except KeyError as error:
    raise UserError(
      f'{path} (--config): no function get_config, or no field {error}'
    ) from error
  except Exception as error:
    raise UserError(
      f'{path} (--config): {type(error).__name__}: {_one_line(error)}'
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f'{path} (--config): get_config returns a {type(config).__name__}, not a '
      'ConfigDict; see configs/default.py'
    )
  return config


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
  """Fields by dotted name: `{'optimizer.momentum': 0.9, ...}`."""
  fields = {}
  for name, value in config.items():
    if isinstance(value, dict | Config):
      fields.update(flatten(value, f'{prefix}{name}.'))
    else:
      fields[prefix + name] = value
  return fields


def num_train_steps(config: Any, steps_per_epoch: int) -> int:
  """`num_train_steps`, or as many as `num_epochs` has."""
  return config['num_train_steps'] or config['num_epochs'] * steps_per_epoch


def check_workdir(
  config: Config, workdir: epath.Path, steps_per_epoch: int
) -> None:
  """May training start or go on in this folder? Changes nothing.

  Raises:
    UserError: it holds a run whose result would be another's, with the diff.
  """
  saved = read_config(workdir)
  if saved is not None and 'converted_from' in saved:
    raise UserError(
      f'{workdir} holds converted weights: give another --workdir, and '
      f'--config.init_from={workdir} to start from them'
    )
  if saved is None:
    if (workdir / 'checkpoints').exists():
      raise UserError(
        f'{workdir} has checkpoints but no config.json: not a run of this '
        'program; give another --workdir'
      )
    return
  differences = _differences(flatten(_plain(config)), flatten(saved))
  if differences:
    raise UserError(
      f'{workdir} holds a run with another config: {"; ".join(differences)} '
      '(there -> here). Give another --workdir, or the same config'
    )
  try:
    before = int(num_train_steps(saved, steps_per_epoch))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'{workdir / "config.json"} is damaged: no num_epochs or num_train_steps'
    ) from error
  now = num_train_steps(config, steps_per_epoch)
  if now != before and config.optimizer.schedule == 'discrete_exponential':
    raise UserError(
      f'{workdir} holds a run of {before} steps, not {now}: under '
      "optimizer.schedule 'discrete_exponential' the rate depends on the "
      'length (num_train_steps, num_epochs)'
    )
  if now < before:
    raise UserError(
      f'{workdir} holds a run of {before} steps: num_train_steps (or '
      f'num_epochs) may grow but not shrink to {now}'
    )


def check_eval(config: Config, workdir: epath.Path) -> None:
  """Does a workdir hold the network that the config names?"""
  saved = read_config(workdir)
  if saved is None:
    return
  there = flatten(saved)
  differences = [
    difference
    for difference in _differences(flatten(_plain(config)), there)
    if difference.startswith('model.')
    # Converted weights know the network and no more; older runs, less.
    and difference.split()[0] in there
  ]
  if differences:
    raise UserError(
      f'{workdir} holds another network: {"; ".join(differences)} (there -> '
      'here). Give the same model fields, or another --workdir'
    )


def _differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
  missing = '(absent)'
  return [
    f'{name} {there.get(name, missing)!r} -> {here.get(name, missing)!r}'
    for name in sorted(here.keys() | there.keys())
    if name not in _FREE_FIELDS
    and here.get(name, missing) != there.get(name, missing)
  ]


def _plain(config: Config) -> dict[str, Any]:
  """As JSON has it: no tuples."""
  return json.loads(json.dumps(config.to_dict()))


def read_config(workdir: epath.Path) -> dict[str, Any] | None:
  """The `config.json` of a workdir; None where there is none."""
  path = workdir / 'config.json'
  if not path.exists():
    return None
  try:
    config = json.loads(path.read_text())
    if not isinstance(config, dict):
      raise ValueError('not an object')
  except (ValueError, OSError, RecursionError) as error:
    raise UserError(f'{path} is not a config: {_one_line(error)}') from error
  return config


def write_config(config: Config, workdir: epath.Path) -> None:
  """Writes the `config.json` of a workdir, if it is not there already."""
  if read_config(workdir) != _plain(config):
    write_whole(workdir / 'config.json', json.dumps(_plain(config), indent=2))


def write_whole(path: epath.Path, text: str) -> None:
  """Writes a file that is either as before or whole, never half."""
  aside = path.parent / f'.{path.name}.tmp'
  try:
    aside.write_text(text)
    aside.replace(path)
  except OSError as error:
    raise StorageError(f'cannot write {path}: {error}') from error
