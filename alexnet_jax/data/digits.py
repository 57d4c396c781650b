"""The embedded dataset: real handwritten digits, without a download.

scikit-learn ships 1,797 grey 8x8 images of handwritten digits (the test part of
UCI's "Optical Recognition of Handwritten Digits", by 13 writers). This module
makes a TFDS dataset of them, which is read like any other.
"""

import os
import pathlib

import numpy as np
import sklearn.datasets
import tensorflow_datasets as tfds

_TEST_EVERY = 5  # Every fifth image of each class is a test image.


class Digits(tfds.core.GeneratorBasedBuilder):
  """scikit-learn's 1,797 handwritten digits, 8x8 grey, as PNG."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/80',
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing is downloaded.
    digits = sklearn.datasets.load_digits()
    images, labels = digits.images, digits.target
    # The position of each image among those of its class.
    rank = np.zeros(len(labels), int)
    for label in range(10):
      of_class = labels == label
      rank[of_class] = np.arange(of_class.sum())
    test = rank % _TEST_EVERY == _TEST_EVERY - 1
    return {
      'train': self._generate_examples(images, labels, ~test),
      'test': self._generate_examples(images, labels, test),
    }

  def _generate_examples(self, images, labels, chosen):
    for key in np.flatnonzero(chosen):
      # scikit-learn's grey levels are 0..16.
      pixels = np.round(images[key] * (255 / 16)).astype(np.uint8)
      yield int(key), {'image': pixels[..., None], 'label': int(labels[key])}


def default_data_dir() -> str:
  """Returns the folder in which digits are prepared without `data.data_dir`.

  It is not TFDS's own default, which may be a shared, read-only collection.
  """
  cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return str(pathlib.Path(cache) / 'alexnet_jax')
