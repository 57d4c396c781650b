"""Configs: loaded, checked, and compared with the one a workdir was made by."""

import difflib
import fnmatch
import importlib.util
import json
import math
import os
import re
import runpy
import sys
from collections.abc import Collection
from typing import Any, TypeAlias

import ml_collections
from absl import flags
from etils import epath

from alexnet_jax.errors import StorageError, UserError
from alexnet_jax.model import ARCHITECTURES

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

_CHOICES: dict[str, Collection[Any]] = {
  # Those that the config file has added, too.
  'model.name': ARCHITECTURES.keys(),
  'model.dtype': ('float32', 'bfloat16'),
  'model.dropout_scaling': ('train', 'test'),
  'data.resize': ('short_side', 'warp'),
  'data.mean_crop': ('center', 'same'),
  'data.lighting': ('sqrt_eigenvalue', 'eigenvalue', 'none'),
  'data.train_crop': ('random', 'random_resized'),
  'data.finish': ('host', 'device'),
  'data.on_error': ('stop', 'skip'),
  'optimizer.schedule': (
    'plateau',
    'step',
    'discrete_exponential',
    'constant',
  ),
  'eval.crops': (1, 10),
  'guards.not_finite': ('stop', 'off'),
  'guards.stall': ('stop', 'warn', 'off'),
  'guards.zero_learning_rate': ('stop', 'off'),
}

_AT_LEAST = {
  'batch_size': 1,
  'num_epochs': 1,
  'num_train_steps': 1,
  'log_every_steps': 1,
  'seed': 0,
  'model.num_classes': 1,
  'data.crop_size': 1,
  'data.shuffle_buffer': 1,
  'data.max_error_rate': 0,
  'eval.batch_size': 1,
  'eval.every_epochs': 1,
  'checkpoint.every_steps': 0,
  'checkpoint.keep': 1,
  'optimizer.learning_rate': 0,
  'optimizer.momentum': 0,
  'optimizer.weight_decay': 0,
  'optimizer.warmup_epochs': 0,
  'optimizer.plateau_patience': 1,
  'optimizer.plateau_max_drops': 0,
  'optimizer.exponential_steps': 2,
  'data.lighting_epochs': 0,
  'guards.min_epoch_steps': 1,
  'guards.stall_margin': 0,
  'guards.stall_steps': 0,
}

# Fields that must be there besides those.
_OTHERS = ('model.dropout_rate', 'data.mean', 'profile', 'compilation_cache')

