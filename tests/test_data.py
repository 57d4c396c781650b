import dataclasses
import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from conftest import store
from etils import epath
from test_preprocess import PLAIN, eval_views

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import (
  cache,
  color_stats,
  dataset,
  decoding,
  faults,
  input_pipeline,
)
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.learning.placement import mesh_of


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


def test_an_epoch_resumes_at_any_position(tiny):
  assert_same(train_batches(tiny, start=4), train_batches(tiny)[4:])


@pytest.mark.parametrize('processes', [2, 4])
def test_the_processes_share_each_batch(tiny, processes):
  parts = [
    train_batches(tiny, batch_size=8, process_index=i, process_count=processes)
    for i in range(processes)
  ]
  together = [
    {
      name: np.concatenate([part[name] for part in step])
      for name in ('image', 'label')
    }
    for step in zip(*parts, strict=True)
  ]
  assert_same(
    together, train_batches(tiny, batch_size=8, num_devices=processes)
  )


def test_the_order_is_that_of_any_batch_size(tiny):
  def images(batch_size):
    batches = train_batches(tiny, batch_size=batch_size)
    return np.concatenate([batch['image'] for batch in batches])

  np.testing.assert_array_equal(images(7), images(16)[:63])


def test_threads_and_buffers_change_nothing(tiny, tmp_path, monkeypatch):
  expected = train_batches(tiny)
  monkeypatch.setattr(input_pipeline, 'PREFETCH', 5)
  monkeypatch.setattr(tf.data, 'AUTOTUNE', 1)  # One image after the other.
  assert_same(train_batches(tiny), expected)
  monkeypatch.setattr(tf.data, 'AUTOTUNE', 13)
  monkeypatch.setattr(dataset, '_READ_BYTES', 777)
  assert_same(train_batches(tiny), expected)


def test_a_copy_changes_nothing(tiny, tmp_path):
  copy = cache.cached(tiny, ['train', 'validation[:5]'], str(tmp_path))
  folder = tmp_path / 'tiny' / '1.0.0'
  assert pathlib.Path(copy.builder.data_path) == folder
  assert_same(train_batches(copy), train_batches(tiny))
  assert copy.num_examples('validation') == 19
  # A file that was copied is not copied again, unless it is incomplete.
  incomplete = folder / 'tiny-train.tfrecord-00001-of-00003'
  incomplete.write_bytes(incomplete.read_bytes()[:-1])
  times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  again = cache.cached(tiny, ['train'], str(tmp_path))
  assert_same(train_batches(again), train_batches(tiny))
  changed = {p for p, time in times.items() if p.stat().st_mtime_ns != time}
  assert changed == {incomplete}


