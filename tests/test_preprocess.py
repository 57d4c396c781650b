import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import encode

from alexnet_jax.data import preprocess
from alexnet_jax.data.preprocessing import Preprocessing, at_epoch

EIGENVALUES = np.array([120.0, 35.0, 20.0]) ** 2
EIGENVECTORS = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]

PLAIN = Preprocessing(
  dataset='tiny/1.0.0',
  class_names=('a', 'b'),
  resize='short_side',
  resize_size=40,
  crop_size=32,
  mean=np.zeros(3),
  mean_crop='center',
  std=np.ones(3),
  flip=False,
  lighting='none',
  lighting_std=0.1,
  eigenvalues=EIGENVALUES,
  eigenvectors=EIGENVECTORS,
)


def train_view(encoded, i, p):
  """Returns the i-th view of an epoch: the network's input, and as sent."""
  draws = preprocess.draw(p, 2000, seed=7)
  drawn = {name: x[i] for name, x in draws.items()}
  view = preprocess.train_view(encoded, drawn, p)
  return preprocess.finish(view, p).numpy(), view


def eval_views(encoded, p, crops):
  view = preprocess.eval_views(encoded, p, crops)
  assert view['image'].dtype == tf.uint8
  return preprocess.finish(view, p).numpy()


def square(photographs):
  """A 40 x 40 image, as a PNG (which is exact) and as pixels."""
  pixels = photographs[0][200:240, 300:340]
  return encode(pixels, form='PNG'), pixels.astype(np.float32)


def test_all_crop_positions_are_drawn_and_no_other():
  # 9 x 9 positions of a 32 crop in 40 x 40, both ends included.
  drawn = preprocess.draw(PLAIN, 2000, seed=7)['place'].numpy()[:, :2]
  assert (
    {top for top, _ in drawn} == {left for _, left in drawn} == set(range(9))
  )
  # Uniform: 2000 / 81 = 24.7 of each, with a standard deviation of 5.
  counts = np.bincount([9 * top + left for top, left in drawn], minlength=81)
  assert counts.min() > 5
  assert counts.max() < 50


def test_train_view_is_a_crop_of_the_image(photographs):
  encoded, pixels = square(photographs)
  seen = set()
  for i in range(30):
    view, _ = train_view(encoded, i, PLAIN)
    at = [
      (top, left)
      for top in range(9)
      for left in range(9)
      if np.array_equal(view, pixels[top : top + 32, left : left + 32])
    ]
    assert len(at) == 1
    seen.update(at)
  assert len(seen) > 15
  again, _ = train_view(encoded, 29, PLAIN)
  np.testing.assert_array_equal(view, again)


def test_flip_is_half_and_half(photographs):
  encoded, pixels = square(photographs)
  p = dataclasses.replace(PLAIN, crop_size=40, flip=True)
  flipped = 0
  for i in range(200):
    view, _ = train_view(encoded, i, p)
    if np.array_equal(view, pixels[:, ::-1]):
      flipped += 1
    else:
      np.testing.assert_array_equal(view, pixels)
  assert 70 < flipped < 130


@pytest.mark.parametrize(
  ('mode', 'expected'),
  [
    ('sqrt_eigenvalue', 0.1 * np.sqrt(EIGENVALUES)),
    # The eigenvalue of the text, on pixels of [0, 1], in grey levels.
    ('eigenvalue', 255 * 0.1 * EIGENVALUES / 255**2),
  ],
)
def test_lighting_has_the_principal_components(mode, expected):
  p = dataclasses.replace(PLAIN, lighting=mode)
  offsets = preprocess.draw(p, 3000, seed=7)['lighting'].numpy()
  along = offsets @ EIGENVECTORS
  np.testing.assert_allclose(along.std(axis=0), expected, rtol=0.05)
  assert (np.abs(along.mean(axis=0)) < 0.08 * expected).all()
  correlation = np.corrcoef(along.T)
  assert np.abs(correlation - np.eye(3)).max() < 0.08


def test_lighting_shifts_the_whole_image_by_one_colour(photographs):
  encoded, pixels = square(photographs)
  p = dataclasses.replace(PLAIN, crop_size=40, lighting='sqrt_eigenvalue')
  view, _ = train_view(encoded, 3, p)
  shift = view - pixels
  assert np.ptp(shift, axis=(0, 1)).max() < 1e-3
  assert np.abs(shift).max() > 0.1


def test_mean_image_under_a_crop(photographs):
  encoded, pixels = square(photographs)
  mean = np.random.default_rng(5).uniform(0, 255, (40, 40, 3))
  mean = mean.astype(np.float32)
  plain = dataclasses.replace(PLAIN, flip=True)
  center = dataclasses.replace(plain, mean=mean)
  same = dataclasses.replace(center, mean_crop='same')
  flips = set()
  for i in range(5):
    crop, _ = train_view(encoded, i, plain)
    # The center of the mean image for any crop (the authors' code), or the part
    # under the crop, mirrored with it (Caffe).
    at_center, _ = train_view(encoded, i, center)
    np.testing.assert_allclose(at_center, crop - mean[4:36, 4:36], atol=1e-4)
    at_same, view = train_view(encoded, i, same)
    top, left, flip = view['place'].numpy()
    flips.add(int(flip))
    expected = (pixels - mean)[top : top + 32, left : left + 32]
    np.testing.assert_allclose(
      at_same, expected[:, ::-1] if flip else expected, atol=1e-4
    )
  assert flips == {0, 1}