_PARAMETER_KINDS = ('kernel', 'bias')
_RULE_KEYS = (
  'params',
  'from_epoch',
  'learning_rate',
  'multiplier',
  'weight_decay',
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


# Both JAX and NumPy take seeds of 32 bits.
_SEED_LIMIT = 2**32 - 1


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
  if not os.path.isfile(path):
    folder = os.path.dirname(path) or '.'
    there = sorted(
      os.path.join(folder, name)
      for name in (os.listdir(folder) if os.path.isdir(folder) else [])
      if name.endswith('.py')
    )
    hint = f' (there are {", ".join(there)})' if there else ''
    raise UserError(f'no config file {path!r} (--config){hint}')
  # Configs import `configs.default`: their folder's parent must be found.
  root = os.path.dirname(os.path.dirname(os.path.abspath(path)))
  if root not in sys.path:
    sys.path.append(root)
  try:
    config = runpy.run_path(path)['get_config']()
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


def validate(config: Config, mode: str = 'train') -> None:
  """Checks each field's value; UserError says what was found and expected.

  Args:
    config: as loaded.
    mode: 'eval' looks at `model.*` and `eval.*` alone: the other fields are
      those of training, and mean nothing to it.
  """
  fields = flatten(config)
  missing = [
    name for name in (*_CHOICES, *_AT_LEAST, *_OTHERS) if name not in fields
  ]
  if missing:
    raise UserError(
      f'the config has no field {", ".join(missing)}: make it from '
      'configs/default.py'
    )
  of_eval = ('model.', 'eval.', 'data.finish', 'data.on_error')
  _check_values(fields, of_eval if mode == 'eval' else ('',))
  rate = fields['model.dropout_rate']
  if rate is not None and not 0 <= rate < 1:
    raise UserError(f'model.dropout_rate is {rate}: at least 0, below 1')
  if mode == 'train':
    _check_optimizer(config.optimizer)
    _check_rules(config)
    _check_colors(config.data)
    _check_sizes(config)
    profile_steps(config.profile)
    rate = config.data.max_error_rate
    if rate > 1:
      raise UserError(f'data.max_error_rate is {rate}: a share, 1 at most')


def _check_values(fields: dict[str, Any], prefixes: tuple[str, ...]) -> None:
  for name, value in fields.items():
    if (
      name.startswith(prefixes)
      and isinstance(value, float)
      and not math.isfinite(value)
    ):
      raise UserError(f'{name} is {value}: a finite number needed')
  for name, choices in _CHOICES.items():
    if not name.startswith(prefixes):
      continue
    if fields[name] not in choices:
      close = difflib.get_close_matches(str(fields[name]), map(str, choices))
      hint = f'; did you mean {close[0]}?' if close else ''
      raise UserError(
        f'unknown {name} {fields[name]!r}: one of '
        f'{", ".join(map(str, choices))}{hint}'
      )
  for name, least in _AT_LEAST.items():
    value = fields[name]
    if name.startswith(prefixes) and value is not None and value < least:
      raise UserError(f'{name} is {value}: at least {least} needed')
  if '' in prefixes and fields['seed'] >= _SEED_LIMIT:
    raise UserError(f'seed is {fields["seed"]}: below {_SEED_LIMIT} needed')


def _check_optimizer(optimizer: Config) -> None:
  if optimizer.momentum >= 1:
    raise UserError(
      f'optimizer.momentum is {optimizer.momentum}: below 1 needed'
    )
  if not 0 < optimizer.drop_factor < 1:
    raise UserError(
      f'optimizer.drop_factor is {optimizer.drop_factor}: between 0 and 1, '
      'what the learning rate is multiplied by'
    )
  if optimizer.plateau_min_improvement <= 0:
    raise UserError(
      'optimizer.plateau_min_improvement is '
      f'{optimizer.plateau_min_improvement}: above 0 needed'
    )
  epochs = optimizer.drop_epochs
  if not isinstance(epochs, tuple | list) or not all(
    isinstance(epoch, int | float) and epoch > 0 for epoch in epochs
  ):
    raise UserError(
      f'optimizer.drop_epochs is {epochs!r}: positive numbers, such as (30, 60)'
    )
  if optimizer.exponential_factor <= 0:
    raise UserError(
      f'optimizer.exponential_factor is {optimizer.exponential_factor}: above '
      '0 needed'
    )


def _check_rules(config: Config) -> None:
  layers = ARCHITECTURES[config.model.name].layer_names
  for layer in config.optimizer.frozen_layers:
    if layer not in layers:
      raise UserError(
        f'optimizer.frozen_layers has {layer!r}: the layers of '
        f'{config.model.name!r} are {", ".join(layers)}'
      )
  names = [f'{layer}/{kind}' for layer in layers for kind in _PARAMETER_KINDS]
  for i, rule in enumerate(config.optimizer.rules):
    where = f'optimizer.rules[{i}] is {rule!r}'
    if not isinstance(rule, dict) or not isinstance(rule.get('params'), str):
      raise UserError(
        f"{where}: a dict with 'params', such as {{'params': '*/bias', "
        "'multiplier': 2.0}}"
      )
    unknown = sorted(rule.keys() - set(_RULE_KEYS), key=str)
    if unknown:
      raise UserError(
        f'{where}: unknown {unknown[0]!r}; there are {", ".join(_RULE_KEYS)}'
      )
    effects = rule.keys() - {'params', 'from_epoch'}
    if not effects or {'learning_rate', 'multiplier'} <= effects:
      raise UserError(
        f'{where}: one of learning_rate and multiplier, or weight_decay, or '
        'one of them and weight_decay'
      )
    for key in rule.keys() - {'params'}:
      value = rule[key]
      if not _number(value) or value < 0:
        raise UserError(f'{where}: {key} must be a number of at least 0')
    if not fnmatch.filter(names, rule['params']):
      raise UserError(
        f'{where}: no parameter of {config.model.name!r} is called so; they '
        f'are {names[0]}, {names[1]}, ... {names[-1]}'
      )


def _number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _check_colors(data: Config) -> None:
  mean_ok = data.mean in ('image', 'channel') or _numbers(data.mean)
  if not mean_ok:
    raise UserError(
      f"data.mean is {data.mean!r}: 'image', 'channel' or three numbers in "
      'grey levels, such as (123.675, 116.28, 103.53)'
    )
  std_ok = data.std == 'channel' or (_numbers(data.std) and min(data.std) > 0)
  if not std_ok:
    raise UserError(
      f"data.std is {data.std!r}: 'channel' or three positive numbers in grey "
      'levels, such as (58.395, 57.12, 57.375)'
    )


def _numbers(value: Any) -> bool:
  return (
    isinstance(value, tuple | list)
    and len(value) == 3
    and all(_number(v) for v in value)
  )


def _check_sizes(config: Config) -> None:
  data = config.data
  if (data.train_crop, data.mean_crop) == ('random_resized', 'same'):
    raise UserError(
      "data.mean_crop 'same' needs data.train_crop 'random': no part of the "
      'mean image lies under a crop that was resized'
    )
  if data.crop_size > data.resize_size:
    raise UserError(
      f'data.crop_size {data.crop_size} is larger than data.resize_size '
      f'{data.resize_size}'
    )
  architecture = ARCHITECTURES[config.model.name]
  if data.crop_size < architecture.min_input_size:
    raise UserError(
      f'data.crop_size {data.crop_size} is too small for the network '
      f'{config.model.name!r}: at least {architecture.min_input_size} pixels'
    )


def profile_steps(text: str) -> range:
  """The steps of `config.profile`: '100:110' are the ten after the 100th.

  Raises:
    UserError: it names no steps.
  """
  if not text:
    return range(0)
  match = re.fullmatch(r'(\d+):(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise UserError(
      f"profile is {text!r}: 'FIRST:LAST' needed, such as '100:110' for the "
      'ten steps after the 100th'
    )
  return range(int(match[1]), int(match[2]))


def check_batch(batch_size: int, num_devices: int) -> None:
  """A training batch must be shared equally between the devices."""
  if batch_size % num_devices:
    lower = batch_size // num_devices * num_devices
    nearest = [n for n in (lower, lower + num_devices) if n]
    raise UserError(
      f'batch_size {batch_size} is not divisible by the {num_devices} '
      f'devices: take {" or ".join(map(str, nearest))}'
    )


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
