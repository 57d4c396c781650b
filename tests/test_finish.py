"""The last steps on the device: the host's numbers, a quarter of the bytes."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from test_data import RANDOM, open_dataset

from alexnet_jax.data import input_pipeline
from alexnet_jax.learning.finish import finisher

MEAN = np.random.default_rng(0).uniform(0, 255, (40, 40, 3))
STD = np.array([58.395, 57.12, 57.375])

CASES = {
  'mean image': {'mean': MEAN},
  'mean image under the crop': {'mean': MEAN, 'mean_crop': 'same'},
  'mean colour and std': {'mean': MEAN[0, 0], 'std': STD},
  'rescaled': {'mean': MEAN, 'lighting_rescale': True, 'std': STD},
  'unlit': {'mean': MEAN, 'lighting': 'none'},
  'resized parts': {'train_crop': 'random_resized', 'std': STD},
}


@pytest.fixture(scope='module')
def tiny(tiny_dir):
  return open_dataset('tiny:1.0.0', str(tiny_dir))


def size(batch):
  return sum(x.nbytes for x in batch.values())


@pytest.mark.parametrize('case', CASES)
def test_a_training_batch(tiny, case):
  p = dataclasses.replace(RANDOM, **CASES[case])
  host, device = (
    list(
      input_pipeline.train_batches(
        tiny, 'train', p, batch_size=32, seed=0, epoch=0, finish=finish
      )
    )
    for finish in ('host', 'device')
  )
  finish = jax.jit(finisher(p))
  for theirs, ours in zip(host, device, strict=True):
    assert ours['image'].dtype == np.uint8
    assert size(ours) < 0.26 * size(theirs)
    np.testing.assert_array_equal(finish(ours), theirs['image'])
    # What the host finished is left as it is.
    np.testing.assert_array_equal(finish(theirs), theirs['image'])


@pytest.mark.parametrize(
  ('case', 'crops'), list(itertools.product(list(CASES)[:3], (1, 10)))
)
def test_an_evaluation_batch(tiny, case, crops):
  p = dataclasses.replace(RANDOM, **CASES[case])
  host, device = (
    next(
      input_pipeline.eval_batches(
        tiny, 'validation', p, batch_size=4, crops=crops, finish=finish
      )
    )
    for finish in ('host', 'device')
  )
  assert device['image'].dtype == np.uint8
  np.testing.assert_array_equal(
    jax.jit(finisher(p, crops))(device), host['image']
  )
