"""The config.json of a workdir, and which configs may continue its run."""

import json
import re
from typing import Any

from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_text
from alexnet_jax.cli.terminal import one_line
from alexnet_jax.config.loading import Config, flatten
from alexnet_jax.model import ARCHITECTURES

# A run's result does not depend on these, so it may resume with others. Where
# units are dropped differs, as it does on another number of devices. For
# networks with batch normalization `grad_accumulation` is not free.
FREE_FIELDS = (
  'checkpoint.every_steps',
  'checkpoint.keep',
  'compilation_cache',
  'data.cache_dir',
  'data.data_dir',
  'data.finish',
  'data.max_error_rate',
  'data.max_pixels',
  'eval.batch_size',
  'eval.classes',
  'eval.step',
  'eval.train_split',
  'grad_accumulation',
  'guards.min_epoch_steps',
  'guards.not_finite',
  'guards.stall',
  'guards.stall_margin',
  'guards.stall_steps',
  'guards.zero_learning_rate',
  'log_every_steps',
  'parallelism',
  'profile',
)
# Fields that runs of an earlier version lack, and what they did.
ADDED = {
  'data.balance': 'none',
  'data.max_pixels': 2**27,
  'grad_accumulation': 1,
  'init_head': 'keep',
  'optimizer.lars_coefficient': 0.0,
  'optimizer.polynomial_power': 2.0,
  'optimizer.reduce_dtype': 'float32',
  'optimizer.warmup_learning_rate': 0.0,
}
# Schedules that depend on the length of the run.
_OVER_THE_RUN = ('discrete_exponential', 'polynomial')
# `check_workdir` allows these to grow.
_LENGTHS = ('num_epochs', 'num_train_steps')


def read_config(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the `config.json` of a workdir, or None if it has none.

  Raises:
    UserError: the file is no JSON object.
  """
  path = workdir / 'config.json'
  if not path.exists():
    return None
  try:
    config = json.loads(path.read_text())
    if not isinstance(config, dict):
      raise ValueError('not an object')
  except (ValueError, OSError, RecursionError) as error:
    raise UserError(f'{path} is not a config: {one_line(error)}') from error
  return config


def dataset_of(data: dict[str, Any], workdir: Any) -> tuple[str, str | None]:
  """Returns the name and the folder of the dataset in a workdir's config.

  A workdir may come from anybody. So this refuses names by which TFDS would
  fetch code, and has digits prepared in the user's cache alone.

  Args:
    data: the config's `data`.
    workdir: for messages.

  Raises:
    UserError: it has no name, or one of another kind.

  Example:
    >>> dataset_of({'name': 'cifar10:3.0.2', 'data_dir': 'DIR'}, 'runs/x')
    ('cifar10:3.0.2', 'DIR')
  """
  name, folder = str(data.get('name')), data.get('data_dir')
  if not re.fullmatch(r'[\w/.-]+(:[\d.*]+)?', name):
    raise UserError(
      f'{workdir}/config.json names the dataset {name!r} (data.name), which is '
      'not NAME[/CONFIG][:VERSION]: give --config, or --data'
    )
  return name, None if name.split(':')[0] == 'digits' else folder


def write_config(config: Config, workdir: epath.Path) -> None:
  """Writes the `config.json` of a workdir unless it is there already."""
  if read_config(workdir) != _plain(config):
    write_text(workdir / 'config.json', json.dumps(_plain(config), indent=2))


def num_train_steps(config: Any, steps_per_epoch: int) -> int:
  """Returns `num_train_steps`, or the number of steps in `num_epochs`."""
  return config['num_train_steps'] or config['num_epochs'] * steps_per_epoch


def check_workdir(
  config: Config, workdir: epath.Path, steps_per_epoch: int
) -> None:
  """Checks that training may start or resume in a workdir; changes nothing.

  Raises:
    UserError: it holds a run that this config would change; the message shows
      the differences.
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
        f'{workdir} has checkpoints but no config.json, so it is not a run of '
        'this program: give another --workdir'
      )
    return
  there = {**ADDED, **flatten(saved)}
  differences = _differences(flatten(_plain(config)), there)
  if differences:
    raise UserError(
      f'{workdir} holds a run with another config: {"; ".join(differences)} '
      '(there -> here). Give another --workdir, or the same config'
    )
  try:
    before = int(num_train_steps(saved, steps_per_epoch))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'{workdir / "config.json"} is corrupt: no num_epochs or num_train_steps'
    ) from error
  now = num_train_steps(config, steps_per_epoch)
  if now != before and config.optimizer.schedule in _OVER_THE_RUN:
    raise UserError(
      f'{workdir} holds a run of {before} steps, not {now}: with '
      f'optimizer.schedule {config.optimizer.schedule!r} the learning rate '
      'depends on the length of the run (num_train_steps, num_epochs)'
    )
  if now < before:
    raise UserError(
      f'{workdir} holds a run of {before} steps: num_train_steps (or '
      f'num_epochs) may grow but not shrink to {now}'
    )


def with_classes(config: Config, number: int | None) -> Config:
  """Returns the config with this `model.num_classes`, if it has none."""
  if config.model.num_classes is not None or number is None:
    return config
  config = config.copy_and_resolve_references()
  config.model.num_classes = number
  return config


def check_eval(config: Config, workdir: epath.Path) -> None:
  """Checks that a workdir holds the network that the config names.

  Raises:
    UserError: a field of `model` differs. `model.dtype` may: the same network
      can be scored in another precision.
  """
  saved = read_config(workdir)
  if saved is None:
    return
  there = flatten(saved)
  differences = [
    difference
    for difference in _differences(flatten(_plain(config)), there)
    if difference.startswith('model.')
    and not difference.startswith('model.dtype ')
    # Converted weights and older runs have fewer fields.
    and difference.split()[0] in there
  ]
  if differences:
    raise UserError(
      f'{workdir} holds another network: {"; ".join(differences)} (there -> '
      'here). Give the same model fields, or another --workdir'
    )


def _differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
  missing = '(absent)'
  free = {*FREE_FIELDS, *_LENGTHS}
  architecture = ARCHITECTURES.get(here['model.name'])
  if architecture and architecture.has_batch_norm:
    free.remove('grad_accumulation')
  return [
    f'{name} {there.get(name, missing)!r} -> {here.get(name, missing)!r}'
    for name in sorted(here.keys() | there.keys())
    if name not in free and here.get(name, missing) != there.get(name, missing)
  ]


def _plain(config: Config) -> dict[str, Any]:
  """Returns a config as it comes back from JSON: with lists for tuples."""
  return json.loads(json.dumps(config.to_dict()))
