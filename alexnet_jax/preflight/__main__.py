"""Catch out-of-memory and config errors before you rent a TPU.

  python -m alexnet_jax.preflight --config=configs/imagenet.py \\
    --topology=v5e:4x4 --workdir=DIR

Compiles the run's own training and evaluation steps for devices that you do not
need to have: slices of TPU v4, v5e, v5p and v6e (by libtpu), H100 and A100 GPUs
(by JAX's CUDA plugin), or, as 'local', the devices of this machine. Prints the
memory they need, the compiler's estimate of the time, the data that devices
exchange, and whether this host's input keeps up.

Exit status: 0 all checks passed; 2 a check failed, or a usage error.
"""

import json
import os
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from alexnet_jax.cli import command
from alexnet_jax.cli.errors import UserError
from alexnet_jax.config.help import print_help_if_asked
from alexnet_jax.config.loading import flag_value, parse_flags
from alexnet_jax.preflight.hardware import KNOWN

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, such as configs/imagenet.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run, local or gs://; default: runs/CONFIG.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, f'Devices to compile for (required): {KNOWN}.'
)
_HOSTS = flags.DEFINE_integer(
  'hosts',
  None,
  'Fail unless the topology has this number of hosts; default: any.',
)
_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of tables; default: no.'
)
_COMPILE_ONLY = flags.DEFINE_bool(
  'compile_only', False, 'Compile, and skip all other checks; default: no.'
)

_COMPARE = flags.DEFINE_bool(
  'compare',
  False,
  'Compare data and hybrid parallelism for this config; default: no.',
)

# Why the config does not load: a failed check, not a usage error.
_config_error: UserError | None = None


def main(argv: list[str]) -> None:
  """Checks what the flags say."""
  del argv  # Parsed already.
  if _TOPOLOGY.value is None:
    raise UserError(f'no topology: give --topology, {KNOWN}')
  config = _config_error or _CONFIG.value
  if config is None:
    raise UserError('no config: give --config=configs/imagenet.py or another')
  # libtpu reads these when it is loaded, and would log to stderr.
  os.environ.setdefault('TPU_MIN_LOG_LEVEL', '4')
  os.environ.setdefault('TPU_STDERR_LOG_LEVEL', '4')
  # Imported late: JAX and TensorFlow take seconds. --help and a mistyped
  # command should not wait for them.
  with command.quiet_imports():
    from alexnet_jax.preflight import report, run_checks, topologies

  topology = topologies.find(_TOPOLOGY.value, _HOSTS.value)
  path, _, argument = (flag_value(sys.argv, 'config') or '').partition(':')
  name = pathlib.Path(path).stem + (f'_{argument}' if argument else '')
  result = run_checks.run_checks(
    config,
    topology,
    workdir=_WORKDIR.value or f'runs/{name}',
    compile_only=_COMPILE_ONLY.value,
    comparing=_COMPARE.value,
  )
  text = '\n'.join(report.lines(result, topology))
  print(json.dumps(result) if _JSON.value else text, flush=True)
  if not all(row['ok'] for row in result['checks']):
    sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; a config that does not load becomes a failed check."""
  global _config_error
  print_help_if_asked(argv, __doc__)
  try:
    return parse_flags(argv)
  except UserError as error:
    rest = [a for a in argv if not a.lstrip('-').startswith('config')]
    if len(rest) == len(argv):
      raise
    _config_error = error
  return parse_flags(rest)


def run() -> None:
  """Parses the flags and calls `main`."""
  app.run(main, flags_parser=_parse)


if __name__ == '__main__':
  command.run(run)
