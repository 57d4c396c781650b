"""What an image goes through before the network, as a run keeps it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import UserError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """All that a picture needs to become an input: what training learned.

  Attributes:
    dataset: full name of the training set; None where weights were converted
      and nothing tells.
    class_names: by label; empty where nothing tells.
    resize: 'short_side' (then the central square) or 'warp'.
    resize_size: side of that square, in pixels.
    crop_size: side of the network's input, in pixels.
    mean: subtracted, in grey levels: `[3]`, or the mean image
      `[resize_size, resize_size, 3]`.
    mean_crop: which part of a mean image belongs to a crop: 'center' always
      (as the authors' code does), or 'same', the part under the crop before
      it is flipped (Caffe).
    std: the divisor, `[3]`.
    flip: whether training pictures are mirrored at random.
    lighting: 'sqrt_eigenvalue', 'eigenvalue' or 'none'; see
      `lighting_offset`.
    lighting_std: deviation of the lighting's three random numbers.
    lighting_epochs: the epoch, from 0, at which it is turned off; None: never.
    lighting_rescale: whether pixels are divided by `1 + lighting_std` while it
      is on, so that they spread as far as without it (the authors' code).
    train_crop: 'random' or 'random_resized'; see `train_view`.
    eigenvalues: variances along the principal components of the training
      set's RGB pixels, `[3]` in grey levels squared; None where not computed.
    eigenvectors: the components, in columns, `[3, 3]`.
    color_stats: what mean and components were computed over (`color_stats`).
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
      # Not of what a file may hold in their place.
      np.shape(self.mean) in ((3,), (size, size, 3)),
      np.shape(self.std) == (3,),
      all(isinstance(name, str) for name in self.class_names),
      self.mean_crop in ('center', 'same'),
      self.train_crop in ('random', 'random_resized'),
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
    """Whether the part of the mean that is subtracted depends on the crop."""
    return self.mean.ndim == 3 and self.mean_crop == 'same'

  def mean_of_crops(self, crops: int = 1) -> np.ndarray:
    """What is subtracted from views whose places are known.

    Args:
      crops: views of a picture: 1 (any, or the centre) or the ten.

    Returns:
      float32 `[crop_size, crop_size, 3]`; of ten crops under which the mean
      image moves `[10, crop_size, crop_size, 3]`.
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
    """What pixels are multiplied by, float32 `[3]`; None where it is 1.

    A factor, not a divisor: a compiler may turn a division into one, and the
    device's numbers would not be the host's any more.
    """
    divisor = np.asarray(self.std, np.float64)
    if lit and self.lighting_rescale:
      divisor = divisor * (1 + self.lighting_std)
    return None if np.all(divisor == 1) else (1 / divisor).astype(np.float32)

  def to_json(self) -> str:
    """Small things first: the mean image is long."""
    fields = dataclasses.asdict(self)
    mean = fields.pop('mean')
    return json.dumps({**fields, 'mean': mean}, default=_to_list, indent=None)

  @classmethod
  def from_json(cls, text: str) -> Preprocessing:
    """The inverse of `to_json`; arrays come back as float64."""
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
  """Top and left of the four corners of a square, and of its centre."""
  end, middle = side - size, (side - size) // 2
  return (0, 0), (0, end), (end, 0), (end, end), (middle, middle)


def at_epoch(p: Preprocessing, epoch: int) -> Preprocessing:
  """The same, as it is in one epoch (from 0): lighting may end at one."""
  if p.lighting_epochs is None or epoch < p.lighting_epochs:
    return p
  return dataclasses.replace(p, lighting='none')


def read_preprocessing(workdir: epath.Path) -> Preprocessing:
  """What training learned about its pictures."""
  path = workdir / 'preprocessing.json'
  if not path.exists():
    raise UserError(
      f'no preprocessing.json in {workdir}: not a run of this program; give '
      'the --workdir of a trained run'
    )
  try:
    return Preprocessing.from_json(path.read_text())
  except (ValueError, KeyError, TypeError, AttributeError, OSError,
          ArithmeticError, RecursionError) as error:  # fmt: skip
    raise UserError(f'{path} is damaged: {error!r}') from error
