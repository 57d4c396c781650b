"""Writes the page, its charts and tables, and the tables of documents."""

import operator
import pathlib
import re
from collections.abc import Sequence

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.files import write_file, write_text
from alexnet_jax.report import charts, figure1, figure_files, page, tables
from alexnet_jax.report.experiments import Experiment

# Letters of a run's name that go into a file's name.
_LONGEST = 80


def write(experiments: Sequence[Experiment], out: pathlib.Path) -> None:
  """Writes the page, the tables and the charts into a folder.

  Removes the charts and figures of an earlier report.

  Raises:
    StorageError: the folder cannot be written.
  """
  used: set[str] = set()
  try:
    out.mkdir(parents=True, exist_ok=True)
    if (out / 'index.html').exists():
      for pattern in ('curves-*.png', 'figure[134]*.png'):
        for path in out.glob(pattern):
          path.unlink()
    for experiment in experiments:
      stem = _unused_stem(used, experiment.runs[0].name)
      if any(run.train or run.validation for run in experiment.runs):
        width, height = charts.PANEL_SIZE
        path = out / f'curves-{stem}.png'
        charts.png(charts.curves(experiment), (2 * width, height), path)
      figures = figure_files.of_experiment(experiment)
      for name, (_, content) in figures.items():
        path = out / f'{name}-{stem}.png'
        write_file(path, operator.methodcaller('write', content))
    figure = figure1.figure_1(experiments)
    if figure.relu or figure.tanh:
      path = out / 'figure1.png'
      charts.png(charts.figure_1(figure), charts.FIGURE_1_SIZE, path)
  except OSError as error:
    raise StorageError(f'cannot write into {out}: {error}') from error
  write_text(out / 'results.md', tables.markdown(experiments))
  write_text(out / 'index.html', page.html(experiments))


def _unused_stem(used: set[str], name: str) -> str:
  """Returns a run's name as a file name, numbered if it is in use."""
  name = re.sub(r'\W+', '-', name).strip('-')[:_LONGEST] or 'run'
  stem, number = name, 2
  while stem in used:
    stem, number = f'{name}-{number}', number + 1
  used.add(stem)
  return stem


def replace_marked(texts: dict[str, tuple[str, str]]) -> None:
  """Replaces what is between the two marks of some files, or of none.

  Args:
    texts: by flag, the path of a file and the lines for it.

  Raises:
    UserError: a file cannot be read, or has no marks; none was written.
  """
  written = {}
  for flag, (path, text) in texts.items():
    try:
      before = pathlib.Path(path).read_text()
    except (OSError, ValueError) as error:
      raise UserError(f'cannot read {path} ({flag}): {error}') from error
    head, mark, rest = before.partition('<!-- results -->\n')
    _, end, tail = rest.partition('<!-- end of results -->')
    if not mark or not end:
      raise UserError(
        f'{path} ({flag}) has no marks for the tables: put <!-- results --> '
        'and <!-- end of results --> on lines of their own'
      )
    written[path] = head + mark + text + end + tail
  for path, text in written.items():
    write_text(pathlib.Path(path), text)
