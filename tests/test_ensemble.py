"""Ensembles, and what results.json holds besides errors."""

import json
import shutil

import jax
import numpy as np
import pytest
from chaos import contents, results
from conftest import CLASS_NAMES, store, write_network
from PIL import Image
from test_main import run, tiny
from test_preprocess import eval_views

from alexnet_jax import pretrained
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.plots.confusion import plot_confusion
from alexnet_jax.runs import scoring


def arguments(tiny_dir, workdir, *more):
  return tiny(
    tiny_dir, workdir, '--config.num_epochs=1',
    '--config.eval.train_split=True', *more,
  )  # fmt: skip


@pytest.fixture(scope='module')
def members(tmp_path_factory):
  """Returns two networks of the tiny dataset, on crops of 64 and 71 pixels."""
  folder = tmp_path_factory.mktemp('members')
  for seed, crop_size in ((0, 64), (1, 71)):
    write_network(folder / str(seed), CLASS_NAMES, crop_size, seed)
  return [folder / '0', folder / '1']


@pytest.fixture(scope='module')
def trained(tiny_dir, tmp_path_factory):
  """Returns a short run that scored its training split too."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  run(*arguments(tiny_dir, workdir))
  return workdir


def probabilities(workdir, tiny_dir, split='validation', crops=1):
  """Returns softmax outputs and labels, computed one image at a time."""
  network = pretrained.load(workdir)
  apply = jax.jit(network.model.apply)
  rows, labels = [], []
  for example in (
    open_dataset('tiny', str(tiny_dir)).read(split).as_numpy_iterator()
  ):
    views = eval_views(example['image'], network.preprocessing, crops)
    outputs = jax.nn.softmax(apply({'params': network.params}, views))
    rows.append(np.asarray(outputs, np.float64).mean(axis=0))
    labels.append(example['label'])
  return np.stack(rows), np.array(labels)


def score(tiny_dir, workdir, *more, status=0):
  return run(
    *arguments(tiny_dir, workdir),
    '--mode=eval',
    *more,
    devices=2,
    status=status,
  )


@pytest.mark.parametrize('crops', [pytest.param(1, marks=pytest.mark.long), 10])
def test_softmax_outputs_are_averaged(members, tiny_dir, tmp_path, crops):
  before = [contents(member) for member in members]
  done = score(
    tiny_dir, ','.join(map(str, members)), f'--out={tmp_path / "both"}',
    f'--config.eval.crops={crops}', '--config.eval.batch_size=6',
  )  # fmt: skip
  assert '2 networks' in done.stdout
  assert str(tmp_path / 'both' / 'results.json') in done.stdout
  found = results(tmp_path / 'both')
  per_member = [probabilities(m, tiny_dir, crops=crops) for m in members]
  labels = per_member[0][1]
  mean = np.mean([rows for rows, _ in per_member], axis=0)
  chosen = mean[np.arange(len(labels)), labels]
  assert found['num_examples'] == len(labels) == 19
  assert found['top1_error'] == pytest.approx(
    (mean.argmax(axis=1) != labels).mean()
  )
  assert found['loss'] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
  # The mean of the members' losses is quite different.
  losses = [
    -np.log(rows[np.arange(19), labels]).mean() for rows, _ in per_member
  ]
  assert found['loss'] < 0.95 * np.mean(losses)
  assert [m['architecture'] for m in found['members']] == ['owt'] * 2
  digests = {m['params_digest'] for m in found['members']}
  assert len(digests) == 2
  config = json.loads((tmp_path / 'both' / 'config.json').read_text())
  assert config['members'] == [str(member) for member in members]
  assert found['architecture'] == 'ensemble'
  for member in found['members']:
    assert member['config']['model.name'] == 'owt'
  # The members' workdirs are unchanged.
  assert [contents(member) for member in members] == before


@pytest.mark.long
def test_the_results_of_one_network_elsewhere(
  trained, tiny_dir, image_files, tmp_path
):
  """Of another dataset of its classes, so that its own results stay."""
  before = contents(trained)
  names = CLASS_NAMES[::-1]
  files = [(x, 2 - label) for x, label in image_files[40:]]
  store(files, tmp_path / 'data', names, num_train=24)
  out = f'--out={tmp_path / "x"}'
  for _ in range(2):
    score(tmp_path / 'data', trained, out, '--config.eval.train_split=False')
  assert contents(trained) == before
  found = results(tmp_path / 'x')
  assert found['epoch'] == results(trained)['epoch'] == 1
  # The other order of the classes does not matter, nor the rows of training.
  by_class = results(trained)['per_class']
  assert list(found['per_class']) == list(by_class)
  labels = [label for _, label in image_files[64:]]
  for label, name in enumerate(CLASS_NAMES):
    assert found['per_class'][name]['num_examples'] == labels.count(label)
  assert found['per_class'] == by_class
  assert found['loss'] == pytest.approx(results(trained)['loss'], rel=1e-5)
  config = json.loads((tmp_path / 'x' / 'config.json').read_text())
  assert config['members'] == [str(trained)]
  done = run(*arguments(tiny_dir, tmp_path / 'new'), out, status=2)
  assert 'add --mode=eval' in done.stderr


@pytest.mark.parametrize(
  ('names', 'out', 'message'),
  [
    ('{0},{0}', '{new}', 'is given twice'),
    ('{0},', '{new}', 'an empty name'),
    ('{0},{1}', '{1}', 'holds a run'),
    ('{0},{new}', '{other}', 'no checkpoint'),
  ],
)
def test_a_refused_ensemble_writes_nothing(
  members, tiny_dir, tmp_path, names, out, message
):
  places = {'new': tmp_path / 'new', 'other': tmp_path / 'other'}
  before = [contents(member) for member in members]
  done = score(
    tiny_dir, names.format(*members, **places),
    f'--out={out.format(*members, **places)}', status=2,
  )  # fmt: skip
  assert message in done.stderr
  assert not list(tmp_path.iterdir())
  assert [contents(member) for member in members] == before


def test_the_training_split_is_scored_too(trained, tiny_dir):
  found = results(trained)
  rows, labels = probabilities(trained, tiny_dir, 'train')
  assert found['train_num_examples'] == len(labels) == 64
  assert found['train_top1_error'] == pytest.approx(
    (rows.argmax(axis=1) != labels).mean()
  )
  chosen = rows[np.arange(64), labels]
  assert found['train_loss'] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)


def test_results_have_confused_classes_and_the_command(trained, tiny_dir):
  rows, labels = probabilities(trained, tiny_dir)
  path = trained / 'results.json'
  found = json.loads(path.read_text())
  names = CLASS_NAMES
  counts = {
    (names[a], names[b]): int(
      ((labels == a) & (rows.argmax(axis=1) == b)).sum()
    )
    for a in range(3)
    for b in range(3)
    if a != b
  }
  confused = {
    (p['label'], p['predicted']): p['count'] for p in found['most_confused']
  }
  assert confused == {pair: count for pair, count in counts.items() if count}
  shares = [p['count'] / p['of'] for p in found['most_confused']]
  assert shares == sorted(shares, reverse=True)
  assert list(found['per_class']) == list(names)
  for label, one in enumerate(found['per_class'].values()):
    of, predicted = labels == label, rows.argmax(axis=1) == label
    assert one['label'] == label
    assert one['num_examples'] == of.sum()
    assert one['recall'] == pytest.approx((of & predicted).sum() / of.sum())
    assert one['top1_error'] == pytest.approx(1 - one['recall'])
    if predicted.any():
      assert one['precision'] == pytest.approx(
        predicted[of].sum() / predicted.sum()
      )
    else:
      assert one['precision'] is None
  table = (trained / 'per_class.csv').read_text().splitlines()
  assert table[0] == 'label,class,num_examples,top1_error,precision,recall'
  assert [row.split(',')[:2] for row in table[1:]] == [
    [str(i), name] for i, name in enumerate(names)
  ]
  assert 'confusion' not in found
  (command,) = found['commands']
  assert command.startswith(
    'python -m alexnet_jax.main --config=tests/narrow.py'
  )
  assert '--config.num_epochs=1' in command
  # Without the paths of this machine.
  assert str(tiny_dir) not in command
  assert '--workdir' not in command
  assert found['versions']['jax'] == jax.__version__


def test_a_later_evaluation_adds_its_command(trained, tiny_dir, tmp_path):
  workdir = tmp_path / 'copy'
  shutil.copytree(trained, workdir)
  (training,) = json.loads((workdir / 'results.json').read_text())['commands']
  for _ in range(2):
    score(tiny_dir, workdir, '--config.eval.crops=10')
    commands = json.loads((workdir / 'results.json').read_text())['commands']
    assert len(commands) == 2
    assert commands[0] == training
    assert commands[1].endswith('--mode=eval --config.eval.crops=10')


def test_results_have_the_seed_of_the_training(tiny_dir, trained, tmp_path):
  workdir = tmp_path / 'copy'
  shutil.copytree(trained, workdir)
  score(tiny_dir, workdir, '--config.seed=7')
  assert results(workdir)['seed'] == 0


@pytest.mark.parametrize('classes', [1, 1000])
def test_a_confusion_matrix_is_drawn(tmp_path, classes):
  matrix = np.diag(np.full(classes, 40.0))
  matrix[0, -1] += 10
  names = [f'class {i}, another name' for i in range(classes)]
  plot_confusion(matrix, names, str(tmp_path / 'confusion.png'))
  with Image.open(tmp_path / 'confusion.png') as image:
    # Each class has a dot at least.
    assert classes <= min(image.size) < 2000


def test_confused_classes_of_a_small_matrix():
  confusion = np.array([[8, 2, 0], [0, 10, 0], [3, 0, 3]], float)
  assert scoring.confused_classes(confusion, ['a', 'b']) == [
    {'label': 'class 2', 'predicted': 'a', 'count': 3, 'of': 6},
    {'label': 'a', 'predicted': 'b', 'count': 2, 'of': 10},
  ]
