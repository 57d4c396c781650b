"""Checks the values of a config's fields."""

import difflib
import fnmatch
import math
import re
from collections.abc import Collection
from typing import Any

from alexnet_jax.cli.errors import UserError
from alexnet_jax.config.loading import Config, flatten
from alexnet_jax.model import ARCHITECTURES, Architecture
from alexnet_jax.model.ablations import ABLATIONS, ablated

_CHOICES: dict[str, Collection[Any]] = {
  'parallelism': ('data', 'hybrid'),
  # Includes those that a config file has added.
  'model.name': ARCHITECTURES.keys(),
  'model.dtype': ('float32', 'bfloat16'),
  'model.dropout_scaling': ('train', 'test'),
  'data.resize': ('short_side', 'warp'),
  'data.mean_crop': ('center', 'same'),
  'data.lighting': ('sqrt_eigenvalue', 'eigenvalue', 'none'),
  'data.train_crop': ('random', 'random_resized', 'center'),
  'data.balance': ('none', 'inverse'),
  'data.finish': ('host', 'device'),
  'data.on_error': ('stop', 'skip'),
  'optimizer.reduce_dtype': ('float32', 'bfloat16'),
  'optimizer.schedule': (
    'plateau',
    'step',
    'discrete_exponential',
    'polynomial',
    'constant',
  ),
  'eval.classes': ('all', 'data'),
  'eval.crops': (1, 10),
  'init_head': ('keep', 'new'),
  'guards.not_finite': ('stop', 'off'),
  'guards.stall': ('stop', 'warn', 'off'),
  'guards.zero_learning_rate': ('stop', 'off'),
}

_AT_LEAST = {
  'batch_size': 1,
  'grad_accumulation': 1,
  'num_epochs': 1,
  'num_train_steps': 1,
  'log_every_steps': 1,
  'seed': 0,
  'model.num_classes': 1,
  'data.crop_size': 1,
  'data.shuffle_buffer': 1,
  'data.max_error_rate': 0,
  'data.max_pixels': 1,
  'eval.batch_size': 1,
  'eval.every_epochs': 1,
  'checkpoint.every_steps': 0,
  'checkpoint.keep': 1,
  'optimizer.learning_rate': 0,
  'optimizer.momentum': 0,
  'optimizer.weight_decay': 0,
  'optimizer.warmup_epochs': 0,
  'optimizer.warmup_learning_rate': 0,
  'optimizer.lars_coefficient': 0,
  'optimizer.plateau_patience': 1,
  'optimizer.plateau_max_drops': 0,
  'optimizer.exponential_steps': 2,
  'data.lighting_epochs': 0,
  'guards.min_epoch_steps': 1,
  'guards.stall_margin': 0,
  'guards.stall_steps': 0,
}

# Further fields that a config must have.
_OTHERS = (
  'model.ablations',
  'model.dropout_rate',
  'data.mean',
  'profile',
  'compilation_cache',
)

_PARAMETER_KINDS = ('kernel', 'bias')
_RULE_KEYS = (
  'params',
  'from_epoch',
  'learning_rate',
  'multiplier',
  'weight_decay',
)

# More outputs would overflow before they fit into any memory.
_MOST_CLASSES = 10**7
# JAX and NumPy take seeds of 32 bits.
_SEED_LIMIT = 2**32 - 1


def validate(config: Config, mode: str = 'train') -> None:
  """Checks the value of each field.

  Args:
    config: as loaded.
    mode: 'train', or 'eval', which ignores the fields of training.

  Raises:
    UserError: a value is invalid; the message names the field, the value and
      what is expected.

  Example:
    >>> from configs import digits
    >>> config = digits.get_config()
    >>> config.optimizer.momentum = 1.5
    >>> validate(config)
    Traceback (most recent call last):
      ...
    alexnet_jax.cli.errors.UserError: optimizer.momentum is 1.5: must be below 1
  """
  fields = flatten(config)
  missing = [
    name for name in (*_CHOICES, *_AT_LEAST, *_OTHERS) if name not in fields
  ]
  if missing:
    raise UserError(
      f'the config has no field {", ".join(missing)}: start from '
      'configs/default.py'
    )
  of_eval = ('model.', 'eval.', 'data.finish', 'data.on_error')
  _check_values(fields, of_eval if mode == 'eval' else ('',))
  rate = fields['model.dropout_rate']
  if rate is not None and not 0 <= rate < 1:
    raise UserError(
      f'model.dropout_rate is {rate}: must be at least 0 and below 1'
    )
  names = config.model.ablations
  if not isinstance(names, tuple | list) or not set(names) <= set(ABLATIONS):
    raise UserError(
      f'model.ablations is {names!r}: must be names of '
      f"{', '.join(ABLATIONS)}, such as ('no_lrn',)"
    )
  if mode == 'train':
    _check_optimizer(config.optimizer)
    _check_rules(config)
    _check_colors(config.data)
    if config.data.mean == 'init_from' and not config.init_from:
      raise UserError("data.mean is 'init_from', but init_from is empty")
    _check_sizes(config)
    profile_steps(config.profile)
    rate = config.data.max_error_rate
    if rate > 1:
      raise UserError(f'data.max_error_rate is {rate}: must be at most 1')


def _architecture(model: Config) -> Architecture:
  return ablated(ARCHITECTURES[model.name], model.ablations)


