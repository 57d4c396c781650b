"""`data.finish=device`: the host's numbers from a quarter of the bytes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_data import RANDOM, open_dataset

from alexnet_jax.data import input_pipeline
from alexnet_jax.learning.finish import finisher
from alexnet_jax.model.conv import to_blocks
from alexnet_jax.model.layer_types import Conv
from alexnet_jax.runs import scoring

MEAN = np.random.default_rng(0).uniform(0, 255, (40, 40, 3))
STD = np.array([58.395, 57.12, 57.375])

CASES = {
  'mean image': {'mean': MEAN},
  'mean image under the crop': {'mean': MEAN, 'mean_crop': 'same'},
  'mean color and std': {'mean': MEAN[0, 0], 'std': STD},
  'rescaled': {'mean': MEAN, 'lighting_rescale': True, 'std': STD},
  'unlit': {'mean': MEAN, 'lighting': 'none'},
  'resized parts': {'train_crop': 'random_resized', 'std': STD},
}


@pytest.fixture(scope='module')
def tiny(tiny_dir):
  return open_dataset('tiny:1.0.0', str(tiny_dir))


def size(batch):
  return sum(x.nbytes for x in batch.values())


# The first pads a border that must stay 0, the second drops pixels.
BLOCKS = {
  'pixels': None,
  'blocks': Conv(8, kernel=11, stride=4, padding=(2, 2)).blocks(32),
  'fewer pixels': Conv(8, kernel=3, stride=4).blocks(32),
}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('cut', BLOCKS)
def test_a_training_batch(tiny, case, cut):
  p = dataclasses.replace(RANDOM, **CASES[case])
  blocks = BLOCKS[cut]
  host, device = (
    list(
      input_pipeline.train_batches(
        tiny,
        'train',
        p,
        batch_size=32,
        seed=0,
        epoch=0,
        finish=finish,
        blocks=blocks,
      )
    )
    for finish in ('host', 'device')
  )
  finish = jax.jit(finisher(p, blocks=blocks))
  for theirs, ours in zip(host, device, strict=True):
    assert ours['image'].dtype == np.uint8
    assert size(ours) < 0.26 * size(theirs)
    np.testing.assert_array_equal(finish(ours), theirs['image'])
    # What the host has finished is not changed.
    np.testing.assert_array_equal(finish(theirs), theirs['image'])


@pytest.mark.parametrize(
  ('case', 'crops'), list(itertools.product(list(CASES)[:3], (1, 10)))
)
@pytest.mark.parametrize('cut', list(BLOCKS)[:2])
def test_an_evaluation_batch(tiny, case, crops, cut):
  p = dataclasses.replace(RANDOM, **CASES[case])
  host, device = (
    next(
      input_pipeline.eval_batches(
        tiny,
        'validation',
        p,
        batch_size=4,
        crops=crops,
        finish=finish,
        blocks=BLOCKS[cut],
      )
    )
    for finish in ('host', 'device')
  )
  assert device['image'].dtype == np.uint8
  np.testing.assert_array_equal(
    jax.jit(finisher(p, crops, BLOCKS[cut]))(device), host['image']
  )


@pytest.mark.parametrize('cut', list(BLOCKS)[1:])
def test_blocks_are_the_pixels_rearranged(tiny, cut):
  pixels, blocks = (
    next(
      input_pipeline.train_batches(
        tiny, 'train', RANDOM, batch_size=8, seed=0, epoch=0, blocks=blocks
      )
    )
    for blocks in (None, BLOCKS[cut])
  )
  np.testing.assert_array_equal(
    to_blocks(pixels['image'], BLOCKS[cut]), blocks['image']
  )


def test_the_host_finishes_in_the_networks_dtype(tiny):
  wide, narrow = (
    next(
      input_pipeline.train_batches(
        tiny, 'train', RANDOM, batch_size=8, seed=0, epoch=0, dtype=dtype
      )
    )['image']
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert narrow.nbytes == wide.nbytes // 2
  # As the network itself would round it.
  np.testing.assert_array_equal(wide.astype(jnp.bfloat16), narrow)


@pytest.mark.parametrize('crops', [1, 10])
def test_ten_crops_fill_no_larger_batch(tiny, crops):
  batches = list(
    scoring.device_batches(
      tiny, 'validation', RANDOM, batch_size=20, crops=crops
    )
  )
  for batch in batches:
    assert batch['image'].shape[2] == crops
    views = np.prod(batch['image'].shape[:3])
    assert views < 20 + crops * jax.device_count()
  assert sum(np.sum(batch['mask']) for batch in batches) == 19


@pytest.mark.parametrize(
  ('batch_size', 'crops', 'devices', 'expected'),
  [(256, 1, 3, 258), (256, 10, 1, 25), (256, 10, 4, 28), (7, 10, 8, 8)],
)
def test_number_of_images_in_a_batch(batch_size, crops, devices, expected):
  assert scoring.num_images(batch_size, crops, devices) == expected
