"""Figures 3 and 4 of a checkpoint, and the learning rates of Figure 1."""

import json
import re
import sys

import conftest
import jax
import numpy as np
import pytest
from PIL import Image
from test_preprocess import eval_views

from alexnet_jax import figures, learning_rates, pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.plots import figure4
from alexnet_jax.pretrained.retrieval import nearest
from alexnet_jax.report import learning_rate_search


def flags(network, tiny_dir, out, *more):
  return [
    str(network), f'--out={out}', '--data=tiny', f'--data_dir={tiny_dir}',
    '--train_split=train', '--val_split=validation', *more,
  ]  # fmt: skip


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """A workdir with a network that has the classes of the tiny dataset."""
  folder = tmp_path_factory.mktemp('network') / 'run'
  conftest.write_network(folder, conftest.CLASS_NAMES)
  return folder


def everything(workdir, tiny_dir, split):
  """Probabilities, features and keys of a split, one image at a time."""
  network = pretrained.load(workdir)
  dataset = open_dataset('tiny', str(tiny_dir))
  apply = jax.jit(network.model.apply, static_argnames='method')
  variables, found, keys = {'params': network.params}, [], []
  for example in dataset.read(split).as_numpy_iterator():
    view = eval_views(example['image'], network.preprocessing, 1)
    found.append(
      (
        jax.nn.softmax(apply(variables, view))[0],
        apply(variables, view, method='features')[0],
      )
    )
    keys.append(example['key'].decode())
  probabilities, features = map(np.stack, zip(*found, strict=True))
  return probabilities, features.astype(np.float64), keys


def test_figures_agree_with_all_distances(network, tiny_dir, tmp_path, capsys):
  out = tmp_path / 'made/here'
  figures.main(flags(network, tiny_dir, out, '--images=4', '--queries=3'))
  assert 'figure3.png' in capsys.readouterr().out
  content = json.loads((out / 'figures.json').read_text())
  probabilities, features, keys = everything(network, tiny_dir, 'validation')
  assert len(content['labels']) == 4
  for entry in content['labels']:
    row = probabilities[keys.index(entry['key'])]
    assert [c['label'] for c in entry['classes']] == list(np.argsort(-row))
  _, points, train_keys = everything(network, tiny_dir, 'train')
  assert len(train_keys) == 64
  for entry in content['neighbors']:
    query = features[keys.index(entry['key'])]
    distances = np.sqrt(((points - query) ** 2).sum(axis=1))
    order = np.argsort(distances)[:6]
    assert [n['key'] for n in entry['neighbors']] == [
      train_keys[i] for i in order
    ]
    np.testing.assert_allclose(
      [n['distance'] for n in entry['neighbors']], distances[order], rtol=1e-3
    )
  for name in ('figure3', 'figure4_labels', 'figure4_neighbors'):
    with Image.open(out / f'{name}.png') as image:
      assert image.width > 100
  # The 64 kernels of 11 x 11 weights, 4 x 4 pixels for each.
  with Image.open(out / 'figure3.png') as image:
    assert image.size == (10 * 48 + 4, 7 * 48 + 4)


@pytest.mark.long
def test_the_choice_of_images_depends_only_on_the_seed(
  network, tiny_dir, tmp_path
):
  keys = []
  for seed in (0, 0, 1):
    figures.main(
      flags(network, tiny_dir, tmp_path, f'--seed={seed}', '--queries=1')
    )
    content = json.loads((tmp_path / 'figures.json').read_text())
    keys.append([entry['key'] for entry in content['labels']])
  assert keys[0] == keys[1] != keys[2]


def test_the_most_confident_mistakes(network, tiny_dir, tmp_path, capsys):
  figures.main(flags(network, tiny_dir, tmp_path, '--mistakes'))
  content = json.loads((tmp_path / 'mistakes.json').read_text())
  probabilities, _, keys = everything(network, tiny_dir, 'validation')
  examples = open_dataset('tiny', str(tiny_dir)).read('validation')
  labels = np.array([int(e['label']) for e in examples])
  wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
  order = sorted(wrong, key=lambda i: -probabilities[i].max())[:20]
  assert len(order) > 1
  assert [e['key'] for e in content['mistakes']] == [keys[i] for i in order]
  for entry, i in zip(content['mistakes'], order, strict=True):
    assert entry['truth'] == conftest.CLASS_NAMES[labels[i]]
    assert entry['classes'][0]['label'] == probabilities[i].argmax()
  assert (tmp_path / 'mistakes.png').stat().st_size > 10_000
  assert 'mistakes.png' in capsys.readouterr().out


