import dataclasses
import itertools

import numpy as np
import pytest
import sklearn.datasets
from conftest import store
from test_preprocess import PLAIN

from alexnet_jax.data import color_stats, input_pipeline, preprocess
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.errors import UserError


@pytest.fixture(scope='module')
def tiny(tiny_dir):
  return open_dataset('tiny:1.0.0', str(tiny_dir))


RANDOM = dataclasses.replace(PLAIN, flip=True, lighting='sqrt_eigenvalue')


def train_batches(tiny, **arguments):
  defaults = {'batch_size': 10, 'seed': 1, 'epoch': 2, 'shuffle_buffer': 20}
  return list(
    input_pipeline.train_batches(
      tiny, 'train', RANDOM, **{**defaults, **arguments}
    )
  )


def assert_same(batches, expected):
  for batch, other in itertools.zip_longest(batches, expected):
    np.testing.assert_array_equal(batch['image'], other['image'])
    np.testing.assert_array_equal(batch['label'], other['label'])


def test_an_epoch_is_a_function_of_seed_and_epoch(tiny):
  batches = train_batches(tiny)
  assert len(batches) == 6  # 64 // 10
  assert batches[0]['image'].shape == (10, 32, 32, 3)
  assert batches[0]['image'].dtype == np.float32
  assert batches[0]['label'].dtype == np.int32
  assert_same(train_batches(tiny), batches)
  for other in ({'epoch': 3}, {'seed': 2}, {'seed': 2, 'epoch': 1}):
    assert not np.array_equal(
      train_batches(tiny, **other)[0]['image'], batches[0]['image']
    )


def test_an_epoch_goes_on_at_any_position(tiny):
  assert_same(train_batches(tiny, start=4), train_batches(tiny)[4:])


@pytest.mark.parametrize('processes', [2, 5])
def test_the_processes_share_each_batch(tiny, processes):
  parts = [
    train_batches(tiny, process_index=i, process_count=processes)
    for i in range(processes)
  ]
  together = [
    {
      name: np.concatenate([part[name] for part in step])
      for name in ('image', 'label')
    }
    for step in zip(*parts, strict=True)
  ]
  assert_same(together, train_batches(tiny))


def test_every_picture_at_most_once_and_others_left_out(tiny):
  plain = dataclasses.replace(PLAIN, crop_size=40)

  def epoch(number):
    batches = input_pipeline.train_batches(
      tiny, 'train', plain, batch_size=10, seed=0, epoch=number
    )
    return {x.tobytes() for batch in batches for x in batch['image']}

  first, second = epoch(0), epoch(1)
  assert len(first) == len(second) == 60
  assert first != second


def test_files_are_shuffled_too(tiny):
  def order(examples):
    return [e['key'] for e in examples.as_numpy_iterator()]

  examples = tiny.read('train', shuffle_seed=1)
  stored = order(tiny.read('train'))
  assert order(examples) == order(examples)
  assert order(examples) == order(tiny.read('train', shuffle_seed=1))
  assert order(examples) != stored
  assert sorted(order(examples)) == sorted(stored)


