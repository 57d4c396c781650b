"""Figure 3: the kernels of the first layer as one image."""

import numpy as np


def kernel_grid(kernels: np.ndarray, scale: int = 4) -> np.ndarray:
  """The first layer's kernels as one picture (Figure 3 of the paper).

  Args:
    kernels: `[kh, kw, 3, n]`.
    scale: pixels of the picture for one weight.

  Returns:
    uint8 `[height, width, 3]`, the kernels in rows, each stretched from its
    own least weight (black) to its greatest (white).
  """
  kh, kw, channels, n = kernels.shape
  columns = int(np.ceil(np.sqrt(n * 1.5)))
  rows = -(-n // columns)
  tiles = np.transpose(kernels, (3, 0, 1, 2)).astype(np.float32)
  low = tiles.min(axis=(1, 2, 3), keepdims=True)
  spread = tiles.max(axis=(1, 2, 3), keepdims=True) - low
  tiles = (tiles - low) / np.maximum(spread, 1e-12) * 255
  tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
  gap = scale
  grid = np.full(
    (
      rows * (kh * scale + gap) + gap,
      columns * (kw * scale + gap) + gap,
      channels,
    ),
    255,
    np.uint8,
  )
  for i, tile in enumerate(tiles):
    top = gap + i // columns * (kh * scale + gap)
    left = gap + i % columns * (kw * scale + gap)
    grid[top : top + kh * scale, left : left + kw * scale] = tile.astype(
      np.uint8
    )
  return grid
