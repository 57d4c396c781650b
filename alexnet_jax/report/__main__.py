"""The paper on one page: `python -m alexnet_jax.report RUN... --out=report`.

A RUN is a workdir, or one without its checkpoints (config.json, results.json,
metrics.jsonl), or a folder that holds such. Into --out go

  index.html   one page, with all in it: nothing is fetched
  results.md   its tables in Markdown
  *.png        its charts and figures

A run that is unfinished, or lacks a file, is told of in its row.

Exit status: 0 done; 2 a usage error; 3 the page cannot be written.
"""

import pathlib
import re
import sys

from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.cli.terminal import printable
from alexnet_jax.report import charts, figure1, page, reading, runs

# Of the letters of a run's name in that of a file.
_LONGEST = 80
_TABLE = re.compile(
  '(<!-- results -->\n).*?(<!-- end of results -->)', re.DOTALL
)


def write(experiments: list[runs.Experiment], out: pathlib.Path) -> None:
  """Writes the page, the tables and the pictures into a folder.

  Pictures that an earlier report left there are removed.
  """
  taken: set[str] = set()
  try:
    out.mkdir(parents=True, exist_ok=True)
    if (out / 'index.html').exists():
      for pattern in ('curves-*.png', 'figure[134]*.png'):
        for path in out.glob(pattern):
          path.unlink()
    for experiment in experiments:
      stem = _unlike(taken, experiment.runs[0].name)
      if any(one.train or one.validation for one in experiment.runs):
        width, height = charts.PANEL_SIZE
        path = out / f'curves-{stem}.png'
        charts.png(charts.curves(experiment), (2 * width, height), path)
      for name, (_, picture) in page.of_experiment(experiment).items():
        (out / f'{name}-{stem}.png').write_bytes(picture)
    figure = figure1.figure_1(experiments)
    if figure.relu or figure.tanh:
      path = out / 'figure1.png'
      charts.png(charts.figure_1(figure), charts.FIGURE_1_SIZE, path)
  except OSError as error:
    raise StorageError(f'cannot write into {out}: {error}') from error
  _write_text(out / 'results.md', page.markdown(experiments))
  _write_text(out / 'index.html', page.html(experiments))


def _unlike(taken: set[str], name: str) -> str:
  """A file's name for a run's, with a number if another has it."""
  name = re.sub(r'\W+', '-', name).strip('-')[:_LONGEST] or 'run'
  stem, number = name, 2
  while stem in taken:
    stem, number = f'{name}-{number}', number + 1
  taken.add(stem)
  return stem


def _write_text(path: pathlib.Path, text: str) -> None:
  write_file(str(path), lambda file: file.write(text.encode()))


def update_readme(experiments: list[runs.Experiment], path: str) -> None:
  """Puts what was found, and the finished runs, between a file's two marks.

  Raises:
    UserError: it is not there, or has no marks.
  """
  try:
    before = pathlib.Path(path).read_text()
  except (OSError, ValueError) as error:
    raise UserError(f'cannot read {path} (--readme): {error}') from error
  if not _TABLE.search(before):
    raise UserError(
      f'{path} (--readme) has no place for the table: put <!-- results --> and '
      '<!-- end of results --> on lines of their own'
    )
  # What was not run or not finished is told of on the page.
  table = page.summary(experiments)
  after = _TABLE.sub(lambda match: match[1] + table + match[2], before)
  _write_text(pathlib.Path(path), after)


def main(argv: list[str]) -> None:
  """Makes the page as the arguments say."""
  parser = Parser('report', __doc__)
  parser.add_argument('runs', metavar='RUN', nargs='+')
  parser.add_argument('--out', default='report', metavar='DIR')
  parser.add_argument(
    '--readme',
    metavar='FILE.md',
    help='put what was found between its <!-- results --> marks, too',
  )
  flags = parser.parse_args(argv)
  out = pathlib.Path(flags.out)
  try:
    is_file = out.exists() and not out.is_dir()
  except OSError as error:
    raise UserError(f'--out={out}: {error}') from error
  if is_file:
    raise UserError(f'{out} (--out) is a file')
  if any((out / name).exists() for name in runs.FILES):
    raise UserError(f'{out} (--out) is a run: name another folder')
  found = runs.find(flags.runs)
  experiments = runs.group(runs.read_all(found))
  write(experiments, out)
  if flags.readme:
    update_readme(experiments, flags.readme)
  for experiment in experiments:
    for one in experiment.runs:
      if one.problems:
        told = f'{one.path}: {"; ".join(one.problems)}'
        print(printable(reading.text(told)), file=sys.stderr)
  print(out / 'index.html')


if __name__ == '__main__':
  run(main, sys.argv[1:])
