"""Figure 1: epochs to 25% training error, with ReLUs and with tanh units."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from alexnet_jax.report.answers import Answer
from alexnet_jax.report.experiments import Experiment, mean_and_spread
from alexnet_jax.report.logs import epochs_to

# Figure 1 counts epochs to this training error.
ERROR = 0.25


@dataclasses.dataclass(frozen=True)
class Trial:
  """One learning rate.

  Attributes:
    experiment: the runs with it.
    epochs: to 25% training error, of each seed that reached it.
  """

  experiment: Experiment
  epochs: dict[Any, float]

  @property
  def learning_rate(self) -> float:
    """The learning rate."""
    return self.experiment.config['optimizer.learning_rate']

  @property
  def mean(self) -> float:
    """Mean epochs over seeds.

    Infinite if a seed trained for longer than the others without reaching 25%.
    """
    longest = max(self.epochs.values(), default=0.0)
    missed = any(
      run.seed not in self.epochs
      and run.train
      and run.train[-1]['epoch'] >= longest
      for run in self.experiment.runs
    )
    if missed or not self.epochs:
      return float('inf')
    return mean_and_spread(list(self.epochs.values()))[0]


@dataclasses.dataclass(frozen=True)
class Figure1:
  """Learning rates of Figure 1's two networks, the fastest first.

  Attributes:
    relu: the learning rates of the network with ReLUs.
    tanh: the learning rates of the network with tanh units.
  """

  relu: list[Trial]
  tanh: list[Trial]

  @property
  def ratios(self) -> tuple[float, ...]:
    """Tanh's epochs over ReLU's at their fastest learning rates.

    Of each seed that both have, or the ratio of means if they have none in
    common. Empty if one of the two did not reach 25%.
    """
    if not (self.relu and self.tanh):
      return ()
    fast, slow = self.relu[0], self.tanh[0]
    if float('inf') in (fast.mean, slow.mean):
      return ()
    common = sorted(fast.epochs.keys() & slow.epochs)
    if not common:
      return (slow.mean / fast.mean,)
    return tuple(slow.epochs[s] / fast.epochs[s] for s in common)


def figure_1(experiments: Sequence[Experiment]) -> Figure1:
  """Returns Figure 1 from runs, finished or not.

  Its runs differ only in units, learning rate and length. If there are several
  such groups, the largest one is used.
  """
  free = ('model.ablations', 'optimizer.learning_rate', 'num_epochs')
  groups: dict[str, list[Experiment]] = {}
  for experiment in experiments:
    if experiment.config.get('model.name') == 'cifar10_relu':
      fields = {k: v for k, v in experiment.compared.items() if k not in free}
      key = json.dumps([fields, experiment.note], sort_keys=True)
      groups.setdefault(key, []).append(experiment)
  found: dict[str, list[Trial]] = {'': [], 'tanh': []}
  for experiment in max(groups.values(), key=len, default=[]):
    units = '+'.join(experiment.config['model.ablations'])
    if units in found:
      epochs = {
        run.seed: reached
        for run in experiment.runs
        if (reached := epochs_to(run.train, ERROR)) is not None
      }
      found[units].append(Trial(experiment, epochs))

  def fastest_first(trial: Trial) -> tuple[float, float]:
    return trial.mean, trial.learning_rate

  return Figure1(
    relu=sorted(found[''], key=fastest_first),
    tanh=sorted(found['tanh'], key=fastest_first),
  )


def answer(experiments: Sequence[Experiment]) -> list[Answer]:
  """Answers with the ratio at the fastest learning rates, if both are known."""
  figure = figure_1(experiments)
  if not figure.ratios:
    return []
  mean, spread = mean_and_spread(figure.ratios)
  fast, slow = figure.relu[0], figure.tanh[0]
  note = (
    f'tanh takes {slow.mean:.1f} epochs at learning rate '
    f'{slow.learning_rate:g}, ReLU {fast.mean:.1f} at {fast.learning_rate:g}'
  )
  for name, trials in (('ReLU', figure.relu), ('tanh', figure.tanh)):
    tried = [one.learning_rate for one in trials]
    if tried[0] in (min(tried), max(tried)):
      note += f'; {name} was not tried at learning rates on both sides'
  return [
    Answer(
      f'{mean:.1f}{"" if spread is None else f" ± {spread:.1f}"} times',
      fast.experiment.data_name,
      '',
      tuple(
        (one.experiment, tuple(sorted(one.epochs))) for one in (fast, slow)
      ),
      note=note,
      changes=figure.ratios,
    )
  ]
