"""Networks scored on other datasets, whose classes are found by their names."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow as tf
from chaos import results
from conftest import CLASS_NAMES, store, write_network
from etils import epath
from test_main import run
from test_preprocess import eval_views

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import classes, faults, labels, together
from alexnet_jax.data.dataset import open_dataset

NAMES = ('texture', 'another', 'flower', 'more', 'china', 'n01440764')


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """Returns a workdir of a network of six classes."""
  workdir = tmp_path_factory.mktemp('network') / 'six'
  write_network(workdir, NAMES)
  return workdir


@pytest.fixture(scope='module')
def probabilities(network, image_files):
  """Returns its softmax outputs for the 19 validation images."""
  loaded = pretrained.load(network)
  apply = jax.jit(loaded.model.apply)
  rows = [
    apply(
      {'params': loaded.params}, eval_views(encoded, loaded.preprocessing, 1)
    )[0]
    for encoded, _ in image_files[64:]
  ]
  return np.asarray(jax.nn.softmax(np.stack(rows)), np.float64)


def score(network, data_dir, *more, out=None, status=0):
  """Evaluates on two devices; returns the results, or the error."""
  out = out or network
  done = run(
    '--mode=eval',
    f'--workdir={network}',
    f'--out={out}',
    '--config=tests/narrow.py',
    '--config.model.name=owt',
    f'--config.model.num_classes={len(NAMES)}',
    '--config.data.name=tiny',
    '--config.data.val_split=validation',
    f'--config.data.data_dir={data_dir}',
    '--config.eval.batch_size=6',
    *more,
    devices=2,
    status=status,
  )
  return results(out) if not status else done.stderr


def dataset_of(names):
  return SimpleNamespace(class_names=list(names), full_name='photos/1.0.0')


def matched(network_names, names, which='all'):
  preprocessing = SimpleNamespace(class_names=tuple(network_names))
  number = len(network_names) or 3
  found = classes.match(
    number, epath.Path('runs/x'), preprocessing, dataset_of(names), which
  )
  return found.outputs.tolist()


def test_classes_are_matched_by_name():
  assert matched('abc', 'abc') == [0, 1, 2]
  assert matched('abc', 'cab') == [2, 0, 1]
  assert matched('abc', 'ca', 'data') == [2, 0]
  # Nothing is known of the network's classes.
  assert matched('', 'xy') == [0, 1]


@pytest.mark.parametrize(
  ('names', 'which', 'message'),
  [
    ('ab', 'all', "- 'c' .1 of the network alone.*--config.eval.classes=data"),
    ('abd', 'all', "- 'c' .*, [+] 'd' .1 of the dataset alone.$"),
    ('ad', 'data', "[+] 'd' .1 of the dataset alone.$"),
    (
      'abcdefghij',
      'data',
      r"[+] 'd', 'e', 'f', 'g', 'h', \.\.\. .7 of the dataset alone.$",
    ),
  ],
)
def test_other_classes_are_refused_with_a_diff(names, which, message):
  with pytest.raises(UserError, match=message) as error:
    matched('abc', names, which)
  assert 'runs/x' in str(error.value)
  assert 'photos/1.0.0' in str(error.value)


def test_an_unnamed_network_needs_as_many_outputs():
  with pytest.raises(UserError, match=r'has 3 classes, .* has 4'):
    matched('', 'abcd')


def test_a_part_of_the_classes_is_scored_with_the_others_masked(
  network, probabilities, image_files, tmp_path
):
  store(image_files, tmp_path)
  assert "- 'another', 'more', 'n01440764' (3 of" in score(
    network, tmp_path, status=2
  )
  found = score(network, tmp_path, '--config.eval.classes=data')
  outputs = [NAMES.index(name) for name in CLASS_NAMES]
  truth = np.array([label for _, label in image_files[64:]])
  masked = probabilities[:, outputs]
  masked /= masked.sum(axis=1, keepdims=True)
  assert found['num_classes'] == 3
  assert found['num_examples'] == 19
  assert found['top5_error'] is None
  assert found['top1_error'] == pytest.approx(
    np.mean(masked.argmax(axis=1) != truth)
  )
  chosen = masked[np.arange(19), truth]
  assert found['loss'] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
  # In the order of the network's outputs.
  assert list(found['per_class']) == ['texture', 'flower', 'china']
  per_class = found['per_class']['flower']
  assert per_class['label'] == 2
  assert per_class['num_examples'] == np.sum(truth == 1)
  # Without the mask other classes would be predicted.
  assert set(probabilities.argmax(axis=1)) - set(outputs)
  # ImageNet-A's form: all names, images of some.
  all_names = tmp_path / 'all'
  moved = [(x, NAMES.index(CLASS_NAMES[i])) for x, i in image_files]
  store(moved, all_names, NAMES)
  again = score(network, all_names, '--config.eval.classes=data')
  for name in ('loss', 'top1_error', 'num_classes', 'per_class'):
    assert again[name] == found[name], name


def test_lists_of_labels(network, probabilities, image_files, tmp_path):
  rng = np.random.default_rng(0)
  order = NAMES[::-1]
  lists = [
    rng.choice(6, rng.integers(0, 4), replace=False).tolist() for _ in range(83)
  ]
  lists[0], lists[64] = [1], []
  files = [(x, found) for (x, _), found in zip(image_files, lists, strict=True)]
  store(files, tmp_path, order)
  found = score(network, tmp_path)
  lists = [[NAMES.index(order[i]) for i in each] for each in lists[64:]]
  best = probabilities.argsort(axis=1)[:, ::-1]
  scored = [i for i in range(19) if lists[i]]
  assert 5 < len(scored) < 19
  assert found['num_examples'] == len(scored)
  assert found['num_unlabeled'] == 19 - len(scored)
  assert found['top1_error'] == pytest.approx(
    np.mean([best[i, 0] not in lists[i] for i in scored])
  )
  assert found['top5_error'] == pytest.approx(
    np.mean([not set(best[i, :5]) & set(lists[i]) for i in scored])
  )
  chosen = [probabilities[i, lists[i]].sum() for i in scored]
  assert found['loss'] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
  counts = [one['num_examples'] for one in found['per_class'].values()]
  assert sum(counts) == len(scored)
  dataset = open_dataset('tiny', str(tmp_path))
  counted = labels.count_labels(dataset, 'validation')
  assert counted.num_labeled == len(scored)
  assert counted.counts.sum() == sum(map(len, lists))


def test_lists_of_labels_are_not_trained_on(image_files, tmp_path):
  store([(x, [label]) for x, label in image_files], tmp_path)
  done = run(
    '--config=tests/narrow.py',
    '--config.data.name=tiny',
    '--config.data.val_split=validation',
    f'--config.data.data_dir={tmp_path}',
    f'--workdir={tmp_path / "run"}',
    status=2,
  )
  assert 'lists of labels' in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.long
def test_an_ensemble_of_a_part_of_the_classes(
  network, probabilities, image_files, tmp_path
):
  store(image_files, tmp_path)
  write_network(tmp_path / 'other', NAMES[::-1], seed=1)
  write_network(tmp_path / 'same', NAMES, seed=1)
  out, part = tmp_path / 'out', '--config.eval.classes=data'
  others = f'{network},{tmp_path / "other"}'
  message = score(others, tmp_path, part, out=out, status=2)
  assert 'in another order' in message
  # The members' softmax outputs are averaged, of ten crops each.
  crops = '--config.eval.crops=10', '--config.model.name=paper'
  both = f'{network},{tmp_path / "same"}'
  found = score(both, tmp_path, part, *crops, out=out)
  outputs = [NAMES.index(name) for name in CLASS_NAMES]
  mean = np.zeros((19, 3))
  for workdir in (network, tmp_path / 'same'):
    loaded = pretrained.load(workdir)
    apply = jax.jit(loaded.model.apply)
    for i, (encoded, _) in enumerate(image_files[64:]):
      views = eval_views(encoded, loaded.preprocessing, 10)
      logits = np.asarray(apply({'params': loaded.params}, views))[:, outputs]
      mean[i] += np.asarray(jax.nn.softmax(logits), np.float64).mean(axis=0) / 2
  truth = np.array([label for _, label in image_files[64:]])
  assert found['num_classes'] == 3
  assert found['top1_error'] == pytest.approx(
    np.mean(mean.argmax(axis=1) != truth)
  )
  chosen = mean[np.arange(19), truth]
  assert found['loss'] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)


@pytest.mark.parametrize('label', [-1, 3])
@pytest.mark.parametrize('in_list', [False, True])
def test_labels_out_of_range_are_named(image_files, tmp_path, label, in_list):
  files = [(x, [1] if in_list else 1) for x, _ in image_files]
  store(files, tmp_path)
  dataset = open_dataset('tiny', str(tmp_path))
  path = dataset.files(['train'])[1]
  records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
  with tf.io.TFRecordWriter(str(path)) as file:
    for i, record in enumerate(records):
      example = tf.train.Example.FromString(record)
      if i == 4:
        example.features.feature['label'].int64_list.value[:] = [label]
      file.write(example.SerializeToString())
  with pytest.raises(UserError, match=r'00001-of-00003__4.* is out of range'):
    labels.count_labels(dataset, 'train')
  assert faults.find_faults(dataset, 'train') == [f'{path.name}__4']


def test_a_file_that_is_cut_off_is_named(image_files, tmp_path):
  store(image_files, tmp_path)
  dataset = open_dataset('tiny', str(tmp_path))
  path = dataset.files(['validation'])[2]
  content = path.read_bytes()
  for end in (-1, -len(content) // 2):
    path.write_bytes(content[:end])
    with pytest.raises(UserError, match=r'00002-of-00003.* is corrupt'):
      labels.count_labels(dataset, 'validation')


def test_a_process_without_images_finds_no_faults(
  image_files, tmp_path, monkeypatch
):
  store(image_files, tmp_path)
  monkeypatch.setattr(together, 'share', lambda: (0, 4))
  dataset = open_dataset('tiny', str(tmp_path))
  assert faults.find_faults(dataset, 'validation[:2]') == []
  assert labels.count_labels(dataset, 'validation[:2]').num_labeled == 0
