"""ImageNet's classes and color statistics, which published weights rely on."""

import functools
import importlib.resources

# Of ILSVRC-2012's training images, RGB in grey levels. torchvision's values are
# (.485, .456, .406) and (.229, .224, .225), times 255. Caffe's is the mean over
# its mean image.
TORCHVISION_MEAN = (123.675, 116.28, 103.53)
TORCHVISION_STD = (58.395, 57.12, 57.375)
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)


@functools.cache
def synsets() -> dict[str, str]:
  """Returns the words of the 1000 classes by WordNet synset, in label order.

  The order is that of TFDS's `imagenet2012`, torchvision and Caffe.

  Example:
    >>> list(synsets().items())[0]
    ('n01440764', 'tench, Tinca tinca')
  """
  file = importlib.resources.files('alexnet_jax.data') / 'imagenet_classes.txt'
  lines = file.read_text(encoding='utf-8').splitlines()
  pairs = (line.split(' ', 1) for line in lines if not line.startswith('#'))
  return {synset: words for synset, words in pairs}


def words(class_name: str) -> str:
  """Returns the words of a synset, and any other class name unchanged.

  Example:
    >>> words('n02102040')
    'English springer, English springer spaniel'
  """
  return synsets().get(class_name, class_name)
