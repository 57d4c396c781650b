"""What a command prints: progress, warnings, and errors as one line."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

_MAX_LENGTH = 1200
_RED, _YELLOW = 31, 33


def printable(text: str) -> str:
  """Replaces characters that would control a terminal by '?'.

  Example:
    >>> printable('a name\\x1b[2J')
    'a name?[2J'
  """
  return ''.join(c if c.isprintable() else '?' for c in text)


def escaped(text: str) -> str:
  """Writes characters that would control a terminal as Python does.

  Other than `printable`, it keeps different names different.

  Example:
    >>> escaped('a name\\x1b[2J')
    'a name\\\\x1b[2J'
  """
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
  )


def one_line(error: Exception | str) -> str:
  """Returns an error's message as one printable line of limited length."""
  line = printable(' '.join(str(error).split()))
  return line if len(line) <= _MAX_LENGTH else line[:_MAX_LENGTH] + ' ...'


def say(line: str) -> None:
  """Prints a line to stdout, above a progress bar if there is one."""
  if _is_first():
    tqdm.write(printable(line))
    # A pipe or a file should show it while the run continues.
    sys.stdout.flush()


def note(line: str) -> None:
  """Prints a line to stderr, where it does not mix with a command's output."""
  if _is_first():
    sys.stdout.flush()
    tqdm.write(f'alexnet_jax: {printable(line)}', file=sys.stderr)
    sys.stderr.flush()


def warn(line: str) -> None:
  """Prints a warning to stderr, in yellow on a terminal."""
  if _is_first():
    sys.stdout.flush()
    prefix = _colored('WARNING:', _YELLOW, sys.stderr)
    tqdm.write(f'alexnet_jax: {prefix} {printable(line)}', file=sys.stderr)
    sys.stderr.flush()


@contextlib.contextmanager
def patient(
  what: str, seconds: float = 10, tell: Callable[[str], None] = warn
) -> Iterator[None]:
  """Warns once if what is done inside it takes longer.

  Args:
    what: what is waited for.
    seconds: until the warning.
    tell: prints it. The default starts JAX, as only process 0 warns.
  """
  text = f'waiting for {what} for over {seconds:g} s'
  timer = threading.Timer(seconds, tell, [text])
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def print_error(error: Exception | str) -> None:
  """Prints an error to stderr as one line, its prefix in red on a terminal."""
  prefix = _colored('alexnet_jax:', _RED, sys.stderr)
  print(f'{prefix} {one_line(error)}', file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
  """Formats seconds as `45s`, `3m05s`, `2h10m` or `4d03h`.

  Example:
    >>> duration(185)
    '3m05s'
  """
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f'{days}d{h:02}h'
  if hours:
    return f'{hours}h{m:02}m'
  return f'{m}m{s:02}s' if minutes else f'{s}s'


def _colored(text: str, color: int, stream: TextIO | None) -> str:
  # https://no-color.org
  if stream is None or not stream.isatty() or os.environ.get('NO_COLOR'):
    return text
  return f'\x1b[1;{color}m{text}\x1b[0m'


def _is_first() -> bool:
  """Whether this is process 0, the only one of a run that prints."""
  import jax  # Takes a second, which a mistyped command should not wait for.

  return jax.process_index() == 0
