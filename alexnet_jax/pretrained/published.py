"""The files of weights that their authors published."""

import hashlib
import pathlib
from typing import NamedTuple

_CAFFE = 'http://dl.caffe.berkeleyvision.org'


class Digest(NamedTuple):
  """A digest of a file, or its first digits, as far as they are published.

  Attributes:
    algorithm: its name in `hashlib`.
    start: hexadecimal digits.
  """

  algorithm: str
  start: str


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
