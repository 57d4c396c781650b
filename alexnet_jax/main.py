"""Trains or evaluates: `python -m alexnet_jax.main --config=configs/NAME.py`.

Exit status: 0 done; 2 a usage or configuration error; 3 stopped by a training
guard or by storage; 4 (134 where JAX notices first) another process of the run
was lost; 143 or 130 stopped by SIGTERM or SIGINT, saved.
"""

import os
import pathlib
import signal

import jax
from absl import app, flags
from ml_collections import config_flags

from alexnet_jax.cli import command
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config.loading import parse_flags
from alexnet_jax.config.values import validate
from alexnet_jax.runs import processes

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, such as configs/imagenet.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run, local or gs://; default runs/CONFIG. With --mode=eval '
  "several, DIR,DIR: their networks' softmax outputs are averaged.",
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'With --mode=eval --workdir=DIR,DIR: folder for the results of all; default '
  'runs/CONFIG_ensemble.',
)
_MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'eval'], 'Train, or score a checkpoint.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'One of several processes (jax.distributed).'
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  'coordinator_address',
  None,
  'HOST:PORT of process 0, with --distributed; found on TPU pods, GKE, SLURM.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many there are; with --coordinator_address.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which one this is, from 0; with --coordinator_address.'
)


def main(argv: list[str]) -> None:
  """Trains or evaluates as the flags say."""
  del argv  # Parsed already.
  if _CONFIG.value is None:
    raise UserError('no config: give --config=configs/digits.py or another')
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  path, _, argument = path.partition(':')
  stem = pathlib.Path(path).stem + (f'_{argument}' if argument else '')
  where = _WORKDIR.value or f'runs/{stem}'
  names = [where]
  if _MODE.value == 'eval' and ',' in where and not os.path.isdir(where):
    names = where.split(',')
  if len(names) > 1:
    if not all(names):
      raise UserError(f'--workdir={where}: a name of nothing between commas')
  elif _OUT.value:
    raise UserError(
      f'--out={_OUT.value} is for the results of several networks: add '
      '--mode=eval --workdir=DIR,DIR'
    )
  config = _CONFIG.value
  validate(config, _MODE.value)
  place = _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  if _DISTRIBUTED.value:
    processes.join(*place)
  elif place != (None, None, None):
    raise UserError(
      '--coordinator_address, --num_processes and --process_id are of one of '
      'several processes: add --distributed'
    )
  workdirs = [absolute(name) for name in names]
  for workdir in workdirs:
    try:
      is_file = workdir.exists() and not workdir.is_dir()
    except Exception as error:  # Of whatever library talks to a bucket.
      raise StorageError(
        f'cannot reach {workdir} (--workdir): {error}'
      ) from error
    if is_file:
      raise UserError(f'{workdir} is a file (--workdir)')
  if config.compilation_cache:
    cache = absolute(config.compilation_cache)
    jax.config.update('jax_compilation_cache_dir', str(cache))
  # Imported late: they bring TensorFlow and Orbax, which take seconds, and a
  # mistyped command should not wait for them.
  with processes.noticing_losses():
    if _MODE.value == 'train':
      from alexnet_jax.train import train

      train(config, workdirs[0])
    elif len(workdirs) == 1:
      from alexnet_jax.evaluate import evaluate

      evaluate(config, workdirs[0])
    else:
      from alexnet_jax.evaluate import evaluate_ensemble

      out = absolute(_OUT.value or f'runs/{stem}_ensemble')
      evaluate_ensemble(config, names, out)


def run() -> None:
  """`main` with its flags parsed."""
  app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
  # An import may swallow a KeyboardInterrupt, and the run would go on.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  command.run(run)
