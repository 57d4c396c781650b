"""What the page and the Markdown tables show, as text."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from alexnet_jax.data import imagenet
from alexnet_jax.report import (
  answers,
  claims,
  figure1,
  logs,
  reading,
  verdicts,
)
from alexnet_jax.report.answers import Answer
from alexnet_jax.report.experiments import Experiment, mean_and_spread
from alexnet_jax.report.runs import Run

_CONFUSED = 5
_UNANSWERED = Answer('', '', '', ())


def context(experiments: Sequence[Experiment]) -> dict[str, Any]:
  """Returns what page.html and tables.md have in common."""
  rows = [
    _claim(claim, answer, i)
    for claim in claims.CLAIMS
    for i, answer in enumerate(claim.answers(experiments) or [_UNANSWERED])
  ]
  measured = [row for row in rows if row['runs']]
  _add_plots(measured)
  return {
    'measured': measured,
    'answered': [row for row in measured if row['plot']],
    'not_run': [row for row in rows if not row['runs']],
    'experiments': [_experiment(experiment) for experiment in experiments],
    'stopped': [
      {'name': run.name, 'text': run.stopped}
      for experiment in experiments
      for run in experiment.runs
      if run.stopped and not run.problems
    ],
    'problems': [
      {'name': run.name, 'text': '; '.join(run.problems)}
      for experiment in experiments
      for run in experiment.runs
      if run.problems
    ],
  }


def _claim(claim: claims.Claim, answer: Answer, number: int) -> dict[str, Any]:
  """Returns the row of a claim's answer; its first one has its note."""
  epochs = f', {answer.epochs} epochs' if answer.epochs else ''
  note = '' if number else claim.note
  return {
    'claim': claim,
    'ours': answer.number,
    'note': note + (f' Here: {answer.note}.' if answer.note else ''),
    'conditions': answer.dataset + epochs,
    'compared': answer.compared,
    # The changed and the unchanged seeds, unless they have one log.
    'compared_experiments': tuple(
      Experiment(e.name, tuple(run for run in e.scored if run.seed in seeds))
      for e, seeds in answer.experiments
    )
    if answer.compared and not _same_log(answer)
    else (),
    **_judged(claim, answer),
    'runs': [
      {'id': _id(e), 'name': e.name, 'seeds': seeds_text(seeds)}
      for e, seeds in answer.experiments
    ],
    'num_seeds': len(answer.experiments[0][1]) if answer.experiments else 0,
  }


def _same_log(answer: Answer) -> bool:
  """Returns whether one training was evaluated in two ways."""
  (changed, _), (unchanged, _) = answer.experiments
  return changed.compared == unchanged.compared


def _judged(claim: claims.Claim, answer: Answer) -> dict[str, Any]:
  """Returns the interval over seeds, the verdict, and what would tell more."""
  expected, changes = claim.expected, answer.changes
  found = verdicts.interval(changes)
  if not changes:
    return {'mean': '-', 'interval': '-', 'verdict': '-', 'needed': '',
            'measured': None}  # fmt: skip
  unchanged = expected.unchanged if expected else 0.0
  word = verdicts.verdict(changes, expected) if expected else '-'
  sign = '' if unchanged else '+'
  return {
    'mean': f'{mean_and_spread(changes)[0]:{sign}.1f}',
    'interval': f'{found.low:{sign}.1f} to {found.high:{sign}.1f}'
    if found
    else '-',
    'verdict': word,
    'needed': verdicts.seeds_to_tell(changes, unchanged)
    if word == verdicts.CANNOT_TELL
    else '',
    'measured': found,
  }


def _add_plots(rows: Sequence[dict[str, Any]]) -> None:
  """Adds `plot` to rows: the places of an interval's marks; None without one.

  They are in percent of the axis. All differences share one axis; a ratio's
  begins at 0.
  """
  marks = [_marks(row['claim'].expected, row['measured']) for row in rows]
  shared = [
    place for one in marks if not one.get('unchanged') for place in one.values()
  ]
  for row, one in zip(rows, marks, strict=True):
    ends = [0.0, *one.values()] if one.get('unchanged') else shared
    row['plot'] = _places(one, min(ends), max(ends)) if one else None


def _marks(
  expected: verdicts.Expected | None, found: verdicts.Interval | None
) -> dict[str, float]:
  """Returns the values that are drawn of an interval; empty without one."""
  if not found:
    return {}
  unchanged = expected.unchanged if expected else 0.0
  marks = {**dataclasses.asdict(found), 'unchanged': unchanged}
  # A claim without a number has only a direction.
  if expected and expected.low != unchanged:
    marks['claimed'] = expected.low
  return marks


def _places(
  marks: dict[str, float], first: float, last: float
) -> dict[str, float | None]:
  margin = 0.05 * (last - first) or 1.0
  length = last - first + 2 * margin
  places = {
    name: round(100 * (value - first + margin) / length, 2)
    for name, value in marks.items()
  }
  return {'claimed': None, **places}


