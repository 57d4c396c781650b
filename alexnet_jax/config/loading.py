"""Configs: loaded, and compared with the one that a workdir was made by."""

import difflib
import os
import runpy
import sys
from typing import Any, TypeAlias

import ml_collections
from absl import flags

from alexnet_jax.cli.errors import UserError

Config: TypeAlias = ml_collections.ConfigDict


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
