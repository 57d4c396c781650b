"""One self-contained HTML page, and the same tables in Markdown."""

import base64
import hashlib
import importlib.resources
import json
import os
import re
import struct
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

import alexnet_jax
from alexnet_jax.data import imagenet
from alexnet_jax.report import answers, charts, claims, figure1, reading
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
  figure = figure1.figure_1(experiments)
  answer = figure1.answer(experiments)
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
    figure1_text=f'Tanh to ReLU: {answer[0].text}.' if answer else '',
    figure1_rates=[
      (units, f'{one.rate:g}', _epochs(one))
      for units, rates in (('ReLU', figure.relu), ('tanh', figure.tanh))
      for one in sorted(rates, key=lambda one: one.rate)
    ],
    figure1_commands=[
      'python -m alexnet_jax.learning_rates '
      f'--config=configs/paper/fig1_{units}.py --rates='
      f'{",".join(sorted({f"{one.rate:g}" for one in rates}))} '
      f'--workdir=runs/fig1_{units}'
      for units, rates in (('relu', figure.relu), ('tanh', figure.tanh))
      if rates
    ],
    figure3=_figures(experiments, ['figure3']),
    figure4=_figures(experiments, list(FIGURE_4)),
  )


def markdown(experiments: Sequence[Experiment]) -> str:
  """Claims and runs as two tables."""
  return '\n'.join(
    [
      '## What the paper says, and what was found',
      '',
      _claims_table(_claims(experiments)),
      '## The runs',
      '',
      runs_table(experiments),
    ]
  )


def summary(experiments: Sequence[Experiment]) -> str:
  """The claims that runs answer, and the runs that are finished, as tables."""
  answered = [claim for claim in _claims(experiments) if claim['found']]
  finished = [experiment for experiment in experiments if experiment.scored]
  return f'{_claims_table(answered)}\n{runs_table(finished)}'


def _claims_table(found: list[dict[str, Any]]) -> str:
  lines = [
    "| claim | paper | its authors' notebook | ours |",
    '|---|---|---|---|',
  ]
  for claim in found:
    ours = '<br>'.join(
      f'**{_cell(answer["data"])}**: {_cell(answer["text"])} ('
      + '; '.join(
        f'{_cell(e["name"])}, {e["seeds"]}' for e in answer['experiments']
      )
      + ')'
      for answer in claim['found']
    )
    lines.append(
      f'| {claim["what"]} ({claim["source"]}) | {claim["paper"]} | '
      f'{claim["notebook"]} | {ours or "not run: " + claim["how"]} |'
    )
  return '\n'.join(lines) + '\n'


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
          _cell(view['seeds']),
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
  # A run, and how it was scored again.
  scored = [c for c in commands if '--mode=eval' in c]
  told = dict.fromkeys([commands[0], *scored[:1]])
  return ', then '.join(f'`{_seedless(command)}`' for command in told)


def _seedless(command: str) -> str:
  words = [w for w in command.split(' ') if not w.startswith('--config.seed=')]
  return _cell(' '.join(words)).replace('`', '')


def _cell(content: Any) -> str:
  """Text for a Markdown table's cell, whatever is in it."""
  line = re.sub(r'\s+', ' ', str(content))
  return line.replace('|', r'\|').replace('<', '&lt;')


def _ticks(text: str) -> markupsafe.Markup:
  """`name` as code."""
  escaped = str(markupsafe.escape(text))
  return markupsafe.Markup(re.sub('`([^`]*)`', r'<code>\1</code>', escaped))


def _id(experiment: Experiment) -> str:
  path = str(experiment.runs[0].path)
  digest = hashlib.sha1(os.fsencode(path)).hexdigest()[:8]
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
    'errors': answers.both_errors(experiment) if experiment.scored else '',
    'training_error': answers.percent(training) if training else '',
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
  """Epochs, and at which of them it was scored if not at the last."""
  if not any(run.train for run in experiment.runs):
    return ''
  told = answers.epochs_of(experiment)
  at = {
    run.results['epoch']
    for run in experiment.scored
    if reading.is_number(run.results.get('epoch'))
    and abs(run.results['epoch'] - run.train[-1]['epoch']) > 0.01
  }
  scored = ', '.join(f'{epoch:.1f}' for epoch in sorted(at))
  return f'{told}, scored at {scored}' if scored else told


