"""Groups runs that differ only in their seed into experiments."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from typing import Any

from alexnet_jax.config.saved import FREE_FIELDS
from alexnet_jax.report import reading
from alexnet_jax.report.runs import Run

# Fields in which the seeds of one experiment may differ. (results.json has the
# crops that were evaluated.)
_NOT_COMPARED = (*FREE_FIELDS, 'seed', 'eval.crops', 'members')


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Runs that differ only in their seed.

  Attributes:
    name: the name of the folder that holds the seeds.
    runs: sorted by seed.
  """

  name: str
  runs: tuple[Run, ...]

  @property
  def config(self) -> dict[str, Any]:
    """The first seed's config, by dotted field."""
    return self.runs[0].config

  @property
  def scored(self) -> tuple[Run, ...]:
    """The runs whose errors count."""
    return tuple(run for run in self.runs if run.scored)

  @property
  def crops(self) -> int | None:
    """The number of crops per image it was evaluated on."""
    return self.runs[0].crops

  @property
  def data_name(self) -> str:
    """The dataset's name, without its version."""
    return str(self.config.get('data.name', '?')).split(':')[0]

  @property
  def network(self) -> str:
    """The network and its changes, such as `paper, no_lrn, dropout 0`."""
    if 'members' in self.config:
      members = self.runs[0].results.get('members')
      number = len(members) if isinstance(members, list) else '?'
      return f'{number} networks averaged'
    parts = [str(self.config.get('model.name', '?'))]
    parts += map(str, self.config.get('model.ablations') or [])
    if self.config.get('model.dropout_rate') is not None:
      parts.append(f'dropout {self.config["model.dropout_rate"]:g}')
    if self.config.get('data.train_crop') == 'center':
      parts.append('no crops')
    if self.config.get('model.dtype', 'float32') != 'float32':
      parts.append(str(self.config['model.dtype']))
    return ', '.join(parts)

  @property
  def note(self) -> str:
    """The text of its runs' note.txt."""
    return self.runs[0].note

  @property
  def compared(self) -> dict[str, Any]:
    """The fields of its config that distinguish it from other experiments."""
    return compared(self.config)

  def values(self, field: str) -> list[float]:
    """A field of results.json, from each scored run that has it."""
    return [
      run.results[field]
      for run in self.scored
      if reading.is_number(run.results.get(field))
    ]


def group(runs: Sequence[Run]) -> list[Experiment]:
  """Groups runs into experiments, in the order given.

  The second run of one experiment and seed is excluded, as a problem.
  """
  groups: dict[str, dict[Any, Run]] = {}
  for i, run in enumerate(runs):
    key, seed = str(i), run.seed
    # Ensembles, and runs without a config, are not grouped.
    if run.config and 'members' not in run.config:
      fields = [compared(run.config), run.crops, run.note]
      key = json.dumps(fields, sort_keys=True)
    of_key = groups.setdefault(key, {})
    if seed in of_key:
      problem = f'the same experiment and seed as {of_key[seed].name}'
      run = dataclasses.replace(run, problems=(*run.problems, problem))
      of_key[seed, i] = run
    else:
      of_key[seed] = run
  return [
    Experiment(
      next(iter(members.values())).name.rsplit('/', 1)[0],
      tuple(
        sorted(members.values(), key=lambda run: (run.seed or 0, run.name))
      ),
    )
    for members in groups.values()
  ]


def compared(config: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields in which different experiments may differ.

  Example:
    >>> compared({'seed': 1, 'model.name': 'paper'})
    {'model.name': 'paper'}
  """
  return {
    field: value
    for field, value in config.items()
    if field not in _NOT_COMPARED
  }


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
  """Returns the mean and the standard deviation (n - 1; None for one value).

  Example:
    >>> mean_and_spread([1.0, 2.0, 3.0])
    (2.0, 1.0)
  """
  spread = statistics.stdev(values) if len(values) > 1 else None
  return statistics.fmean(values), spread
