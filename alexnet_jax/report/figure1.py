"""Figure 1: epochs to 25% training error, with ReLUs and with tanh units."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from alexnet_jax.report.answers import Answer, data_of
from alexnet_jax.report.runs import Experiment, Run, epochs_to, mean_and_spread

# Figure 1 counts epochs to this training error.
ERROR = 0.25


@dataclasses.dataclass(frozen=True)
class Rate:
  """One learning rate of Figure 1.

  Attributes:
    experiment: the runs at this rate.
    epochs: to 25% training error, of each seed that reached it.
  """

  experiment: Experiment
  epochs: dict[Any, float]

  @property
  def rate(self) -> float:
    """The learning rate."""
    return self.experiment.config['optimizer.learning_rate']

  @property
  def missed(self) -> list[Run]:
    """Runs that went on for longer than the others and did not get there."""
    longest = max(self.epochs.values(), default=0.0)
    return [
      run
      for run in self.experiment.runs
      if run.seed not in self.epochs
      and run.train
      and run.train[-1]['epoch'] >= longest
    ]

  @property
  def mean(self) -> float:
    """Epochs, over seeds; infinite where one did not get there."""
    if self.missed or not self.epochs:
      return float('inf')
    return mean_and_spread(list(self.epochs.values()))[0]


@dataclasses.dataclass(frozen=True)
class Figure1:
  """The rates of Figure 1's two networks, the fastest first.

  Attributes:
    relu: those of the network with ReLUs.
    tanh: those with tanh units.
  """

  relu: list[Rate]
  tanh: list[Rate]

  @property
  def ratio(self) -> tuple[float, float | None] | None:
    """Tanh's epochs over ReLU's at their fastest rates, and the spread.

    Paired by seed; where no seed is common, of the means. None where one of
    the two did not get there.
    """
    if not (self.relu and self.tanh):
      return None
    fast, slow = self.relu[0], self.tanh[0]
    if float('inf') in (fast.mean, slow.mean):
      return None
    common = sorted(fast.epochs.keys() & slow.epochs)
    if not common:
      return slow.mean / fast.mean, None
    return mean_and_spread([slow.epochs[s] / fast.epochs[s] for s in common])


def figure_1(experiments: Sequence[Experiment]) -> Figure1:
  """Figure 1 from the runs that there are, finished or not.

  All are on one data set and differ in units, rate and length alone; of
  several such sets the one with the most.
  """
  free = ('model.ablations', 'optimizer.learning_rate', 'num_epochs')
  sets: dict[str, list[Experiment]] = {}
  for experiment in experiments:
    if experiment.config.get('model.name') == 'cifar10_relu':
      fields = {k: v for k, v in experiment.compared.items() if k not in free}
      key = json.dumps([fields, experiment.note], sort_keys=True)
      sets.setdefault(key, []).append(experiment)
  found: dict[str, list[Rate]] = {'': [], 'tanh': []}
  for experiment in max(sets.values(), key=len, default=[]):
    units = '+'.join(experiment.config['model.ablations'])
    if units in found:
      epochs = {
        run.seed: reached
        for run in experiment.runs
        if (reached := epochs_to(run.train, ERROR)) is not None
      }
      found[units].append(Rate(experiment, epochs))

  def fastest_first(rate: Rate) -> tuple[float, float]:
    return rate.mean, rate.rate

  return Figure1(
    relu=sorted(found[''], key=fastest_first),
    tanh=sorted(found['tanh'], key=fastest_first),
  )


def answer(experiments: Sequence[Experiment]) -> list[Answer]:
  """The ratio at the fastest rates, in words; nothing if one is missing."""
  figure = figure_1(experiments)
  if not figure.ratio:
    return []
  mean, spread = figure.ratio
  fast, slow = figure.relu[0], figure.tanh[0]
  text = (
    f'{mean:.1f}{"" if spread is None else f" ± {spread:.1f}"} times: '
    f'{slow.mean:.1f} epochs at rate {slow.rate:g} against {fast.mean:.1f} at '
    f'{fast.rate:g}'
  )
  for name, rates in (('ReLU', figure.relu), ('tanh', figure.tanh)):
    tried = [one.rate for one in rates]
    if rates[0].rate in (min(tried), max(tried)):
      text += f'; {name} was not tried on both sides of its rate'
  used = tuple(
    (rate.experiment, tuple(sorted(rate.epochs))) for rate in (fast, slow)
  )
  return [Answer(data_of(fast.experiment), text, used)]
