"""The 256 x 256 dataset, built with Beam on this machine."""

import dataclasses
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import store
from test_data import cut, shorten
from test_preprocess import PLAIN

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import (
  color_stats,
  dataset,
  decoding,
  faults,
  input_pipeline,
)
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.data.resized import builder as resized
from alexnet_jax.data.resized.__main__ import main

pytest.importorskip('apache_beam', reason='NEEDS BEAM: make venv EXTRAS=beam')
pytestmark = [
  # Raised inside Beam 2.77, at import and when it runs.
  pytest.mark.filterwarnings('ignore::DeprecationWarning'),
  pytest.mark.filterwarnings('ignore::FutureWarning'),
  pytest.mark.filterwarnings('ignore::ResourceWarning'),
]


@pytest.fixture(scope='module')
def source(tiny_dir):
  return open_dataset('tiny:1.0.0', str(tiny_dir))


@pytest.fixture(scope='module')
def made(source, tmp_path_factory):
  folder = tmp_path_factory.mktemp('resized')
  main(
    [
      '--source=tiny:1.0.0',
      f'--data_dir={source.data_dir}',
      f'--out_dir={folder}',
    ]
  )
  return open_dataset('tiny_256', str(folder))


def examples(of, split):
  return list(of.read(split).as_numpy_iterator())


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_images_are_resized_and_all_else_is_kept(source, made, split):
  assert made.full_name == 'tiny_256/1.0.0'
  assert made.origin == source.full_name
  assert made.class_names == source.class_names
  assert made.is_square_jpeg(256)
  for theirs, ours in zip(
    examples(source, split), examples(made, split), strict=True
  ):
    assert ours['label'] == theirs['label']
    assert ours['key'] == theirs['key'].replace(b'tiny-', b'tiny_256-')
    image = decoding.resize(decoding.decode(theirs['image']), 'short_side', 256)
    assert ours['image'] == tf.io.encode_jpeg(image, quality=95).numpy()


def test_it_contains_its_statistics(made):
  for split in ('train', 'validation'):
    stored = color_stats.compute_color_stats(made, split, 'short_side', 256)
    sums = color_stats.ColorSums.zero(256)
    for example in examples(made, split):
      sums = sums.add(tf.io.decode_jpeg(example['image']).numpy()[None])
    for a, b in zip(stored, sums.summarize(), strict=True):
      np.testing.assert_array_equal(a, b)
  # They are of all splits that exist; for a part of one they are computed.
  assert color_stats.read_color_stats(made.builder.data_path, 'test') is None
  part = color_stats.compute_color_stats(made, 'train[:9]', 'short_side', 256)
  assert part.num_examples == 9


def test_a_seed_gives_the_same_views_of_source_and_resized(source, made):
  p = dataclasses.replace(PLAIN, resize_size=256, crop_size=227, flip=True)

  def batches(of):
    return input_pipeline.train_batches(
      of, 'train', p, batch_size=16, seed=3, epoch=1
    )

  for ours, theirs in zip(batches(made), batches(source), strict=True):
    np.testing.assert_array_equal(ours['label'], theirs['label'])
    # The source's images grow: they differ only by what JPEG loses.
    assert np.abs(ours['image'] - theirs['image']).mean() < 3


def test_it_is_not_built_twice(source, made, capsys):
  folder = pathlib.Path(made.data_dir)

  def times():
    return {p: p.stat().st_mtime for p in folder.rglob('*') if p.is_file()}

  before = times()
  main(
    [
      '--source=tiny:1.0.0',
      f'--data_dir={source.data_dir}',
      f'--out_dir={folder}',
    ]
  )
  assert 'tiny_256/1.0.0 exists already' in capsys.readouterr().out
  assert times() == before


def test_another_way_of_resizing_is_refused(made):
  made.check_resize('short_side')
  with pytest.raises(UserError, match=r'Build the other .*--resize=warp'):
    made.check_resize('warp')


def test_another_revision_is_refused(made, monkeypatch):
  monkeypatch.setattr(dataset, 'RESIZED_REVISION', 2)
  with pytest.raises(UserError, match=r'revision 1 .* this is 2'):
    open_dataset('tiny_256', str(made.data_dir))


