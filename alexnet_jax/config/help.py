"""`--help` of the commands that take a config: their flags, and its fields."""

import pathlib
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator

from absl import flags

from alexnet_jax.config.loading import (
  PACKAGED,
  flag_value,
  flatten,
  load,
  with_packaged,
)

_FLAGS = {'-h', '-help', '--help', '-helpshort', '--helpshort', '-helpfull',
          '--helpfull'}  # fmt: skip


def print_help_if_asked(argv: list[str], doc: str) -> None:
  """Prints the help and exits with status 0 if `argv` has --help.

  Args:
    argv: the command line, from the program's name on.
    doc: the docstring of the command.
  """
  if not _FLAGS & set(argv[1:]):
    return
  path = flag_value(with_packaged(argv), 'config')
  if path is None or not pathlib.Path(path.split(':')[0]).exists():
    path = str(PACKAGED / 'configs' / 'default.py')
  print(doc.strip())
  print('\nflags:')
  for flag in flags.FLAGS.get_key_flags_for_module(argv[0]):
    _print_entry(f'--{flag.name}', flag.help)
  name = pathlib.Path(path).name
  print(f'\nconfig fields (--config.FIELD=VALUE), with the values of {name}:')
  meanings = dict(_meanings((PACKAGED / 'configs' / 'default.py').read_text()))
  for name, value in flatten(load(path)).items():
    _print_entry(f'{name}={value!r}', meanings.get(name, ''))
  sys.exit(0)


def _print_entry(head: str, text: str) -> None:
  width = min(shutil.get_terminal_size().columns, 100)
  indent = 38
  lines = textwrap.wrap(' '.join(text.split()), width - indent) or ['']
  if len(head) > indent - 4:
    lines.insert(0, '')
  print(f'  {head:<{indent - 2}}{lines[0]}'.rstrip())
  for line in lines[1:]:
    print(' ' * indent + line)


def _meanings(source: str) -> Iterator[tuple[str, str]]:
  """Yields each field of a config file and the first sentence above it."""
  comment: list[str] = []
  for line in map(str.strip, source.splitlines()):
    if line.startswith('#'):
      comment.append(line.lstrip('# '))
    elif match := re.match(r'(?:config\.)?([a-z_0-9.]+) = ', line):
      sentence = re.match(r'.*?\.(?= |$)', ' '.join(comment))
      yield match[1], sentence[0].rstrip('.') if sentence else ''
      comment = []
    else:
      comment = []