def test_nearest_is_exact_far_from_the_origin():
  """There |a|^2 - 2ab + |b|^2 would cancel in float32."""
  rng = np.random.default_rng(0)
  points = (1e4 + rng.normal(0, 1e-2, (50, 300))).astype(np.float32)
  queries = points[[7, 20]]
  exact = np.sqrt(
    ((points[None].astype(np.float64) - queries[:, None]) ** 2).sum(axis=-1)
  )
  positions, distances = nearest(queries, iter(np.split(points, 10)), 4)
  order = np.argsort(exact, axis=1, kind='stable')[:, :4]
  np.testing.assert_array_equal(positions, order)
  np.testing.assert_allclose(
    distances, np.take_along_axis(exact, order, axis=1)
  )
  assert list(positions[:, 0]) == [7, 20]


def test_ties_go_to_the_earlier_point():
  points = np.ones((6, 3))
  positions, _ = nearest(np.zeros((1, 3)), iter([points, points]), 5)
  assert list(positions[0]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
  ('more', 'match'),
  [
    (('--images=0',), '--images=0 must be at least 1'),
    (('--pictures=0',), '--images=0 must be at least 1'),
    (('--queries=40',), '8 images and 40 queries are more than the 19 images'),
    (('--seed=-1',), '--seed=-1 must be at least 0'),
    (('--out=/dev/null',), 'is not a folder'),
    (('--val_split=test',), "unknown split 'test'"),
  ],
)
def test_refusals(network, tiny_dir, tmp_path, more, match):
  with pytest.raises(UserError, match=match):
    figures.main(flags(network, tiny_dir, tmp_path, *more))
  assert not (tmp_path / 'figures.json').exists()


def test_another_datasets_classes_are_refused(
  small_network, tiny_dir, tmp_path
):
  words = r"- 'n01440764', .*\(7 of .*\+ 'china', 'flower', 'texture' \(3 of"
  with pytest.raises(UserError, match=words):
    figures.main(flags(small_network, tiny_dir, tmp_path))
  assert not (tmp_path / 'figures.json').exists()


@pytest.mark.parametrize('name', ['cifar10_relu', 'cifar10_local'])
def test_a_network_of_one_dense_layer_has_features(name):
  """Its last hidden layer is a map, which is flattened."""
  model = AlexNet(ARCHITECTURES[name], 10)
  images = np.zeros((2, 24, 24, 3), np.float32)
  params = model.init(jax.random.key(0), images)
  features = model.apply(params, images, method='features')
  assert features.ndim == 2
  assert len(features) == 2


def test_converted_weights_need_a_dataset(network, tmp_path):
  with pytest.raises(UserError, match='give --data'):
    figures.main([str(network), f'--out={tmp_path}'])


def test_the_true_class_has_its_own_colour(tmp_path):
  classes = [
    {'label': i, 'name': name, 'probability': 0.2}
    for i, name in enumerate(conftest.SYNSETS[:5])
  ]
  images = [np.zeros((8, 8, 3), np.uint8)]
  colors = []
  for truth in (conftest.SYNSETS[1], conftest.SYNSETS[6]):
    path = str(tmp_path / 'labels.png')
    figure4.plot_labels(images, [classes], path, [truth])
    with Image.open(path) as image:
      pixels = np.asarray(image.convert('RGB')).reshape(-1, 3).astype(int)
    orange = np.array([239, 197, 102])  # #E69F00 on white, 60% of it.
    colors.append((abs(pixels - orange).max(axis=1) < 12).sum())
  assert colors[0] > 100
  assert colors[1] == 0


