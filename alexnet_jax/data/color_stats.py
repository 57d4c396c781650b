"""Mean image and RGB principal components of a training split (section 4.1).

"We perform PCA on the set of RGB pixel values throughout the ImageNet training
set." One pass before the first step adds up integers, so that the order of the
images does not matter. The workdir keeps the result together with what it was
computed from. A 256 x 256 dataset (`data.resized`) contains its statistics,
which were computed when it was built.
"""

import functools
import io
import zipfile
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import decoding, faults, input_pipeline, sizes, together
from alexnet_jax.data.dataset import Dataset

_BATCH = 64
_FILE = 'color_stats.npz'


class ColorStats(NamedTuple):
  """Statistics of the training images' RGB pixels, in grey levels (0 to 255).

  Attributes:
    mean_image: mean over the images, float64 `[size, size, 3]`.
    mean: mean over all pixels, float64 `[3]`.
    std: standard deviation over all pixels, float64 `[3]`.
    eigenvalues: variances along the principal components, largest first,
      float64 `[3]`, in grey levels squared.
    eigenvectors: the components, in columns, float64 `[3, 3]`.
    num_examples: number of images.
  """

  mean_image: np.ndarray
  mean: np.ndarray
  std: np.ndarray
  eigenvalues: np.ndarray
  eigenvectors: np.ndarray
  num_examples: np.ndarray


class ColorSums(NamedTuple):
  """Sums over images from which `ColorStats` follow; exact in any order.

  (Products up to 255^2 over the 8e10 pixels of ImageNet stay below 2^53.)

  Attributes:
    images: sum over the images, int64 `[size, size, 3]`.
    products: sum over pixels of their outer products, float64 `[3, 3]`.
    num_examples: number of images added.

  Example:
    >>> black, white = np.zeros((1, 8, 8, 3)), np.full((1, 8, 8, 3), 255)
    >>> sums = ColorSums.zero(8).add(black).add(white)
    >>> sums.summarize().mean.tolist()
    [127.5, 127.5, 127.5]
  """

  images: np.ndarray
  products: np.ndarray
  num_examples: int

  @classmethod
  def zero(cls, size: int) -> 'ColorSums':
    """Returns the sums over no image, for images of `size` x `size` pixels."""
    return cls(np.zeros((size, size, 3), np.int64), np.zeros((3, 3)), 0)

  def add(self, images: np.ndarray) -> 'ColorSums':
    """Returns the sums with more images added, uint8 `[n, size, size, 3]`."""
    pixels = images.reshape(-1, 3).astype(np.float64)
    return ColorSums(
      self.images + images.sum(axis=0, dtype=np.int64),
      self.products + pixels.T @ pixels,
      self.num_examples + len(images),
    )

  def merge(self, other: 'ColorSums') -> 'ColorSums':
    """Returns the sums over the images of both."""
    return ColorSums(
      self.images + other.images,
      self.products + other.products,
      self.num_examples + other.num_examples,
    )

  def summarize(self) -> ColorStats:
    """Returns the statistics of the images that were added, at least one."""
    mean_image = self.images / self.num_examples
    mean = mean_image.mean(axis=(0, 1))
    num_pixels = self.num_examples * mean_image.shape[0] * mean_image.shape[1]
    covariance = self.products / num_pixels - np.outer(mean, mean)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)  # Ascending.
    return ColorStats(
      mean_image=mean_image,
      mean=mean,
      std=np.sqrt(np.diag(covariance)),
      eigenvalues=np.maximum(eigenvalues[::-1], 0.0),
      eigenvectors=_fix_signs(eigenvectors[:, ::-1]),
      num_examples=np.array(self.num_examples),
    )


def _fix_signs(eigenvectors):
  """Makes the largest entry of each column positive; the sign is arbitrary."""
  rows = np.abs(eigenvectors).argmax(axis=0)
  return eigenvectors * np.sign(eigenvectors[rows, range(3)])


def identity(
  dataset: Dataset, split: str, how: str, size: int
) -> dict[str, Any]:
  """Returns what statistics depend on; if any of it differs, they are stale."""
  return {
    'dataset': dataset.full_name,
    'split': split,
    'num_examples': dataset.num_examples(split),
    'resize': how,
    'resize_size': size,
  }


def compute_color_stats(
  dataset: Dataset, split: str, how: str, size: int
) -> ColorStats:
  """Computes the statistics of a split's images, resized to `size` x `size`.

  This takes one pass over the split; each process of a run reads its part. A
  dataset of such squares that contains its statistics (`data.resized`) needs
  none.

  Args:
    dataset: a prepared dataset.
    split: the training split.
    how: 'short_side' or 'warp'; see `decoding.resize`.
    size: side of the resized square, in pixels.

  Raises:
    UserError: an example cannot be used, or a file is corrupt.
  """
  number = dataset.num_examples(split)
  is_square_jpeg = dataset.is_square_jpeg(size)
  if is_square_jpeg:
    stats = read_color_stats(dataset.builder.data_path, split)
    if stats is not None and stats.num_examples == number:
      return stats

  all_sums = together.from_all(
    lambda: _sums(dataset, split, how, size, is_square_jpeg)
  )
  return functools.reduce(ColorSums.merge, all_sums).summarize()


def _sums(
  dataset: Dataset, split: str, how: str, size: int, is_square_jpeg: bool
) -> ColorSums:
  """Returns the sums over this process's part of a split."""
  parts = dataset.parts(split, together.share())
  number = sum(part.number for part in parts)

  @tf.autograph.experimental.do_not_convert  # There is no Python to convert.
  def pixels_of(record):
    example = dataset.parse(record)
    encoded = sizes.checked(example['image'], dataset.max_pixels)
    image = decoding.decode_square(encoded, how, size, is_square_jpeg)
    return {'image': image, 'label': example['label']}

  batches = (
    dataset.records(split, parts)
    .map(pixels_of, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(_BATCH)
  )
  sums = ColorSums.zero(size)
  with tqdm(
    total=number, desc='mean image and principal components', disable=None
  ) as bar:
    for batch in input_pipeline.iterate(
      batches,
      lambda: dataset.read(split, parts).enumerate(),
      _BATCH,
      dataset,
      split,
    ):
      sums = sums.add(batch['image'])
      bar.update(len(batch['image']))
  if sums.num_examples != number:
    raise faults.corrupt_file(dataset, split)
  return sums


def write_color_stats(folder: epath.Path, stats: dict[str, ColorStats]) -> None:
  """Writes the statistics of each split into the folder of a dataset."""
  arrays = {
    f'{split}/{name}': array
    for split, of_split in stats.items()
    for name, array in of_split._asdict().items()
  }
  buffer = io.BytesIO()
  np.savez_compressed(buffer, allow_pickle=False, **arrays)
  (folder / _FILE).write_bytes(buffer.getvalue())


def read_color_stats(folder: epath.Path, split: str) -> ColorStats | None:
  """Returns the statistics of a split that a dataset's folder contains, if any.

  Raises:
    UserError: the file is corrupt.
  """
  path = epath.Path(folder) / _FILE
  if not path.exists():
    return None
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
      if f'{split}/mean' not in arrays:
        return None
      return ColorStats(
        **{name: arrays[f'{split}/{name}'] for name in ColorStats._fields}
      )
  except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} is corrupt ({error}): remove it to compute the statistics again'
    ) from error