def _check_values(fields: dict[str, Any], prefixes: tuple[str, ...]) -> None:
  for name, value in fields.items():
    if (
      name.startswith(prefixes)
      and isinstance(value, float)
      and not math.isfinite(value)
    ):
      raise UserError(f'{name} is {value}: must be finite')
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
      raise UserError(f'{name} is {value}: must be at least {least}')
  if (fields['model.num_classes'] or 0) > _MOST_CLASSES:
    raise UserError(
      f'model.num_classes is {fields["model.num_classes"]}: must be at most '
      f'{_MOST_CLASSES}'
    )
  if '' in prefixes and fields['seed'] >= _SEED_LIMIT:
    raise UserError(f'seed is {fields["seed"]}: must be below {_SEED_LIMIT}')


def _check_optimizer(optimizer: Config) -> None:
  if optimizer.momentum >= 1:
    raise UserError(
      f'optimizer.momentum is {optimizer.momentum}: must be below 1'
    )
  if not 0 < optimizer.drop_factor < 1:
    raise UserError(
      f'optimizer.drop_factor is {optimizer.drop_factor}: must be between 0 '
      'and 1; it multiplies the learning rate'
    )
  if optimizer.plateau_min_improvement <= 0:
    raise UserError(
      'optimizer.plateau_min_improvement is '
      f'{optimizer.plateau_min_improvement}: must be above 0'
    )
  epochs = optimizer.drop_epochs
  if not isinstance(epochs, tuple | list) or not all(
    isinstance(epoch, int | float) and epoch > 0 for epoch in epochs
  ):
    raise UserError(
      f'optimizer.drop_epochs is {epochs!r}: must be positive numbers, such as '
      '(30, 60)'
    )
  for name in ('exponential_factor', 'polynomial_power'):
    if optimizer[name] <= 0:
      raise UserError(f'optimizer.{name} is {optimizer[name]}: must be above 0')


def _check_rules(config: Config) -> None:
  layers = _architecture(config.model).layer_names
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
        f"{where}: must be a dict with 'params', such as {{'params': '*/bias', "
        "'multiplier': 2.0}"
      )
    unknown = sorted(rule.keys() - set(_RULE_KEYS), key=str)
    if unknown:
      raise UserError(
        f'{where}: unknown key {unknown[0]!r}; the keys are '
        f'{", ".join(_RULE_KEYS)}'
      )
    effects = rule.keys() - {'params', 'from_epoch'}
    if not effects or {'learning_rate', 'multiplier'} <= effects:
      raise UserError(
        f'{where}: must have learning_rate or multiplier (not both), or '
        'weight_decay'
      )
    for key in rule.keys() - {'params'}:
      value = rule[key]
      if not _number(value) or value < 0:
        raise UserError(f'{where}: {key} must be a number of at least 0')
    if not fnmatch.filter(names, rule['params']):
      raise UserError(
        f'{where}: matches no parameter of {config.model.name!r}: they '
        f'are {names[0]}, {names[1]}, ... {names[-1]}'
      )


def _number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _check_colors(data: Config) -> None:
  named = data.mean in ('image', 'channel', 'init_from')
  mean_ok = named or _numbers(data.mean)
  if not mean_ok:
    raise UserError(
      f"data.mean is {data.mean!r}: must be 'image', 'channel' or three "
      'numbers in grey levels, such as (123.675, 116.28, 103.53)'
    )
  std_ok = data.std == 'channel' or (_numbers(data.std) and min(data.std) > 0)
  if not std_ok:
    raise UserError(
      f"data.std is {data.std!r}: must be 'channel' or three positive numbers "
      'in grey levels, such as (58.395, 57.12, 57.375)'
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
      "data.mean_crop 'same' needs data.train_crop 'random': a resized crop "
      'matches no part of the mean image'
    )
  if data.crop_size > data.resize_size:
    raise UserError(
      f'data.crop_size {data.crop_size} is larger than data.resize_size '
      f'{data.resize_size}'
    )
  architecture = _architecture(config.model)
  if data.crop_size < architecture.min_input_size:
    raise UserError(
      f'data.crop_size {data.crop_size} is too small for the network '
      f'{config.model.name!r}: must be at least '
      f'{architecture.min_input_size} pixels'
    )


def profile_steps(text: str) -> range:
  """Returns the steps that `config.profile` names.

  Args:
    text: 'FIRST:LAST'; '100:110' are the ten steps after the 100th. '' is none.

  Raises:
    UserError: the text has another form.

  Example:
    >>> profile_steps('100:110')
    range(100, 110)
  """
  if not text:
    return range(0)
  match = re.fullmatch(r'(\d+):(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise UserError(
      f"profile is {text!r}: must be 'FIRST:LAST', such as '100:110' for the "
      'ten steps after the 100th'
    )
  return range(int(match[1]), int(match[2]))


def check_batch(config: Config, num_devices: int) -> None:
  """Checks that a batch can be divided equally between the devices.

  Raises:
    UserError: it cannot; the message names the nearest sizes that can.
  """
  size, parts = config.batch_size, config.grad_accumulation
  each = num_devices * parts
  if size % each:
    lower = size // each * each
    nearest = [n for n in (lower, lower + each) if n]
    of_each = f', in {parts} parts each (grad_accumulation)' * (parts > 1)
    raise UserError(
      f'batch_size {size} is not divisible by the {num_devices} devices'
      f'{of_each}: use {" or ".join(map(str, nearest))}'
    )
