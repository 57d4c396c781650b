"""Mean image and RGB principal components of a training set (section 4.1).

"We perform PCA on the set of RGB pixel values throughout the ImageNet training
set." One pass over it, in float64, before the first step; the result is kept
in the workdir with what it was computed over, never beside the data.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from alexnet_jax.data import input_pipeline, preprocess
from alexnet_jax.data.dataset import Dataset

_BATCH = 64


class ColorStats(NamedTuple):
  """Statistics of the training pictures' RGB pixels, in grey levels.

  Attributes:
    mean_image: mean over the pictures, float64 `[size, size, 3]`.
    mean: mean over all pixels, float64 `[3]`.
    std: standard deviation over all pixels, float64 `[3]`.
    eigenvalues: variances along the principal components, largest first,
      float64 `[3]`, in grey levels squared.
    eigenvectors: the components, in columns, float64 `[3, 3]`.
  """

  mean_image: np.ndarray
  mean: np.ndarray
  std: np.ndarray
  eigenvalues: np.ndarray
  eigenvectors: np.ndarray


def identity(
  dataset: Dataset, split: str, how: str, size: int
) -> dict[str, Any]:
  """What statistics are of: a change in any of these makes them stale."""
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
  """One pass over a split's pictures, resized to `size` x `size`.

  Args:
    dataset: a prepared set.
    split: the training split.
    how: 'short_side' or 'warp', as `preprocess.resize` has it.
    size: side of the square that is kept, in pixels.
  """
  examples = dataset.read(split).enumerate()
  batches = examples.map(
    lambda _, example: {
      'image': preprocess.resize(preprocess.decode(example['image']), how, size)
    },
    num_parallel_calls=tf.data.AUTOTUNE,
  ).batch(_BATCH)
  number = dataset.num_examples(split)
  image_sum = np.zeros((size, size, 3))
  product_sum = np.zeros((3, 3))
  with tqdm(
    total=number, desc='mean image and principal components', disable=None
  ) as bar:
    for batch in input_pipeline.iterate(batches, examples, _BATCH):
      images = batch['image']
      image_sum += images.sum(axis=0, dtype=np.float64)
      pixels = images.reshape(-1, 3).astype(np.float64)
      product_sum += pixels.T @ pixels
      bar.update(len(images))
  return _summarize(image_sum, product_sum, number)


def _summarize(image_sum, product_sum, number) -> ColorStats:
  mean_image = image_sum / number
  mean = mean_image.mean(axis=(0, 1))
  num_pixels = number * mean_image.shape[0] * mean_image.shape[1]
  covariance = product_sum / num_pixels - np.outer(mean, mean)
  eigenvalues, eigenvectors = np.linalg.eigh(covariance)  # Ascending.
  return ColorStats(
    mean_image=mean_image,
    mean=mean,
    std=np.sqrt(np.diag(covariance)),
    eigenvalues=np.maximum(eigenvalues[::-1], 0.0),
    eigenvectors=_fix_signs(eigenvectors[:, ::-1]),
  )


def _fix_signs(eigenvectors):
  """An eigenvector's sign is arbitrary: its largest entry made positive."""
  rows = np.abs(eigenvectors).argmax(axis=0)
  return eigenvectors * np.sign(eigenvectors[rows, range(3)])
