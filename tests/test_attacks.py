"""Images that are made to take all memory: refused or skipped by their size."""

import dataclasses
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import encode, store
from etils import epath
from PIL import Image
from test_preprocess import PLAIN

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import faults, images, input_pipeline, sizes
from alexnet_jax.data.dataset import open_dataset


def chunk(kind, data):
  """A chunk of a PNG."""
  end = zlib.crc32(kind + data).to_bytes(4, 'big')
  return len(data).to_bytes(4, 'big') + kind + data + end


def exif(number, loop=False):
  """EXIF with as many tags, the orientation last, maybe in a loop."""
  tables = b''
  numbers = [*range(1000, 1000 + number - 1), 0x0112]
  while numbers:
    some, numbers = numbers[:50_000], numbers[50_000:]
    tables += len(some).to_bytes(2, 'little')
    for tag in some:
      tables += struct.pack('<HHII', tag & 0xFFFF, 3, 1, 6)
    more = len(tables) + 12 if numbers else 8 * loop
    tables += more.to_bytes(4, 'little')
  return b'II*\0' + (8).to_bytes(4, 'little') + tables


def png(width, height, more=b''):
  """A PNG of one bit a pixel, all black: 1,000 times smaller than that."""
  header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
  pack = zlib.compressobj(1)
  rows = bytes((width + 7) // 8 + 1) * 100
  pixels = b''.join(pack.compress(rows) for _ in range(height // 100))
  pixels += pack.flush()
  parts = chunk(b'IHDR', header + b'\1\0\0\0\0') + more + chunk(b'IDAT', pixels)
  return b'\x89PNG\r\n\x1a\n' + parts + chunk(b'IEND', b'')


def jpeg(width, height):
  """A JPEG whose header names other sides than it has."""
  small = bytearray(encode(np.zeros((16, 16, 3), np.uint8)))
  at = small.index(b'\xff\xc0') + 5
  small[at : at + 4] = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
  return bytes(small)


def gif(side, frames):
  """A GIF that repeats its frame."""
  buffer = io.BytesIO()
  Image.new('P', (side, side)).save(buffer, 'GIF')
  one = buffer.getvalue()
  begin = one.index(b'\x2c', 13 + 3 * 2 ** ((one[10] & 7) + 1))
  return one[:begin] + one[begin:-1] * frames + b';'


def bmp(width, height):
  buffer = io.BytesIO()
  Image.new('RGB', (8, 8)).save(buffer, 'BMP')
  file = bytearray(buffer.getvalue())
  file[18:26] = width.to_bytes(4, 'little') + height.to_bytes(4, 'little')
  return bytes(file)


BOMBS = {
  'png': lambda: png(50_000, 50_000),
  'jpeg': lambda: jpeg(60_000, 60_000),
  'gif': lambda: gif(2000, 100),
  'bmp': lambda: bmp(40_000, 40_000),
}


@pytest.fixture(scope='module')
def bombs():
  return {name: make() for name, make in BOMBS.items()}


def test_the_number_of_pixels_is_read_from_the_header(photographs, bombs):
  cut = photographs[0][:31, :70]
  for form in ('JPEG', 'PNG', 'GIF', 'BMP'):
    assert sizes.num_pixels(encode(cut, form=form)) == 31 * 70, form
  down = bytearray(bmp(8, 8))
  down[22:26] = (-8).to_bytes(4, 'little', signed=True)
  assert sizes.num_pixels(bytes(down)) == 64
  frames = [Image.fromarray(cut + i) for i in range(5)]
  moving = io.BytesIO()
  frames[0].save(moving, 'GIF', save_all=True, append_images=frames[1:])
  assert sizes.num_pixels(moving.getvalue()) == 5 * 31 * 70
  assert sizes.num_pixels(bombs['gif']) == 2000 * 2000 * 100


@pytest.mark.parametrize(
  'file',
  [b'', b'GIF89a', b'BM', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff', b'RIFF'],
)
def test_a_file_that_is_cut_in_its_header(file):
  try:
    assert sizes.num_pixels(file) == 0
  except tf.errors.InvalidArgumentError:
    assert not file.startswith((b'GIF', b'BM', b'\x89PNG'))


def test_images_that_are_too_large_are_named_or_skipped(
  tmp_path, image_files, bombs
):
  name = store(image_files, tmp_path)
  files = sorted((tmp_path / 'tiny' / '1.0.0').glob('*train*-of-00003'))
  for path, bomb in zip(files, bombs.values(), strict=False):
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as file:
      for i, record in enumerate(records):
        example = tf.train.Example.FromString(record)
        if i == 5:
          example.features.feature['image'].bytes_list.value[:] = [bomb]
        file.write(example.SerializeToString())
  dataset = open_dataset(name, str(tmp_path))

  def train(dataset):
    batches = input_pipeline.train_batches(
      dataset, 'train', PLAIN, batch_size=4, seed=0, epoch=0
    )
    return sum(len(batch['label']) for batch in batches)

  with pytest.raises(
    UserError,
    match=r'cannot decode image tiny-train.*__5 of split .* more than '
    r'134,217,728 pixels \(data.max_pixels\); fix or remove it, or skip',
  ):
    train(dataset)
  usable = faults.skip_faults(dataset, ['train'], epath.Path(tmp_path), 0.1)
  assert len(usable.skipped['train']) == len(files)
  assert train(usable) == (64 - len(files)) // 4 * 4
  # What is too large is a choice.
  with pytest.raises(UserError, match=r'more than 10,000 pixels'):
    train(dataclasses.replace(usable, max_pixels=10_000))


def test_image_files_that_are_too_large_are_refused(bombs):
  for name in ('png', 'jpeg', 'bmp'):
    with pytest.raises(ValueError, match='more than 134,217,728 pixels'):
      images.standard(bombs[name])
  # The first frame is an image like any other.
  with Image.open(io.BytesIO(images.standard(bombs['gif']))) as frame:
    assert (frame.format, frame.size) == ('PNG', (2000, 2000))


MEMORY = """
import resource, sys, time
import tensorflow as tf
from alexnet_jax.data import decoding, images, sizes
tf.constant(0)  # Starts TensorFlow.
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
for path in sys.argv[1:]:
  content = open(path, 'rb').read()
  try:
    decoding.decode(sizes.checked(tf.constant(content), sizes.MAX_PIXELS))
  except tf.errors.InvalidArgumentError:
    pass
  try:
    decoding.decode(tf.constant(images.standard(content)))
  except (ValueError, tf.errors.InvalidArgumentError):
    pass
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(used // 1024, time.monotonic() - began)
"""


@pytest.mark.long
def test_attacks_take_little_memory_and_time(tmp_path, bombs):
  packed = zlib.compressobj(9)
  text = b''.join(packed.compress(bytes(1 << 20)) for _ in range(1024))
  files = {
    **bombs,
    'many tags': png(9, 900, chunk(b'eXIf', exif(100_000))),
    'tags without end': png(9, 900, chunk(b'eXIf', exif(100_000, loop=True))),
    'text of 1 GB': png(
      9, 900, chunk(b'zTXt', b'a\0\0' + text + packed.flush())
    ),
  }
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  done = subprocess.run(
    [sys.executable, '-c', MEMORY, *(str(tmp_path / name) for name in files)],
    stdout=subprocess.PIPE,
    check=True,
    text=True,
  )
  megabytes, seconds = map(float, done.stdout.split())
  assert megabytes < 500
  assert seconds < 20
