"""How runs answer a claim: by their errors, or by a difference of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from alexnet_jax.report.runs import Experiment, Run, mean_and_spread

# The paper's network, by its text and by its authors' code.
PAPERS = ('paper', 'krizhevsky2012')


@dataclasses.dataclass(frozen=True)
class Answer:
  """What some runs say to a claim.

  Attributes:
    data: the data set, and what its note says of it.
    text: the numbers.
    experiments: those whose numbers they are, and of which seeds.
  """

  data: str
  text: str
  experiments: tuple[tuple[Experiment, tuple[Any, ...]], ...]


def percent(values: Sequence[float], digits: int = 1) -> str:
  """'17.3%', or '17.3 ± 0.2%' of several seeds."""
  mean, spread = mean_and_spread([100 * value for value in values])
  if spread is None:
    return f'{mean:.{digits}f}%'
  return f'{mean:.{digits}f} ± {spread:.{digits}f}%'


def both_errors(experiment: Experiment) -> str:
  """Top-1 / top-5 validation errors."""
  return ' / '.join(percent(experiment.values(f'top{k}_error')) for k in (1, 5))


def data_of(experiment: Experiment) -> str:
  """The data set, and what the runs' note says of it."""
  note = experiment.note
  return experiment.data_name + (f' ({note})' if note else '')


def _seeds(runs: Sequence[Run]) -> tuple[Any, ...]:
  return tuple(run.seed for run in runs)


def scores(
  networks: Sequence[str],
  *,
  crops: int = 1,
  members: int = 1,
  data: str = 'imagenet2012',
  split: str = 'validation',
) -> Callable[[Sequence[Experiment]], list[Answer]]:
  """Answers by the errors of whole networks.

  Args:
    networks: which, by `model.name`.
    crops: on which they were scored.
    members: how many were averaged.
    data: the set's name, or that of its 256 x 256 form's source.
    split: the whole one that was scored.
  """

  def answers(experiments):
    found = []
    for e in experiments:
      models = _models(e)
      names = [str(model.get('model.name')) for model in models]
      if (
        e.scored
        and (e.data_name.split('_256')[0], e.crops) == (data, crops)
        and e.config['data.val_split'] == split
        and len(models) == members
        and set(names) <= set(networks)
        and all(map(_is_whole, models))
      ):
        trained = f' after {epochs_of(e)} epochs' if members == 1 else ''
        text = f'{both_errors(e)}, {", ".join(names)}{trained}'
        found.append(Answer(data_of(e), text, ((e, _seeds(e.scored)),)))
    return found

  return answers


def _models(experiment: Experiment) -> list[dict[str, Any]]:
  """What tells networks apart: one run's config, or each member's."""
  if 'members' not in experiment.config:
    return [experiment.config]
  members = experiment.runs[0].results.get('members')
  if not isinstance(members, list):
    return []
  return [m['config'] for m in members if _is_member(m)]


def _is_member(member: Any) -> bool:
  return isinstance(member, dict) and isinstance(member.get('config'), dict)


def _is_whole(config: dict[str, Any]) -> bool:
  """Whether nothing that the paper has is left out."""
  return (
    not config.get('model.ablations')
    and config.get('model.dropout_rate') is None
    and (
      config.get('model.name') not in PAPERS
      or config.get('data.lighting') == 'sqrt_eigenvalue'
    )
  )


def epochs_of(experiment: Experiment) -> str:
  """How long it was trained, by its logs."""
  last = [run.train[-1]['epoch'] for run in experiment.runs if run.train]
  return f'{max(last):.1f}'.removesuffix('.0') if last else '?'


def pairs(
  experiments: Sequence[Experiment], changes: dict[str, Any]
) -> list[tuple[Experiment, Experiment]]:
  """Experiments and what they were compared with, which differ in one thing.

  Args:
    experiments: all there are.
    changes: fields by dotted name ('crops' too) and what they are in the
      changed one.

  Returns:
    For each pair the unchanged one first.
  """

  def key(experiment):
    fields = experiment.compared | {'crops': experiment.crops}
    return {k: v for k, v in fields.items() if k not in changes}

  def changed(experiment):
    fields = experiment.compared | {'crops': experiment.crops}
    return all(fields.get(k) == v for k, v in changes.items())

  whole = [e for e in experiments if e.scored and 'members' not in e.config]
  return [
    (base, other)
    for other in whole
    if changed(other)
    for base in whole
    if not changed(base)
    and key(base) == key(other)
    # Of a field with many values (a rate) only the usual one.
    and _is_usual(base, changes)
  ]


def _is_usual(base: Experiment, changes: dict[str, Any]) -> bool:
  usual: dict[str, Any] = {
    'model.ablations': [],
    'model.dropout_rate': None,
    'data.lighting': 'sqrt_eigenvalue',
    'crops': 1,
  }
  fields = base.compared | {'crops': base.crops}
  return all(fields.get(name) == usual[name] for name in changes)


def difference(
  changes: dict[str, Any], networks: Callable[[str], bool] = lambda name: True
) -> Callable[[Sequence[Experiment]], list[Answer]]:
  """Answers by what becomes of the errors when a part is changed.

  Args:
    changes: as for `pairs`.
    networks: which ones, by `model.name`.
  """

  def answers(experiments):
    found = []
    for base, other in pairs(experiments, changes):
      if not networks(str(base.config.get('model.name'))):
        continue
      of_base = {run.seed: run for run in base.scored}
      common = [
        run
        for run in other.scored
        if run.seed in of_base
        # Crops are of one checkpoint.
        and (
          'crops' not in changes or _digest(run) == _digest(of_base[run.seed])
        )
      ]
      if not common:
        continue
      # Of both no more than the seeds that are compared.
      other = Experiment(other.name, tuple(common))
      base = Experiment(base.name, tuple(of_base[run.seed] for run in common))
      deltas = [
        _signed(
          [
            new - old
            for new, old in zip(
              other.values(name), base.values(name), strict=True
            )
          ]
        )
        for name in ('top1_error', 'top5_error')
      ]
      text = (
        f'{" / ".join(deltas)} points: {both_errors(other)} instead of '
        f'{both_errors(base)}; training error {_training(other)} instead of '
        f'{_training(base)}; {_speed(other)} images/s instead of '
        f'{_speed(base)}; {epochs_of(base)} epochs'
      )
      seeds = _seeds(common)
      found.append(Answer(data_of(base), text, ((other, seeds), (base, seeds))))
    return found

  return answers


def _digest(run: Run) -> Any:
  return run.results.get('params_digest')


def _signed(deltas: Sequence[float]) -> str:
  mean, spread = mean_and_spread([100 * delta for delta in deltas])
  return f'{mean:+.1f}' + ('' if spread is None else f' ± {spread:.1f}')


def _training(experiment: Experiment) -> str:
  values = experiment.values('train_top1_error')
  return percent(values) if values else 'not scored'


def _speed(experiment: Experiment) -> str:
  speeds = [
    run.images_per_second for run in experiment.runs if run.images_per_second
  ]
  return f'{mean_and_spread(speeds)[0]:,.0f}' if speeds else '?'