def seeds_text(seeds: Sequence[Any]) -> str:
  """Returns seeds in words.

  Example:
    >>> seeds_text([0, 1]), seeds_text([2]), seeds_text([None])
    ('seeds 0, 1', 'seed 2', 'no seed')
  """
  known = [str(seed) for seed in seeds if seed is not None]
  if not known:
    return 'no seed'
  return ('seed ' if len(known) == 1 else 'seeds ') + ', '.join(known)


def _experiment(experiment: Experiment) -> dict[str, Any]:
  """Returns an experiment's row in the table of runs, and its commands."""
  scored, config = experiment.scored, experiment.config
  # Each network of an ensemble has its own.
  own = {} if 'members' in config else config
  no_lighting = ', no lighting' if own.get('data.lighting') == 'none' else ''
  crops = '' if experiment.crops in (1, None) else f', {experiment.crops} crops'
  times = [run.training_seconds for run in scored if run.training_seconds]
  return {
    'id': _id(experiment),
    'name': experiment.name,
    'data': experiment.data_name,
    'note': experiment.note,
    'network': experiment.network,
    'changes': no_lighting + crops,
    'learning_rate': own.get('optimizer.learning_rate', '-'),
    'epochs': _trained(experiment),
    # The seeds whose errors these are.
    'seeds': 'of ' + ', '.join(config['members'])
    if 'members' in config
    else seeds_text([run.seed for run in scored or experiment.runs]),
    'resumed': '; '.join(
      f'seed {run.seed} {run.resumed}'
      for run in scored or experiment.runs
      if run.resumed
    ),
    'num_seeds': len(scored) if own else 0,
    'errors': _errors(experiment),
    'training_error': answers.training_error(experiment),
    'speed': answers.images_per_second(experiment),
    'time': _duration(mean_and_spread(times)[0]) if times else '-',
    'commands': _commands(experiment),
    'confused': _confused(experiment),
  }


def _errors(experiment: Experiment) -> str:
  if experiment.scored:
    return answers.both_errors(experiment)
  return 'stopped' if experiment.runs[0].stopped else 'excluded'


def _id(experiment: Experiment) -> str:
  path = str(experiment.runs[0].path)
  digest = hashlib.sha1(os.fsencode(path)).hexdigest()[:8]
  return f'run-{re.sub(r"[^a-zA-Z0-9]+", "-", experiment.name)}-{digest}'


def _trained(experiment: Experiment) -> str:
  """Returns the epochs, and the one evaluated if it is not the last."""
  at = {
    run.results['epoch']
    for run in experiment.scored
    if run.train
    and reading.is_number(run.results.get('epoch'))
    and abs(run.results['epoch'] - run.train[-1]['epoch']) > 0.01
  }
  evaluated = ', '.join(f'{epoch:.1f}' for epoch in sorted(at))
  epochs = answers.epochs_of(experiment) or '-'
  return f'{epochs}, evaluated at {evaluated}' if evaluated else epochs


def _commands(experiment: Experiment) -> list[str]:
  found = []
  for run in experiment.runs:
    commands = run.results.get('commands')
    if isinstance(commands, list):
      found += [str(command) for command in commands if command]
  return list(dict.fromkeys(found))


def _confused(experiment: Experiment) -> dict[str, Any] | None:
  """Returns the most confused pairs of the first seed that recorded them."""
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


def dropped_at(experiment: Experiment) -> str:
  """Returns the epochs at which its learning rate fell."""
  epochs = {
    round(e, 2) for r in experiment.runs for e, _ in logs.drops(r.train)
  }
  return ', '.join(f'{epoch:.1f}' for epoch in sorted(epochs))


def run_details(run: Run) -> dict[str, Any]:
  """Returns a run's versions and exact config."""
  versions = run.results.get('versions')
  text = 'versions unknown'
  if isinstance(versions, dict):
    text = ', '.join(f'{name} {version}' for name, version in versions.items())
    text += f'; {run.results.get("devices", "devices unknown")}'
  return {
    'name': run.name,
    'is_excluded': bool(run.problems),
    'versions': text,
    'config': '\n'.join(
      f'{field} = {json.dumps(value)}'
      for field, value in sorted(run.config.items())
    )
    or 'no config',
  }


def epochs_to_target(trial: figure1.Trial) -> str:
  """Returns the epochs to 25% training error of a learning rate's seeds."""
  runs, texts = trial.experiment.runs, []
  if trial.epochs:
    mean, spread = mean_and_spread(list(trial.epochs.values()))
    text = f'{mean:.2f}' + ('' if spread is None else f' ± {spread:.2f}')
    texts.append(f'{text} ({seeds_text(sorted(trial.epochs))})')
  if late := [run for run in runs if run.seed not in trial.epochs]:
    last = max((run.train[-1]['epoch'] for run in late if run.train), default=0)
    seeds = seeds_text([run.seed for run in late])
    texts.append(f'not within {last:.2f} epochs ({seeds})')
  return '; '.join(texts)


def _duration(seconds: float) -> str:
  minutes = seconds / 60
  return f'{minutes / 60:.1f} h' if minutes >= 90 else f'{minutes:.0f} min'