def test_std_and_channel_mean(photographs):
  encoded, pixels = square(photographs)
  p = dataclasses.replace(
    PLAIN, mean=np.array([1.0, 2, 3]), std=np.array([2.0, 4, 8])
  )
  view = eval_views(encoded, p, 1)
  expected = (pixels[4:36, 4:36] - [1, 2, 3]) / [2, 4, 8]
  np.testing.assert_allclose(view, expected[None], atol=1e-5)


def test_ten_crops(photographs):
  encoded, pixels = square(photographs)
  views = eval_views(encoded, PLAIN, 10)
  corners = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
  crops = [pixels[t : t + 32, u : u + 32] for t, u in corners]
  expected = crops + [crop[:, ::-1] for crop in crops]
  np.testing.assert_array_equal(views, expected)


def test_json_round_trip():
  p = dataclasses.replace(PLAIN, color_stats={'dataset': 'tiny'})
  again = Preprocessing.from_json(p.to_json())
  for field in dataclasses.fields(p):
    ours, theirs = getattr(p, field.name), getattr(again, field.name)
    np.testing.assert_array_equal(ours, theirs)


def test_random_resized_crop_is_torchvisions():
  """Has the distribution of torchvision's algorithm, drawn with NumPy."""
  height, width, draws = 60, 150, 4000
  p = dataclasses.replace(PLAIN, train_crop='random_resized')
  u = preprocess.draw(p, draws, seed=7)['u']

  @tf.function
  def parts_of(u):
    return tf.map_fn(
      lambda u: tf.concat(preprocess.random_part([height, width], u), 0),
      u,
      fn_output_signature=tf.int32,
    )

  parts = parts_of(u).numpy()
  tops, lefts, heights, widths = parts.T
  assert (tops >= 0).all()
  assert (tops + heights <= height).all()
  assert (lefts >= 0).all()
  assert (lefts + widths <= width).all()

  rng = np.random.default_rng(0)

  def one():
    for _ in range(10):
      area = height * width * rng.uniform(0.08, 1)
      ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
      w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
      if 0 < w <= width and 0 < h <= height:
        top = rng.integers(0, height - h + 1)
        return top, rng.integers(0, width - w + 1), h, w
    # The image is wider than 4/3: the fallback is its middle of that shape.
    return 0, (width - 80) // 2, height, 80

  expected = np.array([one() for _ in range(draws)])
  for ours, theirs in zip(parts.T, expected.T, strict=True):
    at = np.linspace(0, 1, 21)
    error = np.abs(np.quantile(ours, at[1:-1]) - np.quantile(theirs, at[1:-1]))
    # Quantiles of 4000 draws, in an image of 150 pixels.
    assert error.max() < 6
    np.testing.assert_allclose(ours.mean(), theirs.mean(), atol=1.5)


@pytest.mark.parametrize(
  ('shape', 'expected'),
  [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10))],
)
def test_a_part_of_an_image_that_no_draw_fits(shape, expected):
  # At 100:1 even the smallest part is too high, and the middle is used, 4:3 or
  # 3:4.
  p = dataclasses.replace(PLAIN, train_crop='random_resized')
  u = preprocess.draw(p, 2, seed=7)['u'][0]
  assert tuple(np.concatenate(preprocess.random_part(shape, u))) == expected


def test_random_resized_view(photographs):
  encoded = encode(photographs[0][:90, :120], form='PNG')
  p = dataclasses.replace(
    PLAIN, train_crop='random_resized', mean=np.array([10.0, 20, 30])
  )
  view, _ = train_view(encoded, 1, p)
  assert view.shape == (32, 32, 3)
  others = [train_view(encoded, i, p)[0] for i in range(2, 6)]
  assert all(np.abs(view - other).max() > 1 for other in others)
  np.testing.assert_array_equal(view, train_view(encoded, 1, p)[0])
  # Evaluation does not depend on it.
  np.testing.assert_array_equal(
    eval_views(encoded, p, 1),
    eval_views(encoded, dataclasses.replace(p, train_crop='random'), 1),
  )


def test_center_crop_is_that_of_evaluation(photographs):
  encoded, _ = square(photographs)
  p = dataclasses.replace(PLAIN, crop_size=40, train_crop='center')
  for i in (1, 2):
    view, _ = train_view(encoded, i, p)
    np.testing.assert_array_equal(view, eval_views(encoded, p, 1)[0])


def test_lighting_that_rescales_and_ends(photographs):
  encoded, pixels = square(photographs)
  p = dataclasses.replace(
    PLAIN, crop_size=40, lighting='sqrt_eigenvalue', lighting_epochs=3
  )
  lit, _ = train_view(encoded, 3, p)
  rescaled = dataclasses.replace(p, lighting_rescale=True)
  np.testing.assert_allclose(
    train_view(encoded, 3, rescaled)[0], lit / 1.1, rtol=1e-5
  )
  for epoch in (0, 2):
    assert at_epoch(rescaled, epoch) == rescaled
  off = at_epoch(rescaled, 3)
  np.testing.assert_array_equal(train_view(encoded, 3, off)[0], pixels)
