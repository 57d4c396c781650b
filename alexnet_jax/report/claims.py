"""What the paper and its authors' notebook claim.

The notebook of 2012 is published with the authors' code
(computerhistory/AlexNet-Source-Code); 145, 147 and so on are its names of
networks. Errors are top-1 / top-5, and their differences are in points
(percentage points).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from alexnet_jax.report import figure1
from alexnet_jax.report.answers import PAPERS, Answer, difference, scores
from alexnet_jax.report.experiments import Experiment
from alexnet_jax.report.verdicts import Expected

_CIFAR_NETWORK = 'cifar10_local'
_MAIN = 'python -m alexnet_jax.main --config=configs/'
# The last step, as after training; not the best one.
_TEN_CROPS = '--mode=eval --config.eval.step=latest --config.eval.crops=10'
# An evaluation overwrites results.json.
_ON_A_COPY = (
  f'then `python -m alexnet_jax.main {_TEN_CROPS} --workdir=COPY` on a copy of '
  'the workdir'
)


@dataclasses.dataclass(frozen=True)
class Claim:
  """One row of the claims table.

  Attributes:
    what: the claim, in a few words.
    source: section, table or figure of the paper, or who else claims it;
      'this project' if nobody does.
    published: the number that the source gives.
    notebook: the number in the authors' notebook, after its run's name.
    how: the command that measures it, in backticks, or what is missing.
    answers: returns what experiments measured.
    note: what else the sources say.
    expected: the top-1 change or ratio that the source claims; None if it makes
      no such claim.
  """

  what: str
  source: str
  published: str
  notebook: str
  how: str
  answers: Callable[[Sequence[Experiment]], list[Answer]] = lambda _: []
  note: str = ''
  expected: Expected | None = None


def _ablation(name: str) -> str:
  return f'`{_MAIN}paper/{name}.py`, and `base.py`'


def _with_ten_crops(config: str) -> str:
  return f'`{_MAIN}{config}.py`, {_ON_A_COPY}'


_ON_2010 = (
  'prepare ILSVRC-2010, which TFDS lacks, as the TFDS dataset `imagenet2010`, '
  f'then `{_MAIN}imagenet_krizhevsky2012.py '
  '--config.data.name=imagenet2010 --config.data.val_split=test`'
)

CLAIMS: tuple[Claim, ...] = (
  Claim(
    'One network, ILSVRC-2010 test, ten crops',
    'Table 1',
    '37.5% / 17.0%',
    '145-2010: 37.473% / 16.999%',
    f'{_ON_2010}, {_ON_A_COPY}',
    scores(PAPERS, crops=10, data='imagenet2010', split='test'),
  ),
  Claim(
    'One network, ILSVRC-2010 test, center crop',
    'section 4.1',
    '39.0% / 18.3%',
    '145-2010: 39.025% / 18.295%',
    _ON_2010,
    scores(PAPERS, data='imagenet2010', split='test'),
  ),
  Claim(
    'One network, ILSVRC-2012 validation, ten crops',
    'Table 2',
    '40.7% / 18.2%',
    '145: 40.664% / 18.210%',
    _with_ten_crops('imagenet'),
    scores(PAPERS, crops=10),
  ),
  Claim(
    'Five networks averaged',
    'Table 2',
    '38.1% / 16.4%',
    '-',
    f'`{_MAIN}imagenet.py --config.seed=0 --workdir=DIR` with five seeds and '
    'workdirs, then '
    f'`{_MAIN}imagenet.py {_TEN_CROPS} --workdir=DIR,DIR,DIR,DIR,DIR`',
    scores(PAPERS, members=5, crops=10),
  ),
  Claim(
    'One network, pre-trained on ImageNet 2011',
    'Table 2',
    '39.0% / 16.6%',
    '-',
    'not possible here: TFDS lacks the Fall 2011 release, and the network with '
    'six convolutions is not implemented',
  ),
  Claim(
    'Seven networks averaged, two pre-trained',
    'Table 2',
    '36.7% / 15.4%',
    '-',
    'not possible here: the two pre-trained networks are not implemented',
  ),
  Claim(
    'Ten crops instead of one',
    'section 4.1',
    '-1.5 / -1.3',
    '145-2010: -1.552 / -1.296',
    _with_ten_crops('paper/base'),
    difference({'crops': 10}),
    'The published difference is on ILSVRC-2010.',
    expected=Expected(-1.5, -1.5),
  ),
  Claim(
    'One column with half the kernels',
    'section 3.2',
    '+1.7 / +1.2',
    '145-half: +1.695 / +1.230',
    _ablation('one_column'),
    difference({'model.ablations': ['one_column']}),
    'In place of two columns. The notebook has 39.168% / 18.229% on '
    'ILSVRC-2010.',
    expected=Expected(1.7, 1.7),
  ),
  Claim(
    'One column with all kernels',
    'this project',
    '-',
    '-',
    _ablation('no_groups'),
    difference({'model.ablations': ['no_groups']}),
    'As many kernels as in two columns, all connected.',
  ),
  Claim(
    'Two columns that never communicate',
    'notebook',
    '-',
    '150: +1.164 / +1.120',
    'not possible here: the network is not implemented',
    note='The notebook has 41.828% / 19.330%.',
  ),
  Claim(
    'Without LRN',
    'section 3.3',
    '+1.4 / +1.2',
    '148: +1.370 / +1.152',
    _ablation('no_lrn'),
    difference(
      {'model.ablations': ['no_lrn']}, lambda name: name != _CIFAR_NETWORK
    ),
    'The notebook has 42.034% / 19.362%.',
    expected=Expected(1.4, 1.4),
  ),
  Claim(
    'CIFAR-10 without LRN',
    'section 3.3',
    '+2',
    '-',
    f'`{_MAIN}paper/cifar10_no_lrn.py`, and `cifar10_lrn.py`',
    difference(
      {'model.ablations': ['no_lrn']}, lambda name: name == _CIFAR_NETWORK
    ),
    'A network of four layers: 13% instead of 11%. The authors trained for '
    'about 470 epochs and averaged over several crops. It is not in the '
    'notebook. Their code has it as layers-conv-local-13pct and the first '
    'layers-conv-local-11pct, which differ only in LRN (the later 11pct is '
    'also wider).',
    expected=Expected(2.0, 2.0),
  ),
  Claim(
    'Pooling without overlap',
    'section 3.4',
    '+0.4 / +0.3',
    '147: +0.394 / +0.300',
    _ablation('no_overlap'),
    difference({'model.ablations': ['no_overlap']}),
    'The paper: it also overfits slightly sooner. The notebook has '
    '41.058% / 18.510%.',
    expected=Expected(0.4, 0.4),
  ),
  Claim(
    'Without random crops and flips',
    'section 4.1',
    '-',
    '-',
    _ablation('no_crops'),
    difference({'data.train_crop': 'center', 'data.flip': False}),
    'The paper gives no number: substantial overfitting.',
    expected=Expected(0.0, math.inf),
  ),
  Claim(
    'Without PCA lighting',
    'section 4.1',
    'over +1',
    '-',
    _ablation('no_lighting'),
    difference({'data.lighting': 'none'}),
    'The paper gives the top-1 error only.',
    expected=Expected(1.0, math.inf),
  ),
  Claim(
    'Without dropout',
    'section 4.2',
    '-',
    '-',
    _ablation('no_dropout'),
    difference({'model.dropout_rate': 0.0}),
    'The paper gives no number: substantial overfitting, and half as many '
    'iterations to converge.',
    expected=Expected(0.0, math.inf),
  ),
  Claim(
    'Tanh takes more epochs than ReLU',
    'Figure 1',
    'about 6 times',
    '-',
    '`python -m alexnet_jax.learning_rates '
    '--config=configs/paper/fig1_relu.py --workdir=runs/fig1_relu '
    '--rates=0.0005,0.001,0.002,0.004,0.008`, and the same with `fig1_tanh`',
    figure1.answer,
    'Epochs to 25% training error on CIFAR-10.',
    expected=Expected(6.0, 6.0, unchanged=1.0),
  ),
  Claim(
    'Tanh instead of ReLU',
    'this project',
    '-',
    '-',
    _ablation('tanh'),
    difference({'model.ablations': ['tanh']}),
    'In AlexNet itself; the paper has it in a smaller network.',
  ),
  Claim(
    'Learning rate raised again',
    'notebook',
    '-',
    '145.2: 40.250% / 17.994%',
    'not possible here: the schedule is not implemented',
    note='135 epochs.',
  ),
  Claim(
    '`owt`, center crop',
    'cuda-convnet2',
    '42.55% / 19.81%',
    '-',
    f'`{_MAIN}imagenet_owt.py`',
    scores(('owt',)),
  ),
  Claim(
    '`owt`, ten crops',
    'cuda-convnet2',
    '40.42% / 18.15%',
    '-',
    _with_ten_crops('imagenet_owt'),
    scores(('owt',), crops=10),
  ),
  Claim(
    '`caffe`, center crop',
    'BVLC Caffe',
    '42.9% / 19.8%',
    '-',
    f'`{_MAIN}imagenet_caffe.py`',
    scores(('caffe',)),
  ),
  Claim(
    '`caffenet`, center crop',
    'BVLC Caffe',
    '42.6% / 19.6%',
    '-',
    f'`{_MAIN}imagenet_caffenet.py`',
    scores(('caffenet',)),
  ),
  Claim(
    '`torchvision`, center crop',
    'torchvision',
    '43.478% / 20.934%',
    '-',
    f'`{_MAIN}imagenet_torchvision.py`',
    scores(('torchvision',)),
  ),
)
