"""Draws Figure 4 of the paper as PNG files."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.cli.files import write_file

# Okabe and Ito's colors, which color-blind readers can distinguish.
ORANGE, BLUE = '#E69F00', '#56B4E9'


def plot_labels(
  images: Sequence[np.ndarray],
  classes: Sequence[list[dict[str, Any]]],
  path: str,
  truths: Sequence[str] = (),
) -> None:
  """Draws images with their most probable classes as bars (Figure 4, left).

  Args:
    images: uint8 `[H, W, 3]`, of any sizes.
    classes: for each image, of `pretrained.inference.likeliest`.
    path: the path of the PNG file.
    truths: the names of the true classes, if known. They are written below the
      images, and their bars have another color.
  """
  columns = min(4, len(images))
  rows = -(-len(images) // columns)
  figure = Figure(figsize=(2.6 * columns, 3.9 * rows), dpi=110)
  grid = figure.add_gridspec(rows, columns, hspace=0.1, wspace=0.12)
  for i, image in enumerate(images):
    cell = grid[i // columns, i % columns].subgridspec(
      2, 1, height_ratios=(2.2, 1.3), hspace=0.12 if truths else 0.03
    )
    truth = truths[i] if truths else None
    axes = figure.add_subplot(cell[0])
    draw_image(axes, image, anchor='S')
    if truth:
      draw_text(axes, 0.5, -0.02, short_name(truth), transform=axes.transAxes,
            ha='center', va='top', fontsize=9, weight='bold')  # fmt: skip
    _draw_bars(figure.add_subplot(cell[1]), classes[i], truth)
  _save(figure, path)


def plot_neighbors(
  queries: Sequence[np.ndarray],
  neighbors: Sequence[Sequence[np.ndarray]],
  captions: Sequence[Sequence[str]],
  path: str,
) -> None:
  """Draws rows of an image and its nearest images (Figure 4, right).

  Args:
    queries: uint8 `[H, W, 3]`.
    neighbors: for each query, the nearest first.
    captions: for each row, the query's and then its neighbors'.
    path: the path of the PNG file.
  """
  columns = 1 + max(map(len, neighbors))
  figure = Figure(figsize=(1.55 * columns, 1.85 * len(queries)), dpi=110)
  gaps = {'hspace': 0.3, 'wspace': 0.06}
  grid = figure.subplots(len(queries), columns, squeeze=False, gridspec_kw=gaps)
  for cells, query, near, texts in zip(
    grid, queries, neighbors, captions, strict=True
  ):
    for axes in cells:
      axes.set_axis_off()
    for axes, image, text in zip(cells, [query, *near], texts, strict=False):
      draw_image(axes, image)
      draw_text(axes, 0.5, -0.03, text, transform=axes.transAxes, ha='center',
            va='top', fontsize=7)  # fmt: skip
  grid[0, 0].set_title('query', fontsize=9)
  grid[0, 1].set_title('nearest first', fontsize=9, loc='left')
  # Sets the queries apart from their neighbors.
  for axes in grid[:, 0]:
    box = axes.get_position()
    axes.set_position([box.x0 - 0.02, box.y0, box.width, box.height])
  _save(figure, path)


def _save(figure: Figure, path: str) -> None:
  with warnings.catch_warnings(action='ignore'):  # Characters without a glyph.
    write_file(path, lambda file: figure.savefig(file, bbox_inches='tight'))


def draw_image(axes, image: np.ndarray, anchor: str = 'C') -> None:
  """Draws an image, `[H, W]` or `[H, W, 3]`, without ticks."""
  # An image of a few pixels is drawn as squares, not blurred.
  axes.imshow(image, interpolation='nearest')
  axes.set_anchor(anchor)  # 'S': directly above its bars, whatever its shape.
  axes.set_axis_off()


def _draw_bars(axes, classes: list[dict[str, Any]], truth: str | None) -> None:
  for row, entry in enumerate(classes):
    color = ORANGE if entry['name'] == truth else BLUE
    axes.barh(row, entry['probability'], height=0.82, color=color, alpha=0.6)
    name = f'{short_name(entry["name"])}  {entry["probability"]:.0%}'
    draw_text(axes, 0.02, row, name, va='center', fontsize=8)
  axes.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5), xticks=[], yticks=[])


def short_name(name: str) -> str:
  """Returns the first of the words that stand for a class, shortened.

  Example:
    >>> short_name('tench, Tinca tinca')
    'tench'
  """
  return name.split(',')[0][:30]


def draw_text(axes, x, y, text: str, **style: Any) -> None:
  """Draws text as it is: a name may have a dollar sign."""
  axes.text(x, y, text, parse_math=False, **style)
