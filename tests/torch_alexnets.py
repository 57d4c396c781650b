"""Six AlexNets in PyTorch, the reference for the networks under test.

Written from the recipes' table and the public originals (the 2012 paper and
its source, cuda-convnet2, Caffe, torchvision), independently of the library
under test. Inference only, without dropout or its scaling. The order of
operations is in each network's `conv_maps`.

In the comments, `size` is the width of a normalization window, and `columns`
are the two halves of the channels, which were on separate GPUs in 2012.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAMES = ('paper', 'krizhevsky2012', 'owt', 'caffe', 'caffenet', 'torchvision')

TWO_COLUMN_WIDTHS = (96, 256, 384, 384, 256)
TWO_COLUMN_GROUPS = (1, 2, 1, 2, 2)
ONE_COLUMN_WIDTHS = (64, 192, 384, 256, 256)
ONE_COLUMN_GROUPS = (1, 1, 1, 1, 1)


def pool(x: Tensor) -> Tensor:
  """Overlapping max pooling."""
  return F.max_pool2d(x, kernel_size=3, stride=2)


def lrn(x: Tensor, alpha: float, k: float) -> Tensor:
  """x / (k + alpha * sum of squares over 5 neighbouring channels) ^ .75.

  Here alpha multiplies each summed square; PyTorch divides its own by 5.
  """
  return F.local_response_norm(x, size=5, alpha=5 * alpha, beta=0.75, k=k)


def lrn_per_column(x: Tensor, alpha: float, k: float) -> Tensor:
  """`lrn` of each half of the channels; no window crosses the middle."""
  left, right = x.chunk(2, dim=1)
  return torch.cat([lrn(left, alpha, k), lrn(right, alpha, k)], dim=1)


def spatial_lrn(x: Tensor) -> Tensor:
  """x / (1 + .001 / 25 * sum of squares over a 5x5 patch of its map) ^ .75.

  At the borders, the missing pixels of a patch are zeros, which add nothing to
  the sum; the divisor stays 25.
  """
  mean_of_25 = F.avg_pool2d(
    x.square(), kernel_size=5, stride=1, padding=2, count_include_pad=True
  )
  return x / (1 + 0.001 * mean_of_25) ** 0.75


def overhang(images: Tensor) -> Tensor:
  """Pads with three rows and columns of zeros, below and right: 224 to 227."""
  return F.pad(images, (0, 3, 0, 3))


class AlexNet(nn.Module):
  """What all six share: the layers with weights, and the dense part."""

  def __init__(
    self,
    widths: tuple[int, ...],
    groups: tuple[int, ...],
    conv1_padding: int,
    num_classes: int,
  ) -> None:
    super().__init__()
    w1, w2, w3, w4, w5 = widths
    g1, g2, g3, g4, g5 = groups
    self.conv1 = nn.Conv2d(
      3, w1, 11, stride=4, padding=conv1_padding, groups=g1
    )
    self.conv2 = nn.Conv2d(w1, w2, 5, padding=2, groups=g2)
    self.conv3 = nn.Conv2d(w2, w3, 3, padding=1, groups=g3)
    self.conv4 = nn.Conv2d(w3, w4, 3, padding=1, groups=g4)
    self.conv5 = nn.Conv2d(w4, w5, 3, padding=1, groups=g5)
    self.fc6 = nn.Linear(w5 * 6 * 6, 4096)
    self.fc7 = nn.Linear(4096, 4096)
    self.fc8 = nn.Linear(4096, num_classes)

  def conv_maps(self, images: Tensor) -> Tensor:
    """Maps `[N, 3, H, W]` images to `[N, 256, 6, 6]`, the input of fc6."""
    raise NotImplementedError

  def features(self, images: Tensor) -> Tensor:
    """Returns the input of fc8: fc7 after its ReLU, `[N, 4096]`."""
    x = self.conv_maps(images).flatten(1)  # channel, row, column
    x = F.relu(self.fc6(x))
    return F.relu(self.fc7(x))

  def forward(self, images: Tensor) -> Tensor:
    """Maps RGB images to `[N, num_classes]` logits."""
    return self.fc8(self.features(images))


class Paper(AlexNet):
  """The network of the 2012 text, at 227 pixels; alpha is not divided by 5."""

  def __init__(self, num_classes: int) -> None:
    super().__init__(TWO_COLUMN_WIDTHS, TWO_COLUMN_GROUPS, 0, num_classes)

  def conv_maps(self, images: Tensor) -> Tensor:
    x = F.relu(self.conv1(images))
    x = pool(lrn(x, alpha=1e-4, k=2))
    x = F.relu(self.conv2(x))
    x = pool(lrn(x, alpha=1e-4, k=2))
    x = F.relu(self.conv3(x))
    x = F.relu(self.conv4(x))
    x = F.relu(self.conv5(x))
    return pool(x)


class Krizhevsky2012(AlexNet):
  """Net 145 of the authors' source, at 224 pixels."""

  def __init__(self, num_classes: int) -> None:
    super().__init__(TWO_COLUMN_WIDTHS, TWO_COLUMN_GROUPS, 0, num_classes)

  def conv_maps(self, images: Tensor) -> Tensor:
    x = self.conv1(overhang(images))
    x = lrn_per_column(x, alpha=1e-4 / 5, k=2)  # before the ReLU
    x = F.relu(pool(x))
    x = F.relu(self.conv2(x))
    x = lrn_per_column(x, alpha=1e-4 / 5, k=2)
    x = pool(spatial_lrn(x))
    x = F.relu(self.conv3(x))
    x = F.relu(self.conv4(x))
    x = self.conv5(x)
    return F.relu(pool(x))