@pytest.mark.parametrize('batch_size', [1, 5, 7, 19, 100])
@pytest.mark.parametrize('processes', [1, 4])
def test_every_picture_is_scored_once(tiny, batch_size, processes):
  batch_size *= processes
  parts = [
    list(
      input_pipeline.eval_batches(
        tiny, 'validation', PLAIN, batch_size=batch_size,
        process_index=i, process_count=processes,
      )
    )
    for i in range(processes)
  ]  # fmt: skip
  expected = [
    preprocess.eval_views(example['image'], PLAIN, 1).numpy()
    for example in tiny.read('validation').as_numpy_iterator()
  ]
  scored = [
    image
    for step in zip(*parts, strict=True)  # As many batches for each process.
    for part in step
    for image, mask in zip(part['image'], part['mask'], strict=True)
    if mask
  ]
  np.testing.assert_array_equal(scored, expected)
  sizes = {len(b['label']) for part in parts for b in part}
  assert sizes == {batch_size // processes}


BROKEN = (
  'tiny-train.tfrecord-00001-of-00003__16',
  'tiny-validation.tfrecord-00001-of-00003__0',
)


def test_an_undecodable_picture_is_named(tmp_path, pictures):
  broken = list(pictures)
  # The check when it is stored looks at the header alone.
  broken[37] = (pictures[37][0][:600], 0)
  broken[70] = (pictures[70][0][:600], 0)
  name = store(broken, tmp_path)
  dataset = open_dataset(name, str(tmp_path))
  with pytest.raises(UserError, match=BROKEN[0]):
    train_batches(dataset)
  with pytest.raises(UserError, match=BROKEN[0]):
    color_stats.compute_color_stats(dataset, 'train', 'short_side', 40)
  batches = input_pipeline.eval_batches(
    dataset, 'validation', PLAIN, batch_size=4
  )
  with pytest.raises(UserError, match=BROKEN[1]):
    list(batches)


def test_to_devices_keeps_order(tiny):
  import jax

  batches = train_batches(tiny, batch_size=8)
  sent = list(input_pipeline.to_devices(iter(batches), jax.local_devices()))
  assert sent[0]['image'].shape == (8, 1, 32, 32, 3)
  assert_same(
    [
      {k: np.asarray(v).reshape(8, *v.shape[2:]) for k, v in b.items()}
      for b in sent
    ],
    batches,
  )


@pytest.mark.parametrize('how', ['short_side', 'warp'])
def test_color_stats(tiny, how):
  stats = color_stats.compute_color_stats(tiny, 'train', how, 40)
  images = np.stack(
    [
      preprocess.resize(preprocess.decode(e['image']), how, 40)
      for e in tiny.read('train').as_numpy_iterator()
    ]
  ).astype(np.float64)
  pixels = images.reshape(-1, 3)
  np.testing.assert_allclose(stats.mean_image, images.mean(0), rtol=1e-12)
  np.testing.assert_allclose(stats.mean, pixels.mean(0), rtol=1e-12)
  np.testing.assert_allclose(stats.std, pixels.std(0), rtol=1e-9)
  covariance = np.cov(pixels.T, bias=True)
  rebuilt = stats.eigenvectors * stats.eigenvalues @ stats.eigenvectors.T
  np.testing.assert_allclose(rebuilt, covariance, rtol=1e-9)
  assert (np.diff(stats.eigenvalues) < 0).all()


def test_digits(tmp_path):
  dataset = open_dataset('digits', str(tmp_path))
  assert dataset.num_examples('train') == 1442
  assert dataset.num_examples('test') == 355
  source = sklearn.datasets.load_digits()
  expected = {
    (np.round(image * 255 / 16).astype(np.uint8).tobytes(), label)
    for image, label in zip(source.images, source.target, strict=True)
  }
  seen, counts = set(), {}
  for split in ('train', 'test'):
    counts[split] = np.zeros(10)
    for example in dataset.read(split).as_numpy_iterator():
      image = preprocess.decode(example['image']).numpy()
      seen.add((image[..., 0].tobytes(), int(example['label'])))
      counts[split][example['label']] += 1
  assert seen == expected
  share = counts['test'] / (counts['test'] + counts['train'])
  assert share.min() > 0.19
  assert share.max() < 0.2001


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('cifra10', 'did you mean cifar10'),
    ('mnist', 'tfds build mnist --data_dir='),
    ('imagenet2012', 'ILSVRC2012_img_train.tar'),
    ('imagenette/nosuch', 'nosuch'),
    ('cifar10:9.9.9', '9.9.9'),
    ('tiny:2.0.0', 'tiny'),
  ],
)
def test_a_data_set_that_is_not_there(tmp_path, name, message):
  with pytest.raises(UserError, match=message) as error:
    open_dataset(name, str(tmp_path))
  assert '\n' not in str(error.value)


def test_a_split_that_is_not_there(tiny):
  with pytest.raises(UserError, match='there are train, validation'):
    tiny.num_examples('test')
  assert tiny.num_examples('train[:50%]') == 32
  with pytest.raises(UserError, match='is empty'):
    tiny.num_examples('train[50%:10%]')
