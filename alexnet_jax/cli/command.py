"""What all commands share: arguments, and errors as a line and a status."""

import argparse
import contextlib
import glob
import logging as python_logging
import os
import pathlib
import re
import shlex
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import logging

from alexnet_jax.cli import outside
from alexnet_jax.cli.errors import (
  Interrupted,
  ProcessLost,
  StorageError,
  TrainingStopped,
  UserError,
)
from alexnet_jax.cli.terminal import print_error


class Parser(argparse.ArgumentParser):
  """An argument parser that raises UserError where argparse would exit."""

  def __init__(self, command: str, doc: str | None):
    super().__init__(
      prog=f'python -m alexnet_jax.{command}',
      description=doc,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Raises UserError for arguments that cannot be parsed."""
    raise UserError(f'{message}; see {self.prog} --help')


# Flags that depend on the machine, not on the experiment.
_MACHINE_FLAGS = (
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


def run_name(config: str) -> str:
  """Returns the name of a config's workdir in `runs`.

  Example:
    >>> run_name('configs/paper/base.py:imagenette')
    'base_imagenette'
  """
  path, _, argument = config.partition(':')
  return pathlib.Path(path).stem + (f'_{argument}' if argument else '')


def typed() -> str | None:
  """Returns the command line of this process, for others to repeat.

  Flags that depend on the machine, such as paths, are removed. Returns None
  where alexnet_jax is used as a library.
  """
  path = pathlib.Path(sys.argv[0])
  if path.parent.name != 'alexnet_jax':
    return None
  words, rest = [], sys.argv[1:]
  has_config = any(re.match('--?config(=|$)', word) for word in rest)
  while rest:
    word = rest.pop(0)
    flag, _, value = word.partition('=')
    is_machine_flag = '-' + flag.lstrip('-') in {f[1:] for f in _MACHINE_FLAGS}
    if is_machine_flag and '=' not in word and not flag.endswith('distributed'):
      value = rest.pop(0) if rest else ''
      word = f'{flag}={value}'
    # Workdirs name the members of an ensemble, and the config if none is given.
    if flag.endswith('workdir') and (',' in value or not has_config):
      words.append(word if not os.path.isabs(value) else '--workdir=DIR')
    elif not is_machine_flag:
      words.append(word)
  return shlex.join(['python', '-m', f'alexnet_jax.{path.stem}', *words])


def _stay(status: int) -> None:
  pass


_leave: Callable[[int], None] = _stay


def leave_by(function: Callable[[int], None]) -> None:
  """Sets the function that a failed command calls with its exit status.

  One of several processes must exit in a way that the other processes notice.
  """
  global _leave
  _leave = function


def run(main: Callable[..., Any], *arguments: Any) -> None:
  """Calls `main` and turns expected failures into one line and an exit status.

  0 done; 2 a usage or configuration error; 3 stopped by a training guard or by
  storage; 4 another process was lost; 143 or 130 stopped by SIGTERM or SIGINT.
  """
  # Silences deprecations inside the libraries and Orbax's account of each save.
  # Errors in Orbax's threads also reach the main thread, which reports them.
  logging.set_verbosity(logging.FATAL)
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
  threading.excepthook = lambda _: None
  sys.unraisablehook = lambda _: None
  _quiet_libtpu()
  try:
    main(*arguments)
  except Interrupted as error:
    # All processes of the run exit together.
    print_error(error)
    sys.exit(error.status)
  except (UserError, TrainingStopped, StorageError, ProcessLost) as error:
    _leave_with(error)
  except KeyboardInterrupt:
    print_error('interrupted')
    sys.exit(130)
  except BrokenPipeError:  # `... | head`: the reader has gone.
    _leave(141)
    sys.stderr.close()
    sys.exit(141)
  except Exception as error:
    if expected := outside.explain(error):
      _leave_with(expected)
    traceback.print_exc()
    _leave(1)
    sys.exit(1)


def _leave_with(error: Any) -> NoReturn:
  """Prints an error of `cli/errors.py`, and exits with its status."""
  print_error(error)
  _leave(error.status)
  if isinstance(error, StorageError):
    # Orbax's threads may still fail, each with a traceback.
    sys.stdout.flush()
    os._exit(error.status)
  sys.exit(error.status)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
  """Hides what libraries log while they are imported.

  TensorFlow's C++ code writes to stderr whatever its log level is. If the
  import fails, what it wrote is printed.
  """
  if sys.stderr is None:  # Closed: `2>&-`.
    yield
    return
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as log:
    os.dup2(log.fileno(), 2)
    try:
      yield
    except BaseException:
      log.seek(0)
      os.write(stderr, log.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


def _quiet_libtpu() -> None:
  """Keeps libtpu from querying a metadata server where there is no TPU."""
  if not glob.glob('/dev/accel*') and not glob.glob('/dev/vfio/[0-9]*'):
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
