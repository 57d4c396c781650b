"""What a command prints: progress, warnings, and errors as one line."""

import sys

from tqdm import tqdm

_LONGEST = 1200


def printable(text: str) -> str:
  """A text of unknown origin without what would steer a terminal."""
  return ''.join(c if c.isprintable() else '?' for c in text)


def one_line(error: Exception) -> str:
  """A message as one line, whatever names of a file are in it."""
  line = printable(' '.join(str(error).split()))
  return line if len(line) <= _LONGEST else line[:_LONGEST] + ' ...'


def say(line: str) -> None:
  """One line on stdout, above a progress bar if there is one."""
  if _is_first():
    tqdm.write(printable(line))
    # Into a pipe or a file too, while the run goes on.
    sys.stdout.flush()


def warn(line: str) -> None:
  """One line on stderr that is not to be overlooked."""
  if _is_first():
    sys.stdout.flush()
    tqdm.write(f'alexnet_jax: WARNING: {printable(line)}', file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
  """`45s`, `3m05s`, `2h10m`, `4d03h`."""
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f'{days}d{h:02}h'
  if hours:
    return f'{hours}h{m:02}m'
  return f'{m}m{s:02}s' if minutes else f'{s}s'


def _is_first() -> bool:
  """Whether this is the one of a run's processes that prints."""
  import jax  # It takes a second, and a mistyped command does without.

  return jax.process_index() == 0