def _commands(experiment: Experiment) -> list[str]:
  found = []
  for run in experiment.runs:
    commands = run.results.get('commands')
    if isinstance(commands, list):
      found += [str(command) for command in commands if command]
  return list(dict.fromkeys(found))


def _confused(experiment: Experiment) -> dict[str, Any] | None:
  """The most confused pairs of the first seed that tells them."""
  for run in experiment.scored:
    pairs = run.results.get('most_confused')
    rows = []
    for pair in pairs if isinstance(pairs, list) else []:
      try:
        label, predicted = str(pair['label']), str(pair['predicted'])
        count, of = int(pair['count']), int(pair['of'])
      except (KeyError, TypeError, ValueError):
        continue
      names = [imagenet.words(n).split(',')[0] for n in (label, predicted)]
      rows.append((*names, f'{count / max(of, 1):.0%} ({count} of {of})'))
    if rows:
      return {'run': run.name, 'rows': rows[:_CONFUSED]}
  return None


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


def _epochs(rate: figure1.Rate) -> str:
  runs = rate.experiment.runs
  told = []
  if rate.epochs:
    mean, spread = mean_and_spread(list(rate.epochs.values()))
    text = f'{mean:.2f}' + ('' if spread is None else f' ± {spread:.2f}')
    told.append(f'{text} ({_seeds(sorted(rate.epochs))})')
  if late := [run for run in runs if run.seed not in rate.epochs]:
    last = max((run.train[-1]['epoch'] for run in late if run.train), default=0)
    seeds = _seeds([run.seed for run in late])
    told.append(f'not within {last:.2f} epochs ({seeds})')
  return '; '.join(told)


def pictures(run: Run) -> dict[str, bytes]:
  """Figures 3 and 4 that lie in a run's folder, by their names.

  Files that are no PNG are left out.
  """
  files = {'figure3': run.kernels}
  files |= {name: run.figure(f'{name}.png') for name in FIGURE_4}
  found = {}
  for name, path in files.items():
    try:
      content = path.read_bytes() if path else b''
    except OSError:
      continue
    if content.startswith(_PNG) and content.endswith(_PNG_END):
      found[name] = content
  return found


def _drawn_by(run: Run) -> str:
  """By which command, at which step and by which draw Figure 4 was made."""
  try:
    content = json.loads((run.path / 'figures.json').read_text())
    return reading.text(
      f'step {content["step"]}, draw {content["seed"]}, {content["command"]}'
    )
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return 'no figures.json tells by which command'


FIGURE_4 = {
  'figure4_labels': 'the five likeliest labels',
  'figure4_neighbors': 'the nearest training pictures',
}
_PNG = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND\xaeB`\x82'


def of_experiment(experiment: Experiment) -> dict[str, tuple[Run, bytes]]:
  """Of each figure the first run that has it, and the picture."""
  found: dict[str, tuple[Run, bytes]] = {}
  for run in experiment.runs:
    for name, content in pictures(run).items():
      found.setdefault(name, (run, content))
  return found


def _figures(
  experiments: Sequence[Experiment], names: Sequence[str]
) -> list[dict[str, Any]]:
  """What the template shows of pictures."""
  shown = []
  for experiment in experiments:
    for name, (run, content) in of_experiment(experiment).items():
      if name in names:
        width, height = struct.unpack('>II', content[16:24])
        data = base64.b64encode(content).decode()
        shown.append(
          {
            'data': f'data:image/png;base64,{data}',
            'width': width,
            'height': height,
            'name': run.name,
            'what': FIGURE_4.get(name, ''),
            'drawn_by': _drawn_by(run) if name in FIGURE_4 else '',
          }
        )
  return shown


def _duration(seconds: float) -> str:
  minutes = seconds / 60
  return f'{minutes / 60:.1f} h' if minutes >= 90 else f'{minutes:.0f} min'
