"""Trains or evaluates: `python -m alexnet_jax.main --config=configs/NAME.py`.

Exit status: 0 done; 2 a usage or configuration error; 3 stopped by a training
guard or by storage; 143 or 130 stopped by SIGTERM or SIGINT, saved.
"""

import os

# Before TensorFlow is imported: its start-up notes are news to nobody.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from alexnet_jax import config as config_lib
from alexnet_jax.errors import (
  Interrupted,
  StorageError,
  TrainingStopped,
  UserError,
)

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, such as configs/imagenet.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run, local or gs://; default runs/CONFIG.'
)
_MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'eval'], 'Train, or score a checkpoint.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'One of several processes (jax.distributed).'
)


def main(argv: list[str]) -> None:
  """Trains or evaluates as the flags say."""
  del argv  # Parsed already.
  if _CONFIG.value is None:
    raise UserError('no config: give --config=configs/digits.py or another')
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  workdir = config_lib.absolute(
    _WORKDIR.value or f'runs/{pathlib.Path(path).stem}'
  )
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f'{workdir} is a file (--workdir)')
  config = _CONFIG.value
  config_lib.validate(config, _MODE.value)
  if _DISTRIBUTED.value:
    try:
      jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
      reason = ' '.join(str(error).split())
      raise UserError(
        f'--distributed: {reason} It is for one of several processes on a TPU '
        'pod, GKE or SLURM; leave it out on one machine'
      ) from error
  # Imported late: they bring TensorFlow and Orbax, which take seconds, and a
  # mistyped command should not wait for them.
  if _MODE.value == 'train':
    from alexnet_jax.train import train

    train(config, workdir)
  else:
    from alexnet_jax.evaluate import evaluate

    evaluate(config, workdir)


def run() -> None:
  """`main`, with every foreseen failure as one line and an exit status."""
  # Deprecations inside the libraries, and Orbax's account of each save.
  logging.set_verbosity(logging.ERROR)
  try:
    app.run(main, flags_parser=config_lib.parse_flags)
  except (UserError, TrainingStopped, StorageError, Interrupted) as error:
    print(f'alexnet_jax: {error}', file=sys.stderr, flush=True)
    sys.exit(error.status)
  except KeyboardInterrupt:
    print('alexnet_jax: interrupted', file=sys.stderr, flush=True)
    sys.exit(130)


if __name__ == '__main__':
  run()
