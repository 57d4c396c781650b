"""What the paper and its authors' notebook say, and how runs answer.

The notebook is that of 2012, published with the code:
computerhistory/AlexNet-Source-Code. Errors are top-1 / top-5 in per cent.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from alexnet_jax.report.runs import (
  Experiment,
  Run,
  epochs_to,
  mean_and_spread,
)

# Figure 1 counts epochs to this training error.
FIGURE_1_ERROR = 0.25
_CIFAR_NETWORK = 'cifar10_local'
_MAIN = 'python -m alexnet_jax.main --config=configs/'
# Of the last step, as training scores it, and not of the best.
_TEN_CROPS = '--mode=eval --config.eval.step=latest --config.eval.crops=10'


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


@dataclasses.dataclass(frozen=True)
class Claim:
  """One line of the table.

  Attributes:
    what: is claimed.
    source: section, table or figure.
    paper: its number.
    notebook: the run of the authors' notebook, and its number.
    how: what to type where nothing was run, in backticks, or what is missing.
    answers: from experiments.
  """

  what: str
  source: str
  paper: str
  notebook: str
  how: str
  answers: Callable[[Sequence[Experiment]], list[Answer]]


def percent(values: Sequence[float], digits: int = 1) -> str:
  """'17.3%', or '17.3 ± 0.2%' of several seeds."""
  mean, spread = mean_and_spread([100 * value for value in values])
  if spread is None:
    return f'{mean:.{digits}f}%'
  return f'{mean:.{digits}f} ± {spread:.{digits}f}%'


def both_errors(experiment: Experiment) -> str:
  """Top-1 / top-5 validation errors."""
  return ' / '.join(percent(experiment.values(f'top{k}_error')) for k in (1, 5))


def _nothing(experiments: Sequence[Experiment]) -> list[Answer]:
  del experiments
  return []


def _data(experiment: Experiment) -> str:
  note = experiment.note
  return experiment.data_name + (f' ({note})' if note else '')


def _seeds(runs: Sequence[Run]) -> tuple[Any, ...]:
  return tuple(run.seed for run in runs)


_PAPERS = ('paper', 'krizhevsky2012')


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
        found.append(Answer(_data(e), text, ((e, _seeds(e.scored)),)))
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
      config.get('model.name') not in _PAPERS
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
      found.append(Answer(_data(base), text, ((other, seeds), (base, seeds))))
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
        if (reached := epochs_to(run.train, FIGURE_1_ERROR)) is not None
      }
      found[units].append(Rate(experiment, epochs))

  def fastest_first(rate: Rate) -> tuple[float, float]:
    return rate.mean, rate.rate

  return Figure1(
    relu=sorted(found[''], key=fastest_first),
    tanh=sorted(found['tanh'], key=fastest_first),
  )


def figure_1_answer(experiments: Sequence[Experiment]) -> list[Answer]:
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
  return [Answer(_data(fast.experiment), text, used)]


def _ablation(name: str) -> str:
  return f'`{_MAIN}paper/{name}.py` and `base.py`'


def _with_ten_crops(config: str) -> str:
  return f'`{_MAIN}{config}.py`, then the same with `{_TEN_CROPS}`'


CLAIMS: tuple[Claim, ...] = (
  Claim(
    'One network, ILSVRC-2010 test set, ten crops',
    'Table 1',
    '37.5 / 17.0%',
    '145-2010: 37.473 / 16.999%',
    'ILSVRC-2010 is no TFDS set; prepare it as one, then '
    f'`{_MAIN}imagenet_krizhevsky2012.py '
    '--config.data.name=imagenet2010 --config.data.val_split=test`, and the '
    f'same with `{_TEN_CROPS}`',
    scores(_PAPERS, crops=10, data='imagenet2010', split='test'),
  ),
  Claim(
    'The same on one central crop',
    'section 4.1',
    '39.0 / 18.3%',
    '145-2010: 39.025 / 18.295%',
    'as above',
    scores(_PAPERS, data='imagenet2010', split='test'),
  ),
  Claim(
    'One network, ILSVRC-2012 validation, ten crops',
    'Table 2',
    '40.7 / 18.2%',
    '145: 40.664 / 18.210%',
    _with_ten_crops('imagenet'),
    scores(_PAPERS, crops=10),
  ),
  Claim(
    'Five networks averaged',
    'Table 2',
    '38.1 / 16.4%',
    '-',
    f'`{_MAIN}imagenet.py --config.seed=SEED --workdir=DIR` five times, then '
    f'`{_MAIN}imagenet.py {_TEN_CROPS} --workdir=DIR,DIR,DIR,DIR,DIR`',
    scores(_PAPERS, members=5, crops=10),
  ),
  Claim(
    'One network, pre-trained on ImageNet-2011',
    'Table 2',
    '39.0 / 16.6%',
    '-',
    'the Fall 2011 release is no TFDS set, and its network of six '
    'convolutions is not among ours',
    _nothing,
  ),
  Claim(
    'Seven networks averaged, two of them pre-trained',
    'Table 2',
    '36.7 / 15.4%',
    '-',
    'as above, for two of the seven',
    _nothing,
  ),
  Claim(
    'Ten crops instead of the centre',
    'section 4.1',
    '-1.5 / -1.3 points (2010)',
    '145-2010: -1.552 / -1.296',
    f'`{_MAIN}paper/base.py`, then `paper/ten_crops.py` with '
    '`--mode=eval` on a copy of its workdir',
    difference({'crops': 10}),
  ),
  Claim(
    'One column of half the kernels instead of two columns',
    'section 3.5',
    '+1.7 / +1.2 points',
    '145-half (2010): 39.168 / 18.229%, +1.695 / +1.230',
    _ablation('one_column'),
    difference({'model.ablations': ['one_column']}),
  ),
  Claim(
    'As many kernels in one column, all connected',
    'not in the paper',
    '-',
    '-',
    _ablation('no_groups'),
    difference({'model.ablations': ['no_groups']}),
  ),
  Claim(
    'No communication between the columns',
    'not in the paper',
    '-',
    '150: 41.828 / 19.330%, +1.164 / +1.120',
    'such a network is not among ours',
    _nothing,
  ),
  Claim(
    'Without LRN',
    'section 3.3',
    '+1.4 / +1.2 points',
    '148: 42.034 / 19.362%, +1.370 / +1.152',
    _ablation('no_lrn'),
    difference(
      {'model.ablations': ['no_lrn']}, lambda name: name != _CIFAR_NETWORK
    ),
  ),
  Claim(
    'CIFAR-10 without LRN, by a network of four layers (theirs: some 470 '
    'epochs, several views)',
    'section 3.3',
    '13% instead of 11%',
    "not in it; the code's layers-conv-local-13pct and the first -11pct, "
    'which differ in LRN alone (the later -11pct is wider, too)',
    f'`{_MAIN}paper/cifar10_no_lrn.py` and `cifar10_lrn.py`',
    difference(
      {'model.ablations': ['no_lrn']}, lambda name: name == _CIFAR_NETWORK
    ),
  ),
  Claim(
    'Pooling that does not overlap; it overfits slightly sooner',
    'section 3.4',
    '+0.4 / +0.3 points',
    '147: 41.058 / 18.510%, +0.394 / +0.300',
    _ablation('no_overlap'),
    difference({'model.ablations': ['no_overlap']}),
  ),
  Claim(
    'Without PCA lighting',
    'section 4.1',
    'over +1 point in top-1',
    '-',
    _ablation('no_lighting'),
    difference({'data.lighting': 'none'}),
  ),
  Claim(
    'Without dropout: substantial overfitting, in half the iterations',
    'section 4.2',
    'no number',
    '-',
    _ablation('no_dropout'),
    difference({'model.dropout_rate': 0.0}),
  ),
  Claim(
    'Tanh takes about six times as many epochs as ReLU to 25% training error '
    'on CIFAR-10',
    'Figure 1',
    'about 6 times',
    '-',
    '`python -m alexnet_jax.learning_rates '
    '--config=configs/paper/fig1_relu.py --rates=0.0005,0.001,0.002,0.004 '
    '--workdir=runs/fig1_relu`, and the same of `fig1_tanh`',
    figure_1_answer,
  ),
  Claim(
    'Tanh in AlexNet itself',
    'not in the paper',
    '-',
    '-',
    _ablation('tanh'),
    difference({'model.ablations': ['tanh']}),
  ),
  Claim(
    'The learning rate pushed back up, 135 epochs',
    'not in the paper',
    '-',
    '145.2: 40.250 / 17.994%',
    'its schedule is not among ours',
    _nothing,
  ),
  Claim(
    '`owt`, one column, centre crop',
    'cuda-convnet2',
    '42.55 / 19.81%',
    '-',
    f'`{_MAIN}imagenet_owt.py`',
    scores(('owt',)),
  ),
  Claim(
    '`owt`, ten crops',
    'cuda-convnet2',
    '40.42 / 18.15%',
    '-',
    _with_ten_crops('imagenet_owt'),
    scores(('owt',), crops=10),
  ),
  Claim(
    '`caffe`, centre crop',
    'BVLC Caffe',
    '42.9 / 19.8%',
    '-',
    f'`{_MAIN}imagenet_caffe.py`',
    scores(('caffe',)),
  ),
  Claim(
    '`caffenet`, centre crop',
    'BVLC Caffe',
    '42.6 / 19.6%',
    '-',
    f'`{_MAIN}imagenet_caffenet.py`',
    scores(('caffenet',)),
  ),
  Claim(
    '`torchvision`, centre crop',
    'torchvision',
    '43.478 / 20.934%',
    '-',
    f'`{_MAIN}imagenet_torchvision.py`',
    scores(('torchvision',)),
  ),
)
