"""Draws Figure 3 of the paper: the kernels of the first layer."""

import numpy as np


def kernel_grid(kernels: np.ndarray, scale: int = 4) -> np.ndarray:
  """Returns an image of the first layer's kernels in rows.

  Args:
    kernels: `[kh, kw, 3, n]`.
    scale: pixels for each weight, in height and width.

  Returns:
    uint8 `[height, width, 3]`. Each kernel is scaled on its own, from its
    smallest weight (black) to its largest (white).

  Example:
    >>> kernel_grid(np.zeros((11, 11, 3, 96))).shape
    (388, 580, 3)
  """
  n = kernels.shape[-1]
  columns = int(np.ceil(np.sqrt(n * 1.5)))
  rows = -(-n // columns)
  tiles = np.transpose(kernels, (3, 0, 1, 2)).astype(np.float32)
  low = tiles.min(axis=(1, 2, 3), keepdims=True)
  spread = tiles.max(axis=(1, 2, 3), keepdims=True) - low
  tiles = (tiles - low) / np.maximum(spread, 1e-12) * 255
  tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2).astype(np.uint8)
  _, height, width, channels = tiles.shape
  gap = scale
  shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
  grid = np.full(shape, 255, np.uint8)
  for i, tile in enumerate(tiles):
    top = gap + i // columns * (height + gap)
    left = gap + i % columns * (width + gap)
    grid[top : top + height, left : left + width] = tile
  return grid
