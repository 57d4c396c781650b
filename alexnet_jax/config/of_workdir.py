"""A config file: `of_workdir.py:DIR` is the config that DIR was trained with.

`--mode=eval --workdir=DIR` takes it where no --config is given.
"""

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config.loading import Config, flatten
from alexnet_jax.config.saved import dataset_of, read_config
from configs import default

# A workdir may come from anybody, and an evaluation does not use these, which
# would open or load what they name.
_IGNORED = ('compilation_cache', 'data.cache_dir', 'init_from', 'profile')


def get_config(workdir: str) -> Config:
  """Returns the defaults overridden by the workdir's config.json.

  Converted weights only name their network; the other fields stay defaults.
  """
  try:
    saved = read_config(absolute(workdir))
  except UserError:
    raise
  except Exception as error:  # Any library's.
    raise StorageError(
      f'cannot reach {workdir} (--workdir): {error}'
    ) from error
  if saved is None:
    raise UserError(
      f'no config.json in {workdir} (--workdir): give the --workdir of a run, '
      'or --config=configs/NAME.py'
    )
  config = default.get_config()
  known = flatten(config)
  fields = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in flatten(saved).items()
    if name in known and name not in _IGNORED
  }
  try:
    config.update_from_flattened_dict(fields)
    config.data.name, config.data.data_dir = dataset_of(
      config.data.to_dict(), workdir
    )
  except (TypeError, ValueError) as error:
    raise UserError(
      f'{workdir}/config.json is corrupt: {error}. Give --config=FILE.py'
    ) from error
  return config