class OneWeirdTrick(AlexNet):
  """cuda-convnet2's network for one GPU, at 224 pixels."""

  def __init__(self, num_classes: int) -> None:
    super().__init__(ONE_COLUMN_WIDTHS, ONE_COLUMN_GROUPS, 0, num_classes)

  def conv_maps(self, images: Tensor) -> Tensor:
    x = self.conv1(overhang(images))
    x = lrn(x, alpha=1e-4 / 5, k=2)  # before the ReLU
    x = F.relu(pool(x))
    x = F.relu(self.conv2(x))
    x = pool(lrn(x, alpha=1e-4 / 5, k=2))
    x = F.relu(self.conv3(x))
    x = F.relu(self.conv4(x))
    x = self.conv5(x)
    return F.relu(pool(x))


class Caffe(AlexNet):
  """bvlc_alexnet, at 227 pixels: LRN, then pooling."""

  def __init__(self, num_classes: int) -> None:
    super().__init__(TWO_COLUMN_WIDTHS, TWO_COLUMN_GROUPS, 0, num_classes)

  def conv_maps(self, images: Tensor) -> Tensor:
    x = F.relu(self.conv1(images))
    x = pool(lrn(x, alpha=1e-4 / 5, k=1))
    x = F.relu(self.conv2(x))
    x = pool(lrn(x, alpha=1e-4 / 5, k=1))
    x = F.relu(self.conv3(x))
    x = F.relu(self.conv4(x))
    x = F.relu(self.conv5(x))
    return pool(x)


class CaffeNet(AlexNet):
  """bvlc_reference_caffenet, at 227 pixels: pooling, then LRN."""

  def __init__(self, num_classes: int) -> None:
    super().__init__(TWO_COLUMN_WIDTHS, TWO_COLUMN_GROUPS, 0, num_classes)

  def conv_maps(self, images: Tensor) -> Tensor:
    x = pool(F.relu(self.conv1(images)))
    x = lrn(x, alpha=1e-4 / 5, k=1)
    x = pool(F.relu(self.conv2(x)))
    x = lrn(x, alpha=1e-4 / 5, k=1)
    x = F.relu(self.conv3(x))
    x = F.relu(self.conv4(x))
    x = F.relu(self.conv5(x))
    return pool(x)


class Torchvision(AlexNet):
  """torchvision's network, for any size from 63 pixels."""

  def __init__(self, num_classes: int) -> None:
    super().__init__(ONE_COLUMN_WIDTHS, ONE_COLUMN_GROUPS, 2, num_classes)

  def conv_maps(self, images: Tensor) -> Tensor:
    x = pool(F.relu(self.conv1(images)))
    x = pool(F.relu(self.conv2(x)))
    x = F.relu(self.conv3(x))
    x = F.relu(self.conv4(x))
    x = F.relu(self.conv5(x))
    return F.adaptive_avg_pool2d(pool(x), 6)


def build(name: str, num_classes: int = 1000) -> nn.Module:
  """Builds a network of `NAMES`, with PyTorch's default initialization."""
  networks = (
    Paper,
    Krizhevsky2012,
    OneWeirdTrick,
    Caffe,
    CaffeNet,
    Torchvision,
  )
  return dict(zip(NAMES, networks, strict=True))[name](num_classes)