# Learns faster with a higher learning rate, up to .25; above it, not at all.
TRAINER = """
import json, pathlib, signal, sys, time
flags = dict(a[2:].split('=', 1) for a in sys.argv[1:] if '=' in a)
rate = float(flags['config.optimizer.learning_rate'])
folder = pathlib.Path(flags['workdir'])
folder.mkdir(parents=True, exist_ok=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
path = folder / 'metrics.jsonl'
start = len(path.read_text().splitlines()) if path.exists() else 0
for epoch in range(start + 1, 11):
  error = .9 - epoch * rate if rate < .25 else .9
  with path.open('a') as file:
    file.write(json.dumps({'split': 'train', 'step': epoch, 'epoch': epoch,
                           'loss': 1, 'top1_error': error}) + '\\n')
  time.sleep(.05)
(folder / 'results.json').write_text('{}')
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
  script = tmp_path / 'trainer.py'
  script.write_text(TRAINER)
  started = []
  start = learning_rate_search._start

  def instead(command, workdir):
    started.append(workdir.parent.name)
    return start([sys.executable, str(script), *command[3:]], workdir)

  monkeypatch.setattr(learning_rate_search, '_start', instead)
  monkeypatch.setattr(learning_rate_search, '_POLL_SECONDS', 0.01)
  return started


def test_the_fastest_learning_rate_is_trained_to_its_end(
  tmp_path, capsys, trainer
):
  arguments = ['--config=x.py', '--rates=0.1,0.2,0.05,0.3',
               f'--workdir={tmp_path / "runs" / "fig1"}']  # fmt: skip
  learning_rates.main(arguments)
  printed = capsys.readouterr().out
  assert 'learning rate 0.1: 25% training error after 7.00 epochs' in printed
  assert 'learning rate 0.2: 25% training error after 4.00 epochs' in printed
  assert 'learning rate 0.05: 25% training error not reached sooner' in printed
  assert f'fastest: 0.2, 4.00 epochs, in {tmp_path}/runs/fig1-0.2/0' in printed
  assert trainer == [
    'fig1-0.1',
    'fig1-0.2',
    'fig1-0.05',
    'fig1-0.3',
    'fig1-0.2',
  ]
  assert (tmp_path / 'runs' / 'fig1-0.2' / '0' / 'results.json').exists()
  lines = (tmp_path / 'runs/fig1-0.2/0/metrics.jsonl').read_text().splitlines()
  assert len(lines) == 10
  # Slower ones were stopped soon after they fell behind.
  slower = (tmp_path / 'runs/fig1-0.3/0/metrics.jsonl').read_text().splitlines()
  assert 5 <= len(slower) < 10
  # Each says why it was stopped.
  folder = tmp_path / 'runs'

  def stopped(rate):
    path = folder / f'fig1-{rate}' / '0' / 'results.json'
    return json.loads(path.read_text())['stopped']

  assert stopped(0.1) == (
    '25% training error after 7.00 epochs; learning rate 0.2 takes 4.00'
  )
  assert re.fullmatch(
    r'25% training error not reached within [5-9]\.00 epochs; '
    r'learning rate 0\.2 takes 4\.00',
    stopped(0.05),
  )
  # The second time nothing is left to train.
  learning_rates.main(arguments)
  assert len(trainer) == 5
  assert 'fastest: 0.2' in capsys.readouterr().out
  # With a lower target a stopped run goes on.
  learning_rates.main([*arguments, '--target=0.15'])
  assert trainer[5:] == ['fig1-0.1']
  assert stopped(0.1).startswith('15% training error after 8.00 epochs')


def test_workdirs_are_named_by_the_config(tmp_path, trainer, monkeypatch):
  monkeypatch.chdir(tmp_path)
  learning_rates.main(['--config=configs/x.py:part', '--rates=0.2'])
  assert trainer == ['x_part-0.2', 'x_part-0.2']
  assert (tmp_path / 'runs/x_part-0.2/0/results.json').exists()


def test_no_learning_rate_reaches_the_target(tmp_path, trainer):
  with pytest.raises(UserError, match=r'no learning rate reached 25%.*--rates'):
    learning_rates.main(
      ['--config=x', '--rates=0.3', f'--workdir={tmp_path / "a"}']
    )


@pytest.mark.parametrize('rates', ['', 'x', '0', '0.1,0.1', '-1'])
def test_rates_that_are_not_valid(tmp_path, rates):
  with pytest.raises(UserError, match='different positive numbers'):
    learning_rates.main(
      ['--config=x', f'--rates={rates}', f'--workdir={tmp_path}']
    )
