"""The files of weights that their authors published."""

import contextlib
import hashlib
import os
import pathlib
import tarfile
from typing import NamedTuple

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.data import imagenet
from alexnet_jax.pretrained import caffe, downloads
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
# A member of the archive, without a published digest. The mean of its pixels is
# `imagenet.CAFFE_MEAN`.
CAFFE_MEAN_ARCHIVE = f'{_CAFFE}/caffe_ilsvrc12.tar.gz'
CAFFE_MEAN_MEMBER = 'imagenet_mean.binaryproto'
_MAX_MEAN_BYTES = 2**24


class Fetched(NamedTuple):
  """Local copies of what was published.

  Attributes:
    path: of the weights.
    mean: of Caffe's mean image, for its networks.
  """

  path: str
  mean: str | None = None


def fetch(source: epath.PathLike) -> Fetched | None:
  """Returns the local copy of published weights, downloaded if needed.

  Args:
    source: a name of `PUBLISHED`, or the URL of a file of weights.

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
      path = downloads.fetch(published.url, published.digest)
      is_caffe = published.network != 'torchvision'
      return Fetched(str(path), _mean_image() if is_caffe else None)
  if source.startswith(('http://', 'https://')):
    return Fetched(str(downloads.fetch(source)))
  return None


def _mean_image() -> str:
  """Returns the path of Caffe's mean image."""
  archive = downloads.fetch(CAFFE_MEAN_ARCHIVE)
  path = str(archive.with_name(CAFFE_MEAN_MEMBER))
  try:
    if not os.path.exists(path):
      with tarfile.open(archive) as tar:
        member = tar.extractfile(CAFFE_MEAN_MEMBER)
        assert member is not None
        content = member.read(_MAX_MEAN_BYTES)
      write_file(path, lambda file: file.write(content))
    color = caffe.read_mean(path).mean((0, 1))
    if not np.allclose(color, imagenet.CAFFE_MEAN, atol=0.01):
      raise UserError(f'its mean color is {color.tolist()}')
  except (tarfile.TarError, EOFError, KeyError, AssertionError, UserError,
          ValueError) as error:  # fmt: skip
    # Nothing of it is kept, so that the next try starts anew.
    for file in (path, archive):
      with contextlib.suppress(OSError):
        os.unlink(file)
    raise UserError(
      f"{CAFFE_MEAN_ARCHIVE} does not hold Caffe's mean image: {error}. Try "
      'again, or convert the weights with --mean=FILE'
    ) from error
  return path


def is_published(path: str) -> bool:
  """Returns whether a file is one of `PUBLISHED`, by its content.

  Args:
    path: the file's; its name does not matter.

  Example:
    >>> is_published(__file__)
    False
  """
  algorithms = {published.digest.algorithm for published in PUBLISHED.values()}
  with pathlib.Path(path).open('rb') as file:
    digests = {}
    for algorithm in algorithms:
      file.seek(0)
      digests[algorithm] = hashlib.file_digest(file, algorithm).hexdigest()
  return any(
    digests[published.digest.algorithm].startswith(published.digest.start)
    for published in PUBLISHED.values()
  )
