import io

import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from PIL import Image

from alexnet_jax.data import decoding


@pytest.mark.parametrize(
  ('mode', 'form'),
  [('RGB', 'JPEG'), ('L', 'JPEG'), ('CMYK', 'JPEG'), ('RGB', 'PNG'),
   ('L', 'PNG'), ('RGBA', 'PNG'), ('P', 'PNG')],
)  # fmt: skip
def test_decode_is_rgb_whatever_the_file(photographs, mode, form):
  encoded = encode(photographs[1][:90, :70], mode, form)
  image = decoding.decode(encoded).numpy()
  assert image.shape == (90, 70, 3)
  assert image.dtype == np.uint8
  expected = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))
  # Decoders round differently; a wrong color would be tens of levels off.
  assert np.abs(image.astype(float) - expected).mean() < 3


@pytest.mark.parametrize('shape', [(120, 90), (90, 120), (20, 35), (40, 40)])
def test_resize_is_pils(photographs, shape):
  pixels = photographs[0][100 : 100 + shape[0], 50 : 50 + shape[1]]
  height, width = shape
  scale = 40 / min(shape)
  size = (int(width * scale + 1e-9), int(height * scale + 1e-9))
  resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
  left, top = (size[0] - 40) // 2, (size[1] - 40) // 2
  expected = np.asarray(resized)[top : top + 40, left : left + 40]
  image = decoding.resize(pixels, 'short_side', 40).numpy()
  assert image.shape == (40, 40, 3)
  assert (
    np.abs(image.astype(float) - expected).max() < 1.5
  )  # PIL rounds, twice.

  warped = decoding.resize(pixels, 'warp', 40).numpy()
  expected = Image.fromarray(pixels).resize((40, 40), Image.Resampling.BILINEAR)
  assert np.abs(warped.astype(float) - np.asarray(expected)).max() < 1.5


