"""Fixtures: small real images, a small network, and eight CPU devices."""

import io
import os

# Before JAX and TensorFlow start.
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=8 '
  # Compiles in less time, and rounds a little differently.
  '--xla_backend_optimization_level=1'
)
# Even if there is a GPU or TPU, or libtpu is installed to compile for one.
os.environ['JAX_PLATFORMS'] = 'cpu'

import narrow  # noqa: F401 # Adds its network to ARCHITECTURES.
import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from PIL import Image

from alexnet_jax.data import imagenet
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.build import abstract_params
from alexnet_jax.pretrained import conversion

logging.set_verbosity(logging.ERROR)

CLASS_NAMES = ('china', 'flower', 'texture')


@pytest.fixture(scope='session')
def photographs():
  """Returns scikit-learn's two photographs, uint8 `[427, 640, 3]`."""
  return sklearn.datasets.load_sample_images().images


def encode(pixels, mode='RGB', form='JPEG', **options):
  """Returns an image file as bytes."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(
    buffer, form, quality=95, **options
  )
  return buffer.getvalue()


@pytest.fixture(scope='session')
def image_files(photographs):
  """Returns 83 image files with labels: crops of photographs, of many sizes.

  The first four are a grey JPEG, a PNG, a CMYK JPEG and a tiny JPEG.
  """
  rng = np.random.default_rng(0)
  files = []
  for i in range(83):
    label = i % 3
    photograph = photographs[label % 2]
    height, width = rng.integers(80, 200, 2)
    top = rng.integers(0, 427 - height)
    left = rng.integers(0, 640 - width)
    cut = photograph[top : top + height, left : left + width]
    if label == 2:
      cut = cut[::-1] // 2
    files.append((encode(cut), label))
  cut = photographs[0][100:220, 100:260]
  files[0] = (encode(cut, 'L'), 0)
  files[1] = (encode(cut, form='PNG'), 1)
  files[2] = (encode(cut, 'CMYK'), 2)
  files[3] = (encode(cut[:20, :30]), 0)
  return files


def store(files, data_dir, names=CLASS_NAMES, num_train=64):
  """Stores image files as the TFDS dataset `tiny`: 64 train, 19 validation.

  Labels may be lists.
  """
  label = tfds.features.ClassLabel(names=names)
  if isinstance(files[0][1], list):
    label = tfds.features.Sequence(label)

  class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = None

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(None, None, 3)),
            'label': label,
          }
        ),
        supervised_keys=('image', 'label'),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      examples = [
        (i, {'image': io.BytesIO(encoded), 'label': label})
        for i, (encoded, label) in enumerate(files)
      ]
      return {'train': examples[:num_train], 'validation': examples[num_train:]}

    def _generate_examples(self):
      raise AssertionError('the examples are given above')

  tfds.disable_progress_bar()
  Tiny(data_dir=str(data_dir)).download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=3)
  )
  return 'tiny:1.0.0'


@pytest.fixture(scope='session')
def tiny_dir(tmp_path_factory, image_files):
  """Returns a `data_dir` with the TFDS dataset `tiny:1.0.0`."""
  data_dir = tmp_path_factory.mktemp('tfds')
  store(image_files, data_dir)
  return data_dir


SYNSETS = ('n01440764', 'n02102040', 'n02979186', 'n03000684', 'n03028079',
           'n03394916', 'my own')  # fmt: skip


def write_network(folder, class_names, crop_size=64, seed=0):
  """Writes a workdir with a network whose random weights are confident."""
  model = AlexNet(ARCHITECTURES['owt'], num_classes=len(class_names))
  rng = np.random.default_rng(seed)
  params = {}
  for layer, shapes in abstract_params(model, crop_size).items():
    shape = shapes['kernel'].shape
    # Values keep their spread from layer to layer (He).
    std = np.sqrt(2 / np.prod(shape[:-1]), dtype=np.float32)
    params[layer] = {
      'kernel': std * rng.standard_normal(shape, np.float32),
      'bias': np.zeros(shape[-1], np.float32),
    }
  params['fc8']['kernel'] *= 3
  conversion.write_workdir(
    epath.Path(folder),
    params,
    {'model': {'name': 'owt', 'num_classes': len(class_names)}},
    Preprocessing(
      dataset=None,
      class_names=class_names,
      resize='short_side',
      resize_size=72,
      crop_size=crop_size,
      mean=np.array(imagenet.TORCHVISION_MEAN),
      mean_crop='center',
      std=np.array(imagenet.TORCHVISION_STD),
      flip=True,
      lighting='none',
      lighting_std=0.1,
    ),
  )


@pytest.fixture(scope='session')
def small_network(tmp_path_factory):
  """Returns a workdir with a network of 7 classes on 64-pixel crops."""
  folder = tmp_path_factory.mktemp('network') / 'run'
  write_network(folder, SYNSETS)
  return folder


def shared_images(*names):
  """Skips a test, with a reason, unless TFDS_DATA_DIR has these datasets."""
  folder = os.environ.get('TFDS_DATA_DIR', '')
  missing = [n for n in names if not os.path.isdir(os.path.join(folder, n))]
  return pytest.mark.skipif(
    not folder or bool(missing),
    reason=f'NEEDS REAL IMAGES: set TFDS_DATA_DIR to a folder with {names}',
  )
