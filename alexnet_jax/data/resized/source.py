"""A source of images: its classes, its splits, and where each image is."""

import hashlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet

# The splits by the names that people give them.
SPLITS = {
  'train': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'test': 'test',
}
_PIECE = 500  # Images.


class Image(NamedTuple):
  """An image file of a source.

  Attributes:
    name: of the file, which is unique in its split.
    label: its class.
    path: of the file that holds it.
    start: position in that file, in bytes; in a parquet file its row.
    size: number of bytes; None: to the end.
  """

  name: str
  label: int
  path: str
  start: int = 0
  size: int | None = None


class Source(NamedTuple):
  """Images that are not a TFDS dataset.

  Attributes:
    form: what it is, for people.
    class_names: by label.
    splits: for each split its images, in the order in which they are stored.
    upright: whether images are turned by their EXIF orientation. ImageNet's
      own files, and datasets of decoded images, are taken as they are.
  """

  form: str
  class_names: tuple[str, ...]
  splits: dict[str, list[Image]]
  upright: bool

  def pieces(self) -> Iterator[tuple[str, list[Image]]]:
    """Yields parts of the splits, each for one worker."""
    for split, members in self.splits.items():
      for start in range(0, len(members), _PIECE):
        yield split, members[start : start + _PIECE]


def position(name: str) -> int:
  """Returns where an image belongs in its split: a hash of its name."""
  digest = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()
  return int.from_bytes(digest[:8])


def split_of(path: pathlib.Path) -> str:
  """Returns the split in a file's name, such as imagenet-val-0001.tar."""
  for word in re.split(r'[^a-z]+', path.name.lower()):
    if word in SPLITS:
      return SPLITS[word]
  return 'train'


def checked_names(
  names: Sequence[str], splits: dict[str, list[Image]], folder: pathlib.Path
) -> tuple[str, ...]:
  """Returns the class names, or numbers where there are none; checks them."""
  if not splits.get('train'):
    raise UserError(f'{folder} (--source) has no images of the split train')
  most = max(image.label for members in splits.values() for image in members)
  least = min(image.label for members in splits.values() for image in members)
  if least < 0:
    raise UserError(
      f'{folder} (--source) has the label {least}: images without a class '
      'cannot be used'
    )
  if not names:
    return tuple(map(str, range(most + 1)))
  if most >= len(names):
    raise UserError(
      f'{folder} (--source) has the label {most}, but {len(names)} class names'
    )
  # Hugging Face names ImageNet's classes by their words.
  synsets = imagenet.synsets()
  return tuple(synsets if list(names) == list(synsets.values()) else names)