def crops(encoded, how, size, crop_size):
  """Yields crops of the square: decoded in part, and cut from the whole."""
  square = decoding.decode_square(encoded, how, size).numpy().astype(int)
  rest = size - crop_size
  for top, left in ((0, 0), (rest, rest), (rest // 2, 0), (rest // 3, rest)):
    part = decoding.decode_crop(
      encoded, how, size, tf.constant([top, left]), crop_size
    ).numpy()
    assert part.dtype == np.uint8
    yield (
      part.astype(int),
      square[top : top + crop_size, left : left + crop_size],
    )


@pytest.mark.parametrize('how', ['short_side', 'warp'])
@pytest.mark.parametrize(
  ('mode', 'form', 'options'),
  [
    ('RGB', 'JPEG', {}),
    ('RGB', 'JPEG', {'subsampling': 0}),
    ('RGB', 'JPEG', {'progressive': True}),
    ('L', 'JPEG', {}),
    ('CMYK', 'JPEG', {}),
    ('RGB', 'PNG', {}),
  ],
)
def test_a_crop_is_decoded_alone(photographs, how, mode, form, options):
  # Images of ImageNet's size, which shrink 1.3 to 1.7 times.
  for photograph in photographs:
    encoded = encode(photograph[:333, 10:510], mode, form, **options)
    for part, whole in crops(encoded, how, 256, 227):
      difference = np.abs(part - whole)
      # Without antialiasing it is 2.9 on these; a shift by a pixel gives 8 and
      # more.
      assert difference.mean() < 3.5
      moved = np.abs(part[:, 1:] - whole[:, :-1]).mean()
      assert moved > 2 * difference.mean()


@pytest.mark.parametrize('size', [(1600, 1067), (1400, 1800), (2200, 3300)])
@pytest.mark.parametrize('how', ['short_side', 'warp'])
def test_large_jpegs_are_decoded_smaller(photographs, how, size):
  large = Image.fromarray(photographs[1]).resize(size)
  encoded = encode(np.asarray(large))
  for part, whole in crops(encoded, how, 256, 227):
    difference = np.abs(part - whole).mean()
    assert difference < 3.5
    assert np.abs(part[:, 1:] - whole[:, :-1]).mean() > 2 * difference
  # A part of 3.3 times the size.
  part = decoding.decode_part(
    encoded,
    lambda shape: (tf.constant([101, 203]), tf.constant([333, 340])),
    100,
  ).numpy()
  cut = Image.open(io.BytesIO(encoded)).crop((203, 101, 543, 434))
  expected = np.asarray(cut.resize((100, 100), Image.Resampling.BILINEAR))
  assert np.abs(part.astype(int) - expected).mean() < 3.5


def test_no_edge_is_off_by_more_than_a_part_of_a_pixel():
  # A slope of one grey level per pixel each way: a shift by one pixel moves the
  # mean by one level.
  ramp = np.arange(120)[None, :, None] + np.arange(100)[:, None, None]
  encoded = encode(np.repeat(ramp, 3, 2).astype(np.uint8), form='PNG')
  for part, whole in crops(encoded, 'short_side', 71, 64):
    assert np.abs(part - whole).max() <= 1
    assert abs((part - whole).mean()) < 0.5


@pytest.mark.parametrize('shape', [(100, 160), (20, 30), (255, 250)])
def test_a_crop_of_a_small_image_is_the_same(photographs, shape):
  encoded = encode(photographs[0][: shape[0], : shape[1]])
  for part, whole in crops(encoded, 'short_side', 256, 227):
    assert np.abs(part - whole).max() <= 1


@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
def test_a_crop_of_a_square_is_not_resampled(photographs, form):
  encoded = encode(photographs[0][:256, :256], form=form)
  for part, whole in crops(encoded, 'short_side', 256, 227):
    # libjpeg has fewer pixels for the color of a crop's outermost ones.
    difference = np.abs(part - whole)
    assert difference[2:-2, 2:-2].max() == 0
    assert difference.mean() < 0.05
  if form == 'JPEG':
    known = decoding.decode_crop(
      encoded, 'short_side', 256, tf.constant([29, 0]), 227, True
    )
    unknown = decoding.decode_crop(
      encoded, 'short_side', 256, tf.constant([29, 0]), 227
    )
    np.testing.assert_array_equal(known, unknown)


def test_a_part_is_decoded_alone(photographs):
  photograph = photographs[1][:333, 10:510]
  place = ([20, 300], [300, 190])
  for form in ('JPEG', 'PNG'):
    encoded = encode(photograph, form=form)
    part = decoding.decode_part(
      encoded,
      lambda shape: (tf.constant(place[0]), tf.constant(place[1])),
      100,
    ).numpy()
    cut = Image.fromarray(decoding.decode(encoded).numpy()[20:320, 300:490])
    expected = np.asarray(cut.resize((100, 100), Image.Resampling.BILINEAR))
    assert np.abs(part.astype(int) - expected).mean() < 1.5


def test_a_very_thin_image_is_refused():
  for form in ('JPEG', 'PNG'):
    thin = encode(np.zeros((2, 300, 3), np.uint8), form=form)
    for decode in (
      decoding.decode,
      lambda x: decoding.decode_crop(x, 'warp', 40, [1, 1], 32),
    ):
      with pytest.raises(tf.errors.InvalidArgumentError, match='over 100'):
        decode(tf.constant(thin))


@pytest.mark.parametrize('options', [{}, {'progressive': True}])
def test_a_jpeg_that_is_cut_off_below_the_crop_is_noticed(photographs, options):
  """However it is cropped; what a camera appends is no damage."""
  whole = encode(photographs[0], **options)

  def decoded(jpeg):
    decoding.decode_crop(jpeg, 'short_side', 256, tf.constant([0, 0]), 64)
    decoding.decode_part(
      jpeg, lambda shape: (tf.zeros_like(shape), tf.constant([50, 50])), 64
    )
    decoding.decode_crop(jpeg, 'warp', 427, tf.constant([0, 0]), 64, True)

  for fine in (whole, whole + bytes(300), whole + whole[:5000]):
    decoded(tf.constant(fine))
  for cut in (whole[:-2], whole[:-50], whole[: len(whole) // 2]):
    for jpeg in (cut, cut + bytes(300)):
      with pytest.raises(tf.errors.InvalidArgumentError, match='JPEG'):
        decoded(tf.constant(jpeg))
