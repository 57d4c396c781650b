"""One self-contained HTML page."""

import importlib.resources
import re
from collections.abc import Sequence

import jinja2
import markupsafe

import alexnet_jax
from alexnet_jax.report import answers, charts, figure1, figure_files, views
from alexnet_jax.report.experiments import Experiment

SECTIONS = (
  ('claims', 'Claims'),
  ('runs', 'Runs'),
  ('curves', 'Curves'),
  ('figure1', 'Figure 1'),
  ('figure3', 'Figure 3'),
  ('figure4', 'Figure 4'),
  ('confused', 'Confused classes'),
  ('configs', 'Configs'),
)


def html(experiments: Sequence[Experiment]) -> str:
  """Returns the page, with its images and styles in it."""
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined
  )
  environment.filters['ticks'] = _ticks
  template = importlib.resources.files(__package__) / 'page.html'
  runs = [run for experiment in experiments for run in experiment.runs]
  shown = views.context(experiments)
  figure = figure1.figure_1(experiments)
  units = [
    (name, trials)
    for name, trials in (('ReLU', figure.relu), ('tanh', figure.tanh))
    if trials
  ]
  return environment.from_string(template.read_text()).render(
    version=alexnet_jax.__version__,
    sections=SECTIONS,
    **shown,
    comparisons=[
      {
        **row,
        'panels': _overlaid(row['claim'].what, *row['compared_experiments']),
      }
      # Those with most seeds first.
      for row in sorted(shown['measured'], key=lambda row: -row['num_seeds'])
      if row['compared_experiments']
    ],
    curves=[
      {
        **row,
        'panels': _panels(experiment, row['id']),
        'drops': views.dropped_at(experiment),
      }
      for row, experiment in zip(shown['experiments'], experiments, strict=True)
      if any(run.train or run.validation for run in experiment.runs)
    ],
    runs=[views.run_details(run) for run in runs],
    num_scored=sum(run.scored for run in runs),
    figure1=charts.svg(
      charts.figure_1(figure),
      charts.FIGURE_1_SIZE,
      'Training error against epochs, ReLU and tanh',
    )
    if units
    else '',
    figure1_answer=figure1.answer(experiments),
    figure1_trials=[
      (name, f'{one.learning_rate:g}', views.epochs_to_target(one))
      for name, trials in units
      for one in sorted(trials, key=lambda one: one.learning_rate)
    ],
    figure1_commands=[_search_command(name, trials) for name, trials in units],
    figure3=figure_files.for_page(sorted(experiments, key=_order), ['figure3']),
    confused=[
      row
      for row, _ in sorted(
        zip(shown['experiments'], experiments, strict=True),
        key=lambda one: _order(one[1]),
      )
      if row['confused']
    ],
    figure4=figure_files.for_page(experiments, list(figure_files.FIGURE_4)),
  )


def _order(experiment: Experiment) -> tuple[bool, float]:
  """Sorts the paper's unchanged network and longer trainings first."""
  changed = experiment.network not in answers.PAPERS
  return changed, -float(answers.epochs_of(experiment) or 0)


def _panels(experiment: Experiment, name: str) -> list[str]:
  return [
    charts.svg(
      charts.panel(experiment, field),
      charts.PANEL_SIZE,
      f'{field} of {name} against epochs',
    )
    for field in charts.PANELS
  ]


def _overlaid(
  what: str, changed: Experiment, unchanged: Experiment
) -> list[str]:
  return [
    charts.svg(
      charts.comparison(unchanged, changed, split),
      charts.PANEL_SIZE,
      f'{split} error against epochs: {what}, {changed.name}',
    )
    for split in ('validation', 'train')
  ]


def _search_command(units: str, trials: Sequence[figure1.Trial]) -> str:
  rates = sorted({f'{one.learning_rate:g}' for one in trials})
  name = f'fig1_{units.lower()}'
  return (
    f'python -m alexnet_jax.learning_rates --config=configs/paper/{name}.py '
    f'--rates={",".join(rates)} --workdir=runs/{name}'
  )


def _ticks(text: str) -> markupsafe.Markup:
  """Returns text with what is in backticks as code."""
  escaped = str(markupsafe.escape(text))
  return markupsafe.Markup(re.sub('`([^`]*)`', r'<code>\1</code>', escaped))
