"""One self-contained HTML page, and the same tables in Markdown."""

import base64
import hashlib
import importlib.resources
import json
import pathlib
import re
import struct
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

import alexnet_jax
from alexnet_jax.data import imagenet
from alexnet_jax.report import charts, claims
from alexnet_jax.report.runs import Experiment, Run, drops, mean_and_spread

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
_CONFUSED = 5


def html(experiments: Sequence[Experiment]) -> str:
  """The page: pictures and styles are in it, nothing is fetched."""
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined
  )
  environment.filters['ticks'] = _ticks
  template = importlib.resources.files(__package__) / 'page.html'
  figure = claims.figure_1(experiments)
  answer = claims.figure_1_answer(experiments)
  runs = [run for experiment in experiments for run in experiment.runs]
  return environment.from_string(template.read_text()).render(
    version=alexnet_jax.__version__,
    sections=SECTIONS,
    claims=_claims(experiments),
    experiments=[_experiment(e) for e in experiments],
    runs=[_run(run) for run in runs],
    num_scored=sum(run.scored for run in runs),
    figure1=charts.svg(
      charts.figure_1(figure),
      charts.FIGURE_1_SIZE,
      'Training error against epochs, ReLU and tanh',
    )
    if figure.relu or figure.tanh
    else '',
    figure1_text=f'Ratio: {answer[0].text}.' if answer else '',
    figure1_rates=[
      (units, f'{e.config.get("optimizer.learning_rate")}', told)
      for units, entries in (('ReLU', figure.relu), ('tanh', figure.tanh))
      for e, epochs in sorted(
        entries, key=lambda x: x[0].config.get('optimizer.learning_rate') or 0
      )
      for told in [_epochs(e, epochs)]
    ],
    figure3=_kernels(experiments),
    figure4=_figure_4(experiments),
  )


def markdown(experiments: Sequence[Experiment]) -> str:
  """Claims and runs as two tables."""
  lines = [
    '## What the paper says, and what was found',
    '',
    "| claim | paper | its authors' notebook | ours |",
    '|---|---|---|---|',
  ]
  for claim in _claims(experiments):
    ours = '<br>'.join(
      f'**{_cell(answer["data"])}**: {_cell(answer["text"])} ('
      + '; '.join(
        f'{_cell(e["name"])}, {e["seeds"]}' for e in answer['experiments']
      )
      + ')'
      for answer in claim['found']
    )
    ours = ours or f'not run: {claim["how"]}'
    lines.append(
      f'| {claim["what"]} ({claim["source"]}) | {claim["paper"]} | '
      f'{claim["notebook"]} | {ours} |'
    )
  return '\n'.join([*lines, '', '## The runs', '', runs_table(experiments)])


