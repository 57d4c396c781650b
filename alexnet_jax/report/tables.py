"""The page's tables in Markdown, and a short summary for README.md."""

import importlib.resources
import re
from collections.abc import Sequence
from typing import Any

import jinja2

from alexnet_jax.report import views
from alexnet_jax.report.experiments import Experiment

# Rows of the summary.
_MOST = 8
_SUMMARY = """\
| experiment | published | ours | verdict | dataset | seeds |
|---|---|---|---|---|---|
{% for row in rows %}|{% for text in row %} {{ text }} |{% endfor %}
{% endfor %}"""


def markdown(experiments: Sequence[Experiment]) -> str:
  """Returns all tables, with their notes and commands."""
  template = importlib.resources.files(__package__) / 'tables.md'
  return _render(template.read_text(), **views.context(experiments))


def summary(experiments: Sequence[Experiment]) -> str:
  """Returns at most eight rows: top-1 errors, and claims with a verdict.

  The results with the most seeds come first. A network has its longest training
  on each dataset. Networks called `narrow_...` are not shown.
  """
  shown = views.context(experiments)
  used = {run['id'] for row in shown['measured'] for run in row['runs']}
  rows = [
    (f'`{e["network"]}`, error', 'n/a', _top1(e['errors']), 'n/a',
     f'{e["data"]}, {e["epochs"]} epochs', e['num_seeds'])
    for e in _longest(shown['experiments'])
    if e['num_seeds'] and e['id'] not in used
    and not e['network'].startswith('narrow_')
  ] + [
    (f'{row["claim"].what} ({row["claim"].source})',
     _top1(row['claim'].published), _top1(row['ours']),
     'n/a' if row['verdict'] == '-' else row['verdict'],
     row['conditions'], row['num_seeds'])
    for row in shown['answered']
  ]  # fmt: skip
  rows.sort(key=lambda row: -row[-1])
  return _render(_SUMMARY, rows=rows[:_MOST])


def _longest(experiments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the longest of the scored runs of each network and dataset."""
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for e in experiments:
    key = e['network'].removesuffix(', bfloat16'), e['data']
    if not e['num_seeds']:
      continue
    if key not in found or _number(e['epochs']) > _number(found[key]['epochs']):
      found[key] = e
  return list(found.values())


def _number(text: Any) -> float:
  try:
    return float(text)
  except (TypeError, ValueError):  # '-': averaged networks.
    return 0.0


def _top1(numbers: str) -> str:
  """Returns the first of 'TOP-1 / TOP-5', with the unit of a difference."""
  first = numbers.split(' / ')[0]
  if first == '-':
    return 'n/a'
  return f'{first} points' if re.search(r'[-+]\d', first) else first


def _render(template: str, **context: Any) -> str:
  # Every value becomes text that cannot end a cell or a mark.
  environment = jinja2.Environment(
    undefined=jinja2.StrictUndefined, finalize=_cell
  )
  environment.filters['short'] = _short
  return environment.from_string(template).render(context)


def _cell(value: Any) -> str:
  """Returns a value of any origin as one line, for a cell of a table."""
  line = re.sub(r'\s+', ' ', str(value))
  return line.replace('|', r'\|').replace('<', '&lt;')


def _short(commands: Sequence[str]) -> str:
  """Returns one seed's command without the seed, and how it was evaluated."""
  evaluated = [c for c in commands if '--mode=eval' in c]
  shown = dict.fromkeys([commands[0], *evaluated[:1]])
  return ', then '.join(f'`{_seedless(command)}`' for command in shown)


def _seedless(command: str) -> str:
  words = [w for w in command.split(' ') if not w.startswith('--config.seed=')]
  return ' '.join(words).replace('`', '')