def test_a_corrupt_image_is_named_or_skipped(tmp_path, image_files):
  files = list(image_files)
  files[37] = (image_files[37][0][:600], 0)
  source = open_dataset(store(files, tmp_path), str(tmp_path))
  with pytest.raises(UserError, match=r'00001-of-00003__16 of split .train.'):
    resized.build(resized.resized_builder(source, str(tmp_path)))
  # It leaves nothing that could be opened or that fills the disk.
  assert [p.name for p in (tmp_path / 'tiny_256').iterdir()] == ['.lock']
  with pytest.raises(UserError, match='1 of 64 images'):
    resized.build(
      resized.resized_builder(source, str(tmp_path), skip_errors=True)
    )
  builder = resized.resized_builder(
    source, str(tmp_path), 'warp', skip_errors=True, max_error_rate=0.02
  )
  resized.build(builder)
  made = open_dataset('tiny_256_warp', str(tmp_path))
  assert made.num_examples('train') == 63
  assert made.resized['left_out'] == {'train': 1, 'validation': 0}
  assert made.resized['resize'] == 'warp'


@pytest.mark.parametrize('damage', [cut, shorten, pathlib.Path.unlink])
def test_a_corrupt_file_is_named(tmp_path, image_files, damage):
  source = open_dataset(store(image_files, tmp_path), str(tmp_path))
  damage(tmp_path / 'tiny' / '1.0.0' / 'tiny-train.tfrecord-00001-of-00003')
  builder = resized.resized_builder(
    source, str(tmp_path), skip_errors=True, max_error_rate=1.0
  )
  with pytest.raises(UserError, match=r'00001-of-00003 of split .* corrupt'):
    resized.build(builder)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ('runer=DataflowRunner', "unknown option 'runer"),
    ('foo', "unknown option 'foo'"),
    ('runner=FlinkRunnr', 'FlinkRunnr'),
    ('direct_num_workers=x', 'direct_num_workers'),
    ('runner=DataflowRunner', 'project'),
  ],
)
def test_invalid_beam_options(source, tmp_path, options, message):
  builder = resized.resized_builder(source, str(tmp_path))
  with pytest.raises(UserError, match=message):
    resized.build(builder, options)


def test_a_second_build_at_the_same_time_is_refused(source, tmp_path):
  builder = resized.resized_builder(source, str(tmp_path))
  with resized._locked(builder), pytest.raises(UserError, match='another proc'):
    resized.build(builder)


SLOW = """
import sys, time
from alexnet_jax.data.resized import builder
from alexnet_jax.data.resized.__main__ import main
resize_file = builder.resize_file
def slowly(task):
  made = resize_file(task)
  print('made', task.number, file=sys.__stdout__, flush=True)
  time.sleep(30)
  return made
builder.resize_file = slowly
main(sys.argv[1:])
"""


@pytest.mark.long
@pytest.mark.long
def test_killed_and_started_again(source, tmp_path, capsys):
  arguments = [
    '--source=tiny:1.0.0',
    f'--data_dir={source.data_dir}',
    f'--out_dir={tmp_path}',
  ]
  process = subprocess.Popen(
    [sys.executable, '-c', SLOW, *arguments], stdout=subprocess.PIPE, text=True
  )
  try:
    for line in process.stdout:
      if line.startswith('made'):
        break
  finally:
    process.send_signal(signal.SIGKILL)
    process.communicate()
  left = [p for p in (tmp_path / 'tiny_256').iterdir() if p.name != '.lock']
  assert len(left) == 1
  assert list(left[0].iterdir())  # The unfinished dataset.
  with pytest.raises(UserError, match='tiny_256'):
    open_dataset('tiny_256', str(tmp_path))
  main(arguments)
  assert 'removing what an interrupted build left' in capsys.readouterr().out
  names = {p.name for p in (tmp_path / 'tiny_256').iterdir()}
  assert names == {'.lock', '1.0.0'}
  made = open_dataset('tiny_256', str(tmp_path))
  assert len(examples(made, 'train')) == 64
  assert faults.find_faults(made, 'train') == []


def test_bad_arguments(tmp_path, made):
  for arguments, message in (
    (['--source=nosuch'], 'unknown dataset'),
    (['--source=tiny_256', f'--data_dir={made.data_dir}'],
     r'already resized, from tiny/1\.0\.0'),
    ([], '--source'),
    (['--source=tiny', '--resize=x'], 'x'),
  ):  # fmt: skip
    with pytest.raises(UserError, match=message):
      main(arguments)