def runs_table(experiments: Sequence[Experiment]) -> str:
  """Every experiment with its errors, seeds and command, in Markdown."""
  lines = [
    '| experiment | data | network, training | epochs | error, top-1 / top-5 |'
    ' training error | images/s | seeds | command |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for experiment in experiments:
    view = _experiment(experiment)
    told = '<br>'.join(
      f'{_cell(problem["name"])}: {_cell(problem["text"])}'
      for problem in view['problems']
    )
    errors = '<br>'.join(text for text in (view['errors'], told) if text)
    command = _short_command(view['commands'])
    cells = [
      *(view['name'], view['data'], view['network'], view['epochs']),
    ]
    lines.append(
      '| '
      + ' | '.join(
        [
          *map(_cell, cells),
          errors,
          view['training_error'] or '-',
          view['speed'] or '-',
          view['seeds'],
          command,
        ]
      )
      + ' |'
    )
  return '\n'.join(lines) + '\n'


def _short_command(commands: list[str]) -> str:
  """Of all seeds one, without its seed: 'seeds' has them."""
  if not commands:
    return '-'
  words = commands[0].split(' ')
  words = [w for w in words if not w.startswith('--config.seed=')]
  return f'`{_cell(" ".join(words))}`'


def _cell(text: str) -> str:
  """Text for a Markdown table's cell, whatever is in it."""
  return re.sub(r'\s+', ' ', str(text)).replace('|', r'\|').replace('<', '&lt;')


def _ticks(text: str) -> markupsafe.Markup:
  """`name` as code."""
  escaped = str(markupsafe.escape(text))
  return markupsafe.Markup(re.sub('`([^`]*)`', r'<code>\1</code>', escaped))


def _id(experiment: Experiment) -> str:
  path = str(experiment.runs[0].path)
  digest = hashlib.sha1(path.encode()).hexdigest()[:8]
  return f'run-{re.sub(r"[^a-zA-Z0-9]+", "-", experiment.name)}-{digest}'


def _seeds(seeds: Sequence[Any]) -> str:
  known = [str(seed) for seed in seeds if seed is not None]
  if not known:
    return 'no seed'
  return ('seed ' if len(known) == 1 else 'seeds ') + ', '.join(known)


def _claims(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
  return [
    {
      'what': claim.what,
      'source': claim.source,
      'paper': claim.paper,
      'notebook': claim.notebook,
      'how': claim.how,
      'found': [
        {
          'data': answer.data,
          'text': answer.text,
          'experiments': [
            {'id': _id(e), 'name': e.name, 'seeds': _seeds(seeds)}
            for e, seeds in answer.experiments
          ],
        }
        for answer in claim.answers(experiments)
      ],
    }
    for claim in claims.CLAIMS
  ]


def _experiment(experiment: Experiment) -> dict[str, Any]:
  training = experiment.values('train_top1_error')
  speeds = [r.images_per_second for r in experiment.runs if r.images_per_second]
  times = [r.training_seconds for r in experiment.scored if r.training_seconds]
  crops = '' if experiment.crops in (1, None) else f', {experiment.crops} crops'
  note = f' ({experiment.note})' if experiment.note else ''
  marks = sorted({round(e, 2) for r in experiment.runs for e, _ in drops(r)})
  has_log = any(run.train or run.validation for run in experiment.runs)
  return {
    'id': _id(experiment),
    'name': experiment.name,
    'data': experiment.data_name + note,
    'network': experiment.network + _changes(experiment) + crops,
    'epochs': _trained(experiment),
    # Whose errors they are; the others are told of below.
    'seeds': 'of ' + ', '.join(experiment.config['members'])
    if 'members' in experiment.config
    else _seeds([run.seed for run in experiment.scored or experiment.runs]),
    'errors': claims.both_errors(experiment) if experiment.scored else '',
    'training_error': claims.percent(training) if training else '',
    'speed': f'{mean_and_spread(speeds)[0]:,.0f}' if speeds else '',
    'time': _duration(mean_and_spread(times)[0]) if times else '',
    'problems': [
      {'name': run.name, 'text': '; '.join(run.problems)}
      for run in experiment.runs
      if run.problems
    ],
    'commands': _commands(experiment),
    'drops': ', '.join(f'{mark:.1f}' for mark in marks),
    'confused': _confused(experiment),
    'curves': [
      charts.svg(
        charts.panel(experiment, field),
        charts.PANEL_SIZE,
        f'{field} of {_id(experiment)} against epochs',
      )
      for field in charts.PANELS
      if has_log
    ],
  }


def _changes(experiment: Experiment) -> str:
  """What an ablation changes that is not of the network."""
  if 'members' in experiment.config:
    return ''  # Each has its own.
  lighting = experiment.config.get('data.lighting')
  rate = experiment.config.get('optimizer.learning_rate')
  told = f', rate {rate:g}' if isinstance(rate, int | float) else ''
  return told + (', no lighting' if lighting == 'none' else '')


def _trained(experiment: Experiment) -> str:
  last = [run.train[-1]['epoch'] for run in experiment.runs if run.train]
  return f'{max(last):.3g}' if last else ''


def _commands(experiment: Experiment) -> list[str]:
  found = []
  for run in experiment.runs:
    commands = run.results.get('commands')
    if isinstance(commands, list):
      found += [str(command) for command in commands if command]
  return list(dict.fromkeys(found))


def _confused(experiment: Experiment) -> list[tuple[str, str, str]]:
  """The pairs with the greatest share, over all seeds."""
  sums: dict[tuple[str, str], list[int]] = {}
  for run in experiment.scored:
    pairs = run.results.get('most_confused')
    for pair in pairs if isinstance(pairs, list) else []:
      try:
        key = str(pair['label']), str(pair['predicted'])
        count, of = int(pair['count']), int(pair['of'])
      except (KeyError, TypeError, ValueError):
        continue
      sums.setdefault(key, [0, 0])
      sums[key][0] += count
      sums[key][1] = max(sums[key][1], of)
  number = len(experiment.scored)
  rows = sorted(sums.items(), key=lambda x: -x[1][0] / max(x[1][1], 1))
  return [
    (
      imagenet.words(label).split(',')[0],
      imagenet.words(predicted).split(',')[0],
      f'{count / max(of * number, 1):.0%} ({count} of {of * number})',
    )
    for (label, predicted), (count, of) in rows[:_CONFUSED]
  ]


def _run(run: Run) -> dict[str, Any]:
  versions = run.results.get('versions')
  told = 'Versions are not recorded.'
  if isinstance(versions, dict):
    told = ', '.join(f'{name} {version}' for name, version in versions.items())
    told += f'; {run.results.get("devices", "devices are not recorded")}'
  return {
    'name': run.name,
    'problems': '; '.join(run.problems),
    'versions': told,
    'config': '\n'.join(
      f'{field} = {json.dumps(value)}'
      for field, value in sorted(run.config.items())
    )
    or 'no config',
  }


def _epochs(experiment: Experiment, reached: dict[Any, float]) -> str:
  if reached:
    values = list(reached.values())
    mean, spread = mean_and_spread(values)
    told = f'{mean:.2f}' + ('' if spread is None else f' ± {spread:.2f}')
    return f'{told} ({_seeds(list(reached))})'
  return f'not within {_trained(experiment) or 0} epochs'


def _picture(path: pathlib.Path, **facts: str) -> dict[str, Any]:
  content = path.read_bytes()
  if content[:8] != b'\x89PNG\r\n\x1a\n' or len(content) < 24:
    return {}
  width, height = struct.unpack('>II', content[16:24])
  data = base64.b64encode(content).decode()
  return {
    'data': f'data:image/png;base64,{data}',
    'width': width,
    'height': height,
    **facts,
  }


def _kernels(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
  found = []
  for experiment in experiments:
    for run in experiment.runs:
      if run.kernels:
        found.append(_picture(run.kernels, name=run.name))
        break  # One seed's kernels are like another's.
  return [picture for picture in found if picture]


def _figure_4(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
  found = []
  for experiment in experiments:
    for run in experiment.runs:
      for name, what in (
        ('figure4_labels.png', 'the five likeliest labels'),
        ('figure4_neighbors.png', 'the nearest training pictures'),
      ):
        path = run.figure(name)
        if path:
          found.append(_picture(path, name=run.name, what=what))
  return [picture for picture in found if picture]


def _duration(seconds: float) -> str:
  minutes = seconds / 60
  return f'{minutes / 60:.1f} h' if minutes >= 90 else f'{minutes:.0f} min'
