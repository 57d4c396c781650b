"""What the commands share: arguments, and errors as one line and a status."""

import argparse
import contextlib
import glob
import logging as python_logging
import os
import pathlib
import shlex
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any, NoReturn

from absl import logging

from alexnet_jax import processes
from alexnet_jax.errors import (
  Interrupted,
  PeerLost,
  StorageError,
  TrainingStopped,
  UserError,
)


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


_LONGEST = 1200


def printable(text: str) -> str:
  """A text of unknown origin without what would steer a terminal."""
  return ''.join(c if c.isprintable() else '?' for c in text)


def one_line(error: Exception) -> str:
  """A message as one line, whatever names of a file are in it."""
  line = printable(' '.join(str(error).split()))
  return line if len(line) <= _LONGEST else line[:_LONGEST] + ' ...'


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
  except (UserError, TrainingStopped, StorageError, PeerLost) as error:
    print(f'alexnet_jax: {one_line(error)}', file=sys.stderr, flush=True)
    if processes.several():
      processes.leave(error.status)
    if isinstance(error, StorageError):
      # Threads of Orbax may still be failing, each with a traceback.
      sys.stdout.flush()
      os._exit(error.status)
    sys.exit(error.status)
  except KeyboardInterrupt:
    print('alexnet_jax: interrupted', file=sys.stderr, flush=True)
    sys.exit(130)
  except BrokenPipeError:  # `... | head`: nobody reads any more.
    if processes.several():
      processes.leave(141)
    sys.stderr.close()
    sys.exit(141)
  except Exception:
    if not processes.several():
      raise
    traceback.print_exc()
    processes.leave(1)


def _quiet_libtpu() -> None:
  """Where there is no TPU, libtpu need not ask which it is."""
  if not glob.glob('/dev/accel*') and not glob.glob('/dev/vfio/[0-9]*'):
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')


def write_aside(path: str, write: Callable[[IO[bytes]], Any]) -> None:
  """Writes a local file that is either as before or whole, never half.

  Args:
    path: of the file.
    write: writes to an open file.
  """
  aside = pathlib.Path(path).with_name(f'.{pathlib.Path(path).name}.tmp')
  try:
    with aside.open('wb') as file:
      write(file)
    os.replace(aside, path)
  except (OSError, RuntimeError) as error:  # PyTorch's is a RuntimeError.
    raise StorageError(f'cannot write {path}: {error}') from error
  finally:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)