def test_a_copy_that_does_not_fit_is_refused(tiny, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(UserError, match=r'0.0 MB free but needs 0\.\d MB '):
    cache.cached(tiny, ['train'], str(tmp_path))
  assert not list((tmp_path / 'tiny' / '1.0.0').iterdir())


def test_what_is_skipped_is_not_decoded(tmp_path, image_files, tiny):
  """Only the images of the last batch can be decoded."""
  plain = dataclasses.replace(PLAIN, crop_size=40)
  arguments = {'batch_size': 16, 'seed': 0, 'epoch': 0}
  batches = list(
    input_pipeline.train_batches(tiny, 'train', plain, **arguments)
  )
  last = {image.tobytes() for image in batches[-1]['image']}

  def is_last(encoded):
    image = decoding.decode_crop(encoded, 'short_side', 40, [0, 0], 40)
    return image.numpy().astype(np.float32).tobytes() in last

  files = [
    (encoded if is_last(encoded) else encoded[:300], label)
    for encoded, label in image_files[:64]
  ]
  assert sum(encoded == e for (encoded, _), (e, _) in
             zip(files, image_files[:64], strict=True)) == 16  # fmt: skip
  corrupt = open_dataset(
    store(files + image_files[64:], tmp_path), str(tmp_path)
  )

  def resume_at(start):
    return list(
      input_pipeline.train_batches(
        corrupt, 'train', plain, start=start, **arguments
      )
    )

  assert_same(resume_at(3), batches[3:])
  with pytest.raises(UserError, match='cannot decode'):
    resume_at(2)


def test_an_epoch_has_every_image_at_most_once_and_drops_others_each_time(tiny):
  plain = dataclasses.replace(PLAIN, crop_size=40)

  def epoch(number):
    batches = input_pipeline.train_batches(
      tiny, 'train', plain, batch_size=10, seed=0, epoch=number
    )
    return {x.tobytes() for batch in batches for x in batch['image']}

  epochs = [epoch(number) for number in range(4)]
  assert [len(seen) for seen in epochs] == [60] * 4
  # Each epoch drops four other images.
  assert len({frozenset(seen) for seen in epochs}) == 4
  assert len(set.union(*epochs)) == 64


@pytest.mark.parametrize('batch_size', [1, 5, 7, 19, 100])
@pytest.mark.parametrize('processes', [1, 4])
def test_every_image_is_scored_once(tiny, batch_size, processes):
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
    eval_views(example['image'], PLAIN, 1)
    for example in tiny.read('validation').as_numpy_iterator()
  ]
  # Each process has as many batches, of consecutive images.
  assert len({len(part) for part in parts}) == 1
  scored = [
    image
    for part in parts
    for batch in part
    for image, mask in zip(batch['image'], batch['mask'], strict=True)
    if mask
  ]
  np.testing.assert_array_equal(scored, expected)
  sizes = {len(b['label']) for part in parts for b in part}
  assert sizes == {batch_size // processes}


UNDECODABLE = (
  'tiny-train.tfrecord-00001-of-00003__16',
  'tiny-validation.tfrecord-00001-of-00003__0',
)


def test_an_undecodable_image_is_named(tmp_path, image_files):
  files = list(image_files)
  # TFDS checks only the header when it stores an image.
  files[37] = (image_files[37][0][:600], 0)
  files[70] = (image_files[70][0][:600], 0)
  name = store(files, tmp_path)
  dataset = open_dataset(name, str(tmp_path))
  with pytest.raises(UserError, match=UNDECODABLE[0]):
    train_batches(dataset, batch_size=8)
  with pytest.raises(UserError, match=UNDECODABLE[0]):
    color_stats.compute_color_stats(dataset, 'train', 'short_side', 40)
  batches = input_pipeline.eval_batches(
    dataset, 'validation', PLAIN, batch_size=4
  )
  with pytest.raises(UserError, match=UNDECODABLE[1]):
    list(batches)


def damaged(image_files, folder):
  """A dataset with a corrupt image in each split, and an invalid label."""
  files = list(image_files)
  files[37] = (image_files[37][0][: len(image_files[37][0]) // 2], 0)
  files[70] = (image_files[70][0][:600], 0)
  name = store(files, folder)
  path = folder / 'tiny' / '1.0.0' / 'tiny-train.tfrecord-00002-of-00003'
  records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
  with tf.io.TFRecordWriter(str(path)) as file:
    for i, record in enumerate(records):
      example = tf.train.Example.FromString(record)
      if i == 4:
        example.features.feature['label'].int64_list.value[:] = [3]
      file.write(example.SerializeToString())
  return open_dataset(name, str(folder))


def test_faults_are_skipped(tmp_path, image_files):
  corrupt = damaged(image_files, tmp_path)
  workdir = epath.Path(tmp_path)
  with pytest.raises(UserError, match=r'2 of 64 examples of split .train.'):
    faults.skip_faults(corrupt, ['train'], workdir, 0.01)
  usable = faults.skip_faults(corrupt, ['train', 'validation'], workdir, 0.06)
  mislabelled = 'tiny-train.tfrecord-00002-of-00003__4'
  assert usable.skipped == {
    'train': {UNDECODABLE[0], mislabelled},
    'validation': {UNDECODABLE[1]},
  }
  assert usable.num_examples('train') == 62
  assert usable.num_examples('validation') == 18
  batches = train_batches(usable, batch_size=31)
  assert [len(batch['label']) for batch in batches] == [31, 31]
  keys = {e['key'].decode() for e in usable.read('train').as_numpy_iterator()}
  assert len(keys) == 62
  assert not keys & usable.skipped['train']
  scored = input_pipeline.eval_batches(
    usable, 'validation', PLAIN, batch_size=10
  )
  assert sum(batch['mask'].sum() for batch in scored) == 18
  # Two processes skip the same examples.
  parts = [
    train_batches(usable, batch_size=30, process_index=i, process_count=2)
    for i in range(2)
  ]
  both = train_batches(usable, batch_size=30, num_devices=2)
  for step, batch in enumerate(both):
    np.testing.assert_array_equal(
      np.concatenate([part[step]['label'] for part in parts]), batch['label']
    )
  # With the list in the workdir, the dataset is not checked again.
  faults.write_skipped(usable, workdir)
  (tmp_path / 'tiny').rename(tmp_path / 'away')
  again = faults.skip_faults(corrupt, ['train', 'validation'], workdir, 0.06)
  assert again.skipped == usable.skipped


def test_a_label_out_of_range_is_named(tmp_path, image_files):
  corrupt = damaged(image_files, tmp_path)
  message = r'label 3 of image tiny-train.*00003__4 .* expected 0 to 2'
  with pytest.raises(UserError, match=message):
    color_stats.compute_color_stats(corrupt, 'train[43:]', 'short_side', 40)


def cut(path):
  """Cuts off a file within a record."""
  path.write_bytes(path.read_bytes()[:-100])


def shorten(path):
  """Cuts off a file between two records, which its checksums do not show."""
  records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
  with tf.io.TFRecordWriter(str(path)) as file:
    for record in records[:-1]:
      file.write(record)


@pytest.mark.parametrize('damage', [cut, shorten, pathlib.Path.unlink])
def test_a_corrupt_file_is_named(tmp_path, image_files, damage):
  tiny = open_dataset(store(image_files, tmp_path), str(tmp_path))
  folder = tmp_path / 'tiny' / '1.0.0'
  damage(folder / 'tiny-train.tfrecord-00001-of-00003')
  damage(folder / 'tiny-validation.tfrecord-00002-of-00003')
  for read, file in (
    (lambda: train_batches(tiny, batch_size=8), '00001-of-00003'),
    (lambda: faults.find_faults(tiny, 'train'), '00001-of-00003'),
    (
      lambda: color_stats.compute_color_stats(tiny, 'train', 'warp', 40),
      '00001-of-00003',
    ),
    (
      lambda: list(
        input_pipeline.eval_batches(tiny, 'validation', PLAIN, batch_size=4)
      ),
      '00002-of-00003',
    ),
  ):
    with pytest.raises(UserError, match=rf'{file} of split .* corrupt'):
      read()


def test_a_file_format_that_cannot_be_streamed(tiny_dir, tmp_path):
  shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
  [info] = tmp_path.glob('tiny/*/dataset_info.json')
  text = info.read_text().replace('"tfrecord"', '"array_record"')
  info.write_text(text)
  with pytest.raises(
    UserError, match=r'format array_record.*data.prepare tiny'
  ):
    open_dataset('tiny', str(tmp_path))


def test_keys_of_another_dataset_are_refused(tiny, tmp_path):
  workdir = epath.Path(tmp_path)
  for keys, message in (
    (5, 'corrupt'),
    ('abc', 'corrupt'),
    ([1], 'corrupt'),
    (['bogus__1'], 'does not have'),
    (['tiny-train.tfrecord-00001-of-00003__99'], 'does not have'),
  ):
    text = json.dumps({'tiny/1.0.0': {'train': keys}})
    (workdir / faults.FILE).write_text(text)
    with pytest.raises(UserError, match=message):
      faults.skip_faults(tiny, ['train'], workdir, 0.5)


def test_to_devices_keeps_order(tiny):
  batches = train_batches(tiny, batch_size=8)
  sent = list(input_pipeline.to_devices(iter(batches), mesh_of()))
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
      decoding.decode_square(e['image'], how, 40)
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
      image = decoding.decode(example['image']).numpy()
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
    ('mnist', 'alexnet_jax.data.prepare mnist --data_dir='),
    ('imagenet2012', 'ILSVRC2012_img_train.tar'),
    ('imagenette/nosuch', 'nosuch'),
    ('cifar10:9.9.9', '9.9.9'),
    ('tiny:2.0.0', 'tiny'),
  ],
)
def test_a_dataset_that_does_not_exist(tmp_path, name, message):
  with pytest.raises(UserError, match=message) as error:
    open_dataset(name, str(tmp_path))
  assert '\n' not in str(error.value)


def test_another_version_than_the_one_prepared(tiny_dir, tmp_path):
  with pytest.raises(UserError, match=r'prepared there: 1\.0\.0'):
    open_dataset('tiny:2.0.0', str(tiny_dir))
  # A dataset that TFDS can build, in an older version.
  old = tmp_path / 'mnist' / '2.0.0'
  shutil.copytree(tiny_dir / 'tiny' / '1.0.0', old)
  with pytest.raises(
    UserError, match=r'mnist/3.* not prepared .*mnist 2\.0\.0'
  ):
    open_dataset('mnist:3.0.1', str(tmp_path))
  for name, how in (('tiny_256', 'short_side'), ('tiny_256_warp', 'warp')):
    with pytest.raises(UserError, match=f'--source=tiny --resize={how} --data'):
      open_dataset(name, str(tmp_path))


def test_a_split_that_does_not_exist(tiny):
  with pytest.raises(UserError, match='there are train, validation'):
    tiny.num_examples('test')
  assert tiny.num_examples('train[:50%]') == 32
  with pytest.raises(UserError, match='is empty'):
    tiny.num_examples('train[50%:10%]')
