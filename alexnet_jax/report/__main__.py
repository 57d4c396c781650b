"""Compares the paper's claims with your runs, on one HTML page.

Writes into --out:

  index.html   the page; it works offline
  results.md   its tables in Markdown
  *.png        its charts and figures

A RUN is a workdir, or a folder of workdirs. Of a workdir, config.json,
results.json and metrics.jsonl are enough. Runs that differ only in their seed
are averaged. Incomplete or mismatched runs are listed with the reason and
excluded from averages.

Example:

  python -m alexnet_jax.report runs --out=report

Exit status: 0 done; 2 a usage error; 3 the page cannot be written.
"""

import sys

from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import folder_of
from alexnet_jax.cli.terminal import printable


def main(argv: list[str]) -> None:
  """Writes the page that the arguments describe."""
  parser = Parser('report', __doc__)
  add = parser.add_argument
  add('runs', metavar='RUN', nargs='+',
      help='workdir, or folder of workdirs, local or gs://')  # fmt: skip
  add(
    '--out',
    default='report',
    metavar='DIR',
    help='folder to write into, local or gs:// (default: report)',
  )
  add('--readme', metavar='FILE.md',
      help='also write a summary into this file, between its <!-- results --> '
      'and <!-- end of results --> marks (default: none)')  # fmt: skip
  add('--results', metavar='FILE.md',
      help='the same for all tables (default: none)')  # fmt: skip
  flags = parser.parse_args(argv)
  out = folder_of(flags.out, '--out')
  try:
    is_file = out.exists() and not out.is_dir()
  except OSError as error:
    raise UserError(f'--out={out}: {error}') from error
  if is_file:
    raise UserError(f'{out} (--out) is a file: name a folder')
  # Matplotlib takes half a second to import; --help should not wait for it.
  from alexnet_jax.report import experiments, output, reading, runs, tables

  if any((out / name).exists() for name in runs.FILES):
    raise UserError(f'{out} (--out) is a run: name another folder')
  found = experiments.group(runs.read_all(runs.find(flags.runs)))
  texts = {
    '--readme': (flags.readme, tables.summary(found)),
    '--results': (flags.results, tables.markdown(found)),
  }
  output.replace_marked({k: v for k, v in texts.items() if v[0]})
  output.write(found, out)
  for one in (one for experiment in found for one in experiment.runs):
    if one.problems:
      line = f'{one.path}: {"; ".join(one.problems)}'
      print(printable(reading.text(line)), file=sys.stderr)
  print(out / 'index.html')


if __name__ == '__main__':
  run(main, sys.argv[1:])
