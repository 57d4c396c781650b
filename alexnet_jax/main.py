"""Trains AlexNet, or scores a checkpoint.

  python -m alexnet_jax.main --config=configs/imagenet.py --workdir=DIR
  python -m alexnet_jax.main --mode=eval --workdir=DIR

The same command resumes a run that was stopped. --mode=eval needs no --config:
the run's own is in its workdir. `--config=FILE --help` shows FILE's values.

Exit status: 0 done; 2 a usage or configuration error; 3 stopped by a training
guard or by storage; 4 (134 if JAX notices first) another process of the run was
lost; 143 or 130 stopped by SIGTERM or SIGINT. After these two it saves a
checkpoint first, unless it is still starting up or gets a second SIGINT.
"""

import os
import pathlib
import signal
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from alexnet_jax.cli import command, machine
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import absolute
from alexnet_jax.config import help as help_lib
from alexnet_jax.config import loading

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, such as configs/imagenet.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run, local or gs://; default: runs/CONFIG. With --mode=eval, '
  'DIR,DIR averages the softmax outputs of several networks.',
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Folder for the results of --mode=eval; default: the workdir, and '
  'runs/CONFIG_ensemble for several.',
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'eval'],
  'Train a network, or score a checkpoint; default: train.',
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Run as one of several processes (jax.distributed).'
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  'coordinator_address',
  None,
  'HOST:PORT of process 0, with --distributed. TPU pods, GKE and SLURM set it.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Number of processes, with --coordinator_address.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Index of this process, with --coordinator_address.'
)

# The config file of --mode=eval without --config.
_OF_WORKDIR = pathlib.Path(loading.__file__).with_name('of_workdir.py')


def main(argv: list[str]) -> None:
  """Trains or evaluates as the flags say."""
  del argv  # Parsed already.
  if _CONFIG.value is None:
    raise UserError(
      'no config: give --config=configs/digits.py or another, or --mode=eval '
      '--workdir=DIR'
    )
  name = _run_name()
  names = _workdir_names(_WORKDIR.value or f'runs/{name}')
  if _MODE.value == 'train' and _OUT.value:
    raise UserError(
      f'--out={_OUT.value} is for the results of an evaluation: add --mode=eval'
    )
  # Imported late: JAX takes seconds, and TensorFlow and Orbax more. --help and
  # a mistyped command should not wait for them.
  from alexnet_jax.config.values import validate

  config = _CONFIG.value
  if any(value is None for value in (config.model.name, config.data.crop_size)):
    with command.quiet_imports():
      from alexnet_jax.pretrained import fine_tuning

    config = fine_tuning.filled(config, absolute(names[0]))
  try:
    validate(config, _MODE.value)
  except UserError as error:
    if _is_of_workdir():
      raise UserError(
        f'{error}. This is the config.json of --workdir; a network of your own '
        'needs its --config=FILE.py'
      ) from error
    raise
  machine.keep_freed_memory()
  with command.quiet_imports():
    import jax

    from alexnet_jax.evaluate import evaluate, evaluate_ensemble
    from alexnet_jax.runs import processes
    from alexnet_jax.train import train
  place = _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  if _DISTRIBUTED.value:
    processes.join(*place)
  elif place != (None, None, None):
    raise UserError(
      '--coordinator_address, --num_processes and --process_id are for one of '
      'several processes: add --distributed'
    )
  workdirs = [absolute(name) for name in names]
  for workdir in workdirs:
    _check_folder(workdir)
  if config.compilation_cache:
    cache = absolute(config.compilation_cache)
    jax.config.update('jax_compilation_cache_dir', str(cache))
  try:
    with processes.noticing_losses():
      if _MODE.value == 'train':
        train(config, workdirs[0])
      elif len(workdirs) == 1:
        evaluate(config, workdirs[0], absolute(_OUT.value or names[0]))
      else:
        out = absolute(_OUT.value or f'runs/{name}_ensemble')
        evaluate_ensemble(config, names, out)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    from alexnet_jax.preflight import fitting

    raise fitting.explain(config, _MODE.value, error) from error


def _config_file() -> str:
  return config_flags.get_config_filename(flags.FLAGS['config'])


def _is_of_workdir() -> bool:
  return _config_file().startswith(f'{_OF_WORKDIR}:')


def _run_name() -> str:
  """The config's name and argument; without --config that of the workdir."""
  if _is_of_workdir():
    return pathlib.Path(_config_file().partition(':')[2]).name
  return command.run_name(_config_file())


def _workdir_names(names: str) -> list[str]:
  """Splits `DIR,DIR` for the evaluation of several networks."""
  if _MODE.value == 'train' or ',' not in names or os.path.isdir(names):
    return [names]
  if not all(names.split(',')):
    raise UserError(f'--workdir={names}: an empty name between commas')
  return names.split(',')


def _check_folder(workdir: Any) -> None:
  try:
    is_file = workdir.exists() and not workdir.is_dir()
  except Exception as error:  # Any library's.
    raise StorageError(
      f'cannot reach {workdir} (--workdir): {error}'
    ) from error
  if is_file:
    raise UserError(f'{workdir} is a file (--workdir)')


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; the config of --mode=eval defaults to the run's own."""
  help_lib.print_help_if_asked(argv, __doc__)
  workdir = loading.flag_value(argv, 'workdir')
  if (
    loading.flag_value(argv, 'mode') == 'eval'
    and loading.flag_value(argv, 'config') is None
    and workdir
  ):
    first = workdir if os.path.isdir(workdir) else workdir.split(',')[0]
    argv = [argv[0], f'--config={_OF_WORKDIR}:{first}', *argv[1:]]
  return loading.parse_flags(argv)


def run() -> None:
  """Parses the flags and calls `main`."""
  app.run(main, flags_parser=_parse)


if __name__ == '__main__':
  # An import may swallow a KeyboardInterrupt, and the run would continue.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  command.run(run)
