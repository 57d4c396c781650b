"""The files of weights that their authors published."""

import contextlib
import gzip
import hashlib
import io
import os
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import is_url, write_file
from alexnet_jax.data import imagenet
from alexnet_jax.pretrained import caffe, downloads, torch_files
from alexnet_jax.pretrained.downloads import Digest

_CAFFE = 'http://dl.caffe.berkeleyvision.org'


class Published(NamedTuple):
  """A published file.

  Attributes:
    network: its name here.
    url: where it is published.
    digest: as its authors give it.
  """

  network: str
  url: str
  digest: Digest


# torchvision: AlexNet_Weights.IMAGENET1K_V1. Caffe: the readme.md of
# models/bvlc_alexnet and models/bvlc_reference_caffenet.
PUBLISHED = {
  'torchvision': Published(
    'torchvision',
    'https://download.pytorch.org/models/alexnet-owt-7be5be79.pth',
    Digest('sha256', '7be5be79'),
  ),
  'caffe': Published(
    'caffe',
    f'{_CAFFE}/bvlc_alexnet.caffemodel',
    Digest('sha1', '9116a64c0fbe4459d18f4bb6b56d647b63920377'),
  ),
  'caffenet': Published(
    'caffenet',
    f'{_CAFFE}/bvlc_reference_caffenet.caffemodel',
    Digest('sha1', '4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46'),
  ),
}
# Until 2021, torchvision's file was alexnet-owt-4df8aa71.pth.
_EARLIER = (Digest('sha256', '4df8aa71'),)
# A member of the archive, without a published digest. The mean of its pixels is
# `imagenet.CAFFE_MEAN`.
CAFFE_MEAN_ARCHIVE = f'{_CAFFE}/caffe_ilsvrc12.tar.gz'
CAFFE_MEAN_MEMBER = 'imagenet_mean.binaryproto'
# The most that is unpacked into memory.
_MAX_BYTES = 2**28


class Fetched(NamedTuple):
  """Local copies of what was published.

  Attributes:
    path: of the weights.
    mean: of Caffe's mean image, for its networks.
    is_checked: whether the weights have a published digest.
  """

  path: str
  mean: str | None = None
  is_checked: bool = True


def fetch(source: epath.PathLike, with_mean: bool = True) -> Fetched | None:
  """Returns the local copy of published weights, downloaded if needed.

  Args:
    source: a name of `PUBLISHED`, or the URL of a file of weights.
    with_mean: whether Caffe's mean image is needed for its networks.

  Returns:
    None if it is neither: then it is a file or a folder.

  Raises:
    UserError: it cannot be downloaded, or is another file than published.
    StorageError: the cache cannot be written.

  Example:
    >>> fetch('runs/torchvision') is None
    True
  """
  if not isinstance(source, str):
    return None
  for name, published in PUBLISHED.items():
    if source in (name, published.url):
      is_caffe = published.network != 'torchvision'
      if not is_caffe:
        torch_files.import_module('torch')  # Before 244 MB are downloaded.
      path = downloads.fetch(published.url, published.digest)
      mean = _mean_image() if is_caffe and with_mean else None
      return Fetched(str(path), mean)
  if is_url(source):
    return Fetched(str(downloads.fetch(source)), is_checked=False)
  return None


@contextlib.contextmanager
def naming(fetched: Fetched) -> Iterator[None]:
  """Adds to an error which file of the cache may be the wrong one.

  Raises:
    UserError: as inside it.
  """
  try:
    yield
  except UserError as error:
    if fetched.is_checked:
      raise
    raise UserError(
      f'{error}. To download it again, delete {fetched.path}'
    ) from error


def _mean_image() -> str:
  """Returns the path of Caffe's mean image."""
  archive = downloads.fetch(CAFFE_MEAN_ARCHIVE)
  path = str(archive.with_name(CAFFE_MEAN_MEMBER))
  try:
    if not os.path.exists(path):
      # Up to its end, where its checksum is.
      with gzip.open(archive) as file:
        unpacked = io.BytesIO(file.read(_MAX_BYTES))
      with tarfile.open(fileobj=unpacked) as tar:
        member = tar.extractfile(CAFFE_MEAN_MEMBER)
        assert member is not None
        content = member.read()
      write_file(path, lambda file: file.write(content))
    color = caffe.read_mean(path).mean((0, 1))
    if not np.allclose(color, imagenet.CAFFE_MEAN, atol=0.01):
      raise UserError(f'its mean color is {color.tolist()}')
  except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError,
          AssertionError, UserError, ValueError) as error:  # fmt: skip
    # Nothing of it is kept, so that the next try starts anew.
    for name in (path, str(archive)):
      with contextlib.suppress(OSError):
        os.unlink(name)
    raise UserError(
      f"{CAFFE_MEAN_ARCHIVE} does not hold Caffe's mean image: {error}. Try "
      'again, or convert the weights with --mean=FILE'
    ) from error
  return path


def is_published(path: str) -> bool:
  """Returns whether a file was published, by its content.

  Args:
    path: the file's; its name does not matter.

  Example:
    >>> is_published(__file__)
    False
  """
  wanted = [*_EARLIER, *(entry.digest for entry in PUBLISHED.values())]
  with pathlib.Path(path).open('rb') as file:
    digests = {}
    for algorithm in {digest.algorithm for digest in wanted}:
      file.seek(0)
      digests[algorithm] = hashlib.file_digest(file, algorithm).hexdigest()
  return any(
    digests[digest.algorithm].startswith(digest.start) for digest in wanted
  )
