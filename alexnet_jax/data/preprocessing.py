"""The preprocessing that a network was trained with: `preprocessing.json`.

`preprocess` applies it on the host, `learning.finish` its last step on the
device.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import UserError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How an image becomes a network's input, with the statistics of training.

  Attributes:
    dataset: full name of the training dataset; None if unknown, as for some
      converted weights.
    class_names: in the order of the labels; empty if unknown.
    resize: 'short_side' (then the central square) or 'warp'.
    resize_size: side of the resized square, in pixels.
    crop_size: side of the network's input, in pixels.
    mean: subtracted from the pixels, in grey levels: `[3]`, or the mean image
      `[resize_size, resize_size, 3]`.
    mean_crop: the part of a mean image that is subtracted from a crop:
      'center' (the authors' code), or 'same', the part under the crop before
      the crop is flipped (Caffe).
    std: the divisor of the pixels, `[3]`.
    flip: whether training images are mirrored at random.
    lighting: 'sqrt_eigenvalue', 'eigenvalue' or 'none'; see
      `preprocess.lighting_offset`.
    lighting_std: standard deviation of the lighting's three random numbers.
    lighting_epochs: the epoch, from 0, at which lighting ends; None: never.
    lighting_rescale: whether pixels are divided by `1 + lighting_std` during
      lighting, so that they spread as far as without it (the authors' code).
    train_crop: 'random', 'random_resized' or 'center'; see
      `preprocess.train_view`.
    eigenvalues: variances along the principal components of the training
      split's RGB pixels, `[3]` in grey levels squared; None if not computed.
    eigenvectors: the components, in columns, `[3, 3]`.
    color_stats: what mean and components were computed from
      (`color_stats.identity`).

  Raises:
    ValueError: a field has a value or a shape that is not allowed.

  Example:
    >>> p = Preprocessing(
    ...   dataset='cifar10/3.0.2', class_names=(), resize='short_side',
    ...   resize_size=32, crop_size=24, mean=np.full(3, 120.0),
    ...   mean_crop='center', std=np.full(3, 60.0), flip=True,
    ...   lighting='none', lighting_std=0.1)
    >>> Preprocessing.from_json(p.to_json()).mean
    array([120., 120., 120.])
  """

  dataset: str | None
  class_names: tuple[str, ...]
  resize: str
  resize_size: int
  crop_size: int
  mean: np.ndarray
  mean_crop: str
  std: np.ndarray
  flip: bool
  lighting: str
  lighting_std: float
  lighting_epochs: int | None = None
  lighting_rescale: bool = False
  train_crop: str = 'random'
  eigenvalues: np.ndarray | None = None
  eigenvectors: np.ndarray | None = None
  color_stats: dict[str, Any] | None = None

  def __post_init__(self):
    size = self.resize_size
    fits = (
      self.resize in ('short_side', 'warp'),
      isinstance(size, int) and isinstance(self.crop_size, int),
      # A file may hold anything in their place.
      np.shape(self.mean) in ((3,), (size, size, 3)),
      np.shape(self.std) == (3,),
      all(isinstance(name, str) for name in self.class_names),
      self.mean_crop in ('center', 'same'),
      self.train_crop in ('random', 'random_resized', 'center'),
      self.lighting in ('sqrt_eigenvalue', 'eigenvalue', 'none'),
      isinstance(self.lighting_std, int | float),
      isinstance(self.lighting_epochs, int | None),
      isinstance(self.dataset, str | None),
    )
    if not all(fits) or not 0 < self.crop_size <= size:
      raise ValueError(
        f'resize {self.resize!r} to {size}, crop {self.crop_size}, mean of '
        f'shape {np.shape(self.mean)}, std of shape {np.shape(self.std)}, '
        f'lighting {self.lighting!r}, or another field'
      )
    for pixels in (self.mean, self.std):
      if not np.isfinite(pixels).all() or not np.all(self.std):
        raise ValueError('mean or std is not finite, or std is 0')

  @property
  def mean_moves(self) -> bool:
    """Whether the mean that is subtracted depends on the place of the crop."""
    return self.mean.ndim == 3 and self.mean_crop == 'same'

  def mean_of_crops(self, crops: int = 1) -> np.ndarray:
    """Returns the mean that is subtracted from views whose places are known.

    Args:
      crops: views of an image: 1 (any crop if the mean is the same for all,
        otherwise the central one) or 10 (`preprocess.ten_crops`).

    Returns:
      float32 `[crop_size, crop_size, 3]`; for ten crops of a mean that depends
      on the crop, `[10, crop_size, crop_size, 3]`.
    """
    size = self.crop_size
    mean = np.asarray(self.mean, np.float32)
    if mean.ndim == 1:
      return np.broadcast_to(mean, (size, size, 3)).copy()
    parts = [
      mean[top : top + size, left : left + size]
      for top, left in five_places(self.resize_size, size)
    ]
    if crops == 10 and self.mean_moves:
      return np.stack(parts + [part[:, ::-1] for part in parts])
    return parts[-1]

  def pixel_scale(self, lit: bool) -> np.ndarray | None:
    """Returns the factor of the pixels, float32 `[3]`; None stands for 1.

    It is a factor and not a divisor because compilers may turn a division into
    a product, whose results on the device would differ from the host's.

    Args:
      lit: whether the pixels have had lighting added.
    """
    divisor = np.asarray(self.std, np.float64)
    if lit and self.lighting_rescale:
      divisor = divisor * (1 + self.lighting_std)
    return None if np.all(divisor == 1) else (1 / divisor).astype(np.float32)

  def to_json(self) -> str:
    """Returns the fields as JSON, the mean last: a mean image is long."""
    fields = dataclasses.asdict(self)
    mean = fields.pop('mean')
    return json.dumps({**fields, 'mean': mean}, default=_to_list, indent=None)

  @classmethod
  def from_json(cls, text: str) -> Preprocessing:
    """Returns the preprocessing that `to_json` wrote; arrays are float64.

    Raises:
      ValueError, KeyError, TypeError or AttributeError: the text is not one.
    """
    fields = json.loads(text)
    for name in ('mean', 'std', 'eigenvalues', 'eigenvectors'):
      if fields[name] is not None:
        fields[name] = np.asarray(fields[name])
    fields['class_names'] = tuple(fields['class_names'])
    components = (
      np.shape(fields['eigenvalues']),
      np.shape(fields['eigenvectors']),
    )
    if fields['lighting'] != 'none' and components != ((3,), (3, 3)):
      raise ValueError('lighting without three components')
    return cls(**fields)


