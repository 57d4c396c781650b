"""How runs answer a claim: with their errors, or a difference of errors."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from alexnet_jax.report.experiments import Experiment, mean_and_spread

# The paper's network: as its text has it, and as its authors' code has it.
PAPERS = ('paper', 'krizhevsky2012')


@dataclasses.dataclass(frozen=True)
class Answer:
  """What some runs measured for a claim.

  Attributes:
    number: the result: errors, differences in points, or a ratio.
    dataset: its name, and what else of the unchanged network is unusual.
    epochs: how long the networks were trained; empty if unknown.
    experiments: those used, each with the seeds that count.
    compared: of a difference: the errors changed and unchanged, then the
      training errors, then images/s.
    note: what else must be known about the number.
    changes: of each pair of seeds, the top-1 change in points, or a ratio.
  """

  number: str
  dataset: str
  epochs: str
  experiments: tuple[tuple[Experiment, tuple[Any, ...]], ...]
  compared: tuple[str, ...] = ()
  note: str = ''
  changes: tuple[float, ...] = ()


def percent(values: Sequence[float]) -> str:
  """Returns the mean in percent, with the spread over several seeds.

  Example:
    >>> percent([0.173]), percent([0.17, 0.18]), percent([])
    ('17.3%', '17.5 ± 0.7%', '-')
  """
  if not values:
    return '-'
  mean, spread = mean_and_spread([100 * value for value in values])
  return f'{mean:.1f}%' if spread is None else f'{mean:.1f} ± {spread:.1f}%'


def both_errors(experiment: Experiment) -> str:
  """Returns the top-1 / top-5 errors; '-' where there is none."""
  return ' / '.join(percent(experiment.values(f'top{k}_error')) for k in (1, 5))


def training_error(experiment: Experiment) -> str:
  """Returns the top-1 error on the training split; '-' if not evaluated."""
  return percent(experiment.values('train_top1_error'))


def images_per_second(experiment: Experiment) -> str:
  """Returns the mean training speed of its runs; '-' if not logged."""
  speeds = [r.images_per_second for r in experiment.runs if r.images_per_second]
  return f'{mean_and_spread(speeds)[0]:,.0f}' if speeds else '-'


def scores(
  networks: Sequence[str],
  *,
  crops: int = 1,
  members: int = 1,
  data: str = 'imagenet2012',
  split: str = 'validation',
) -> Callable[[Sequence[Experiment]], list[Answer]]:
  """Returns a function that answers with the errors of unchanged networks.

  Args:
    networks: which ones, by `model.name`.
    crops: the number of crops per image.
    members: how many networks were averaged.
    data: the dataset; its 256 x 256 form counts, too.
    split: the split that was evaluated.
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
        and all(map(_is_unchanged, models))
      ):
        seeds = tuple(run.seed for run in e.scored)
        found.append(
          Answer(
            both_errors(e),
            e.data_name,
            epochs_of(e),
            ((e, seeds),),
            note=', '.join(names),
          )
        )
    return found

  return answers


def _models(experiment: Experiment) -> list[dict[str, Any]]:
  """Returns the config of its network, or of each averaged network."""
  if 'members' not in experiment.config:
    return [experiment.config]
  members = experiment.runs[0].results.get('members')
  return [
    member['config']
    for member in (members if isinstance(members, list) else [])
    if isinstance(member, dict) and isinstance(member.get('config'), dict)
  ]


def _is_unchanged(config: dict[str, Any]) -> bool:
  """Returns whether the network has every part that the paper has."""
  return (
    not config.get('model.ablations')
    and config.get('model.dropout_rate') is None
    and config.get('data.train_crop') != 'center'
    and (
      config.get('model.name') not in PAPERS
      or config.get('data.lighting') == 'sqrt_eigenvalue'
    )
  )


def epochs_of(experiment: Experiment) -> str:
  """Returns how long it was trained, by its logs; empty without one."""
  last = [run.train[-1]['epoch'] for run in experiment.runs if run.train]
  return f'{max(last):.1f}'.removesuffix('.0') if last else ''


def pairs(
  experiments: Sequence[Experiment], changes: dict[str, Any]
) -> list[tuple[Experiment, Experiment]]:
  """Returns pairs of experiments that differ in exactly one thing.

  Args:
    experiments: to choose from.
    changes: fields by dotted name ('crops' too), with their values in the
      changed experiment.

  Returns:
    (unchanged, changed) pairs.
  """

  def fields_of(experiment):
    return experiment.compared | {'crops': experiment.crops}

  def key(experiment):
    fields = fields_of(experiment)
    return {k: v for k, v in fields.items() if k not in changes}

  def has(experiment, values):
    fields = fields_of(experiment)
    return all(fields.get(name) == values[name] for name in changes)

  scored = [e for e in experiments if e.scored and 'members' not in e.config]
  return [
    (base, other)
    for other in scored
    if has(other, changes)
    for base in scored
    # A dropout rate has many values; only the usual one is the base.
    if has(base, _USUAL) and not has(base, changes) and key(base) == key(other)
  ]


# The values of an unchanged network.
_USUAL: dict[str, Any] = {
  'model.ablations': [],
  'model.dropout_rate': None,
  'data.lighting': 'sqrt_eigenvalue',
  'data.train_crop': 'random',
  'data.flip': True,
  'crops': 1,
}


def difference(
  changes: dict[str, Any], networks: Callable[[str], bool] = lambda name: True
) -> Callable[[Sequence[Experiment]], list[Answer]]:
  """Returns a function that answers with differences, paired by seed.

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
        (run, of_base[run.seed])
        for run in other.scored
        if run.seed in of_base
        # Crops are compared on one checkpoint.
        and (
          'crops' not in changes or _digest(run) == _digest(of_base[run.seed])
        )
      ]
      if not common:
        continue
      seeds = tuple(run.seed for run, _ in common)
      of_top1, of_top5 = (_changes(common, f'top{k}_error') for k in (1, 5))
      # Only the seeds that both have.
      both = (
        Experiment(other.name, tuple(new for new, _ in common)),
        Experiment(base.name, tuple(old for _, old in common)),
      )
      found.append(
        Answer(
          ' / '.join(map(_with_spread, (of_top1, of_top5))),
          _conditions(base),
          epochs_of(base),
          ((other, seeds), (base, seeds)),
          tuple(
            cell(one)
            for cell in (both_errors, training_error, images_per_second)
            for one in both
          ),
          changes=of_top1,
        )
      )
    return found

  return answers


def _conditions(base):
  """Returns its dataset, and what else of it is unusual."""
  parts = [base.data_name, *base.config['model.ablations']]
  return ', '.join(parts + ['ten crops'] * (base.crops == 10))


def _digest(run):
  return run.results.get('params_digest')


def _changes(common, name: str) -> tuple[float, ...]:
  """Returns each seed's difference in points; empty without the error."""
  return tuple(
    100 * (new.results[name] - old.results[name])
    for new, old in common
    if None not in (new.results[name], old.results[name])
  )


def _with_spread(changes: Sequence[float]) -> str:
  if not changes:
    return '-'
  mean, spread = mean_and_spread(changes)
  return f'{mean:+.1f}' + ('' if spread is None else f' ± {spread:.1f}')
