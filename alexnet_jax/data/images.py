"""Image files as people have them: of any format, sideways, transparent.

`decoding.py` reads JPEG, PNG, GIF and BMP as they are stored. Other files, and
those that a viewer would turn or show on a background, are converted here.
"""

import collections
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_jax.data import sizes

# HEIC is not read, but its files are images, which should not go unnoticed.
_SUFFIXES = (
  '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.webp', '.tif',
  '.tiff', '.avif', '.ppm', '.pgm', '.heic', '.heif',
)  # fmt: skip
_BY_TENSORFLOW = {'JPEG', 'PNG', 'GIF', 'BMP'}
_ORIENTATION = 0x0112  # Of EXIF.
# The brands of HEIF, in bytes 8 to 12 of a file.
_HEIC = (b'heic', b'heix', b'hevc', b'heim', b'heis', b'mif1', b'msf1')


def walk(folder: str) -> Iterator[tuple[str, bool]]:
  """Yields the files below a folder, and whether their names are images'.

  Hidden files and folders, and those that systems leave behind, are passed
  over.

  Args:
    folder: local or on gs://. Links to folders are not followed: they may form
      a loop.
  """
  is_remote = '://' in folder
  for path, folders, files in (tf.io.gfile.walk if is_remote else os.walk)(
    folder
  ):
    folders[:] = [name for name in sorted(folders) if not is_left_behind(name)]
    for name in sorted(files):
      if not is_left_behind(name):
        yield os.path.join(path, name), name.lower().endswith(_SUFFIXES)


def is_left_behind(name: str) -> bool:
  """Returns whether a file is hidden, or is left behind by a system."""
  return name.startswith('.') or name in (
    '__MACOSX', 'Thumbs.db', 'desktop.ini', '@eaDir', 'Icon\r',
  )  # fmt: skip


def read(path: str) -> bytes:
  """Returns the content of a file, local or on gs://, as `standard` does.

  Raises:
    ValueError: it cannot be read, or is no image; the message says why.
  """
  try:
    if '://' in path:
      encoded = tf.io.gfile.GFile(path, 'rb').read()
    else:  # TensorFlow takes no names that are not UTF-8.
      with open(path, 'rb') as file:
        encoded = file.read()
  except OSError as error:
    raise ValueError(error.strerror or str(error)) from error
  except tf.errors.OpError as error:
    raise ValueError(error.message) from error
  return standard(encoded)


def map_ahead(
  function: Callable[[Any], Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
  """Yields a function's results in order, computed by a thread for each core.

  Args:
    function: called with each item.
    items: read as they are needed, so that they need not fit in memory.
    ahead: how many results may be computed before they are needed.

  Example:
    >>> list(map_ahead(len, ['a', 'bcd'], ahead=1))
    [1, 3]
  """
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    pending: collections.deque[futures.Future[Any]] = collections.deque()
    try:
      for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
          yield pending.popleft().result()
      for future in pending:
        yield future.result()
    finally:
      pool.shutdown(cancel_futures=True)


def standard(encoded: bytes, upright: bool = True) -> bytes:
  """Returns an image file that `decoding.decode` shows as a viewer would.

  A file that it does already is returned unchanged. Any other becomes a PNG:
  upright by its EXIF orientation, its first frame if it is animated, on white
  if it is transparent, RGB with 8 bits.

  Args:
    encoded: the file, in any format that Pillow reads.
    upright: whether the EXIF orientation counts.

  Raises:
    ValueError: it is not such a file; the message says what it is.

  Example:
    >>> file = io.BytesIO()
    >>> Image.new('RGBA', (8, 6)).save(file, 'WEBP')
    >>> with Image.open(io.BytesIO(standard(file.getvalue()))) as image:
    ...   image.format, image.getpixel((0, 0))
    ('PNG', (255, 255, 255))
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      if image.width * image.height > sizes.MAX_PIXELS:
        raise Image.DecompressionBombError
      if _is_standard(image, upright):
        return encoded
      png = io.BytesIO()
      _as_shown(image, upright).save(png, 'PNG', compress_level=1)
      return png.getvalue()
  except UnidentifiedImageError as error:
    raise ValueError(_kind(encoded)) from error
  except Image.DecompressionBombError as error:  # Pillow has a limit, too.
    raise ValueError(f'more than {sizes.MAX_PIXELS:,} pixels') from error
  except (OSError, SyntaxError, EOFError) as error:
    raise ValueError(f'a damaged image ({error})') from error


def _is_standard(image: Image.Image, upright: bool) -> bool:
  return (
    image.format in _BY_TENSORFLOW
    and not getattr(image, 'is_animated', False)  # All frames are decoded.
    and not (upright and image.getexif().get(_ORIENTATION, 1) != 1)
    and not image.has_transparency_data
    and not image.mode.startswith(('I', 'F'))
  )


def _as_shown(image: Image.Image, upright: bool) -> Image.Image:
  image.seek(0)
  if upright:
    image = ImageOps.exif_transpose(image)
  if image.mode.startswith(('I', 'F')):
    # 16 bits of gray. Pillow itself would cut off all above 255.
    gray = np.asarray(image, np.float64)
    scale = 257 if gray.max() > 255 else 1
    image = Image.fromarray((gray / scale).round().clip(0, 255).astype('uint8'))
  if image.has_transparency_data:
    shown = image.convert('RGBA')
    white = Image.new('RGBA', shown.size, 'white')
    image = Image.alpha_composite(white, shown)
  return image.convert('RGB')


def _kind(encoded: bytes) -> str:
  """Returns what a file is that Pillow does not read."""
  if not encoded:
    return 'an empty file'
  if encoded[4:8] == b'ftyp' and encoded[8:12] in _HEIC:
    return 'HEIC, which is not read: convert it to JPEG (magick A.heic A.jpg)'
  return 'not an image'