def _to_list(array: np.ndarray) -> list:
  return array.tolist()


def five_places(side: int, size: int) -> tuple[tuple[int, int], ...]:
  """Returns top and left of the four corner crops and the central one.

  Args:
    side: the side of the square, in pixels.
    size: side of the crops, in pixels.

  Example:
    >>> five_places(256, 224)
    ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
  """
  end, middle = side - size, (side - size) // 2
  return (0, 0), (0, end), (end, 0), (end, end), (middle, middle)


def at_epoch(p: Preprocessing, epoch: int) -> Preprocessing:
  """Returns the preprocessing of one epoch, from 0: lighting may end."""
  if p.lighting_epochs is None or epoch < p.lighting_epochs:
    return p
  return dataclasses.replace(p, lighting='none')


def read_preprocessing(workdir: epath.Path) -> Preprocessing:
  """Reads the `preprocessing.json` of a workdir.

  Raises:
    UserError: it is missing or corrupt.
  """
  path = workdir / 'preprocessing.json'
  if not path.exists():
    raise UserError(
      f'no preprocessing.json in {workdir}: give the --workdir of a trained '
      'run or of converted weights'
    )
  try:
    return Preprocessing.from_json(path.read_text())
  except (ValueError, KeyError, TypeError, AttributeError, OSError,
          ArithmeticError, RecursionError) as error:  # fmt: skip
    raise UserError(
      f'{path} is corrupt: {error!r}; restore it from a copy'
    ) from error
