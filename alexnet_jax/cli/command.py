"""What the commands share: arguments, and errors as one line and a status."""

import argparse
import glob
import logging as python_logging
import os
import pathlib
import shlex
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from absl import logging

from alexnet_jax.cli.errors import (
  Interrupted,
  ProcessLost,
  StorageError,
  TrainingStopped,
  UserError,
)
from alexnet_jax.cli.terminal import one_line


class Parser(argparse.ArgumentParser):
  """An argument parser whose complaint is a UserError of one line."""

  def __init__(self, command: str, doc: str | None):
    super().__init__(
      prog=f'python -m alexnet_jax.{command}',
      description=doc,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Called by argparse for what it cannot parse."""
    raise UserError(f'{message}; see {self.prog} --help')


# Flags that say where things are on a machine, or which machine it is.
_OF_A_MACHINE = (
  '--workdir',
  '--config.data.data_dir',
  '--config.data.cache_dir',
  '--data_dir',
  '--config.compilation_cache',
  '--out',
  '--distributed',
  '--coordinator_address',
  '--num_processes',
  '--process_id',
)


def typed() -> str | None:
  """The command that this process is, as anybody might type it.

  Without what says where things are on one machine; None where this is no
  command of ours but a library in somebody's program.
  """
  path = pathlib.Path(sys.argv[0])
  if path.parent.name != 'alexnet_jax':
    return None
  words, rest = [], sys.argv[1:]
  while rest:
    word = rest.pop(0)
    flag, _, value = word.partition('=')
    is_of_machine = '-' + flag.lstrip('-') in {f[1:] for f in _OF_A_MACHINE}
    if is_of_machine and '=' not in word and not flag.endswith('distributed'):
      value = rest.pop(0) if rest else ''
      word = f'{flag}={value}'
    # Which runs an ensemble is of must be told.
    if not is_of_machine or (flag.endswith('workdir') and ',' in value):
      words.append(word)
  return shlex.join(['python', '-m', f'alexnet_jax.{path.stem}', *words])


def _stay(status: int) -> None:
  pass


_leave: Callable[[int], None] = _stay


def leave_by(function: Callable[[int], None]) -> None:
  """Sets what is called with the exit status before a failed command exits.

  One of several processes must end in a way that the others notice.
  """
  global _leave
  _leave = function


def run(main: Callable[..., Any], *arguments: Any) -> None:
  """`main`, with every foreseen failure as one line and an exit status.

  0 done; 2 a usage or configuration error; 3 stopped by a training guard or by
  storage; 4 another process was lost; 143 or 130 stopped by SIGTERM or SIGINT.
  """
  # Deprecations inside the libraries, and Orbax's account of each save. What
  # fails in its threads reaches the main one too, and is told there.
  logging.set_verbosity(logging.FATAL)
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
  threading.excepthook = lambda _: None
  sys.unraisablehook = lambda _: None
  _quiet_libtpu()
  try:
    main(*arguments)
  except Interrupted as error:
    # So have all processes of the run: they leave together.
    print(f'alexnet_jax: {one_line(error)}', file=sys.stderr, flush=True)
    sys.exit(error.status)
  except (UserError, TrainingStopped, StorageError, ProcessLost) as error:
    print(f'alexnet_jax: {one_line(error)}', file=sys.stderr, flush=True)
    _leave(error.status)
    if isinstance(error, StorageError):
      # Threads of Orbax may still be failing, each with a traceback.
      sys.stdout.flush()
      os._exit(error.status)
    sys.exit(error.status)
  except KeyboardInterrupt:
    print('alexnet_jax: interrupted', file=sys.stderr, flush=True)
    sys.exit(130)
  except BrokenPipeError:  # `... | head`: nobody reads any more.
    _leave(141)
    sys.stderr.close()
    sys.exit(141)
  except Exception:
    traceback.print_exc()
    _leave(1)
    sys.exit(1)


def _quiet_libtpu() -> None:
  """Where there is no TPU, libtpu need not ask which it is."""
  if not glob.glob('/dev/accel*') and not glob.glob('/dev/vfio/[0-9]*'):
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
