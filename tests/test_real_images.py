"""Trains and evaluates on real ImageNet files, if TFDS_DATA_DIR has them."""

import os

import pytest
from conftest import shared_images
from test_main import metrics, results, run

pytestmark = shared_images('imagenet2012')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """The first two steps of the paper's run."""
  folder = tmp_path_factory.mktemp('imagenet') / 'run'
  run(*arguments(folder), devices=1)
  return folder


def arguments(workdir):
  return (
    '--config=configs/imagenet.py',
    f'--workdir={workdir}',
    f'--config.data.data_dir={os.environ["TFDS_DATA_DIR"]}',
    '--config.data.val_split=validation[:60]',
    '--config.num_train_steps=2',
    '--config.batch_size=16',
  )


@pytest.mark.long
def test_the_papers_network_trains_on_imagenet_files(workdir):
  final = results(workdir)
  assert final['dataset'] == 'imagenet2012/5.1.0'
  assert final['num_examples'] == 60
  assert final['architecture'] == 'paper'
  train, validation = metrics(workdir)
  assert train['step'] == validation['step'] == 2
  assert 0 < train['loss'] < 30


@pytest.mark.long
def test_every_image_is_scored_once(workdir):
  expected = results(workdir)
  for devices, batch_size in ((3, 7),):
    run(
      *arguments(workdir),
      '--mode=eval',
      f'--config.eval.batch_size={batch_size}',
      devices=devices,
    )
    scored = results(workdir)
    assert scored['num_examples'] == 60
    for name in ('top1_error', 'top5_error', 'loss'):
      assert scored[name] == pytest.approx(expected[name], abs=1e-5)
