"""The pictures of Figures 3 and 4, as PNG files."""

import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

from alexnet_jax.cli.files import write_file

# Okabe and Ito's colours: colour-blind readers can tell them apart.
ORANGE, BLUE, GRAY = '#E69F00', '#56B4E9', '#999999'


def plot_labels(
  pictures: Sequence[np.ndarray],
  classes: Sequence[list[dict[str, Any]]],
  path: str,
  truths: Sequence[str] = (),
) -> None:
  """A grid of pictures with their likeliest classes as bars (Figure 4, left).

  Args:
    pictures: uint8 `[H, W, 3]`, of any sizes.
    classes: of each, as `predict.likeliest` gives them.
    path: of the PNG.
    truths: names of the true classes, if known: written below the pictures,
      their bars in another colour.
  """
  columns = min(4, len(pictures))
  rows = -(-len(pictures) // columns)
  plt = _pyplot()
  figure = plt.figure(figsize=(2.6 * columns, 3.9 * rows), dpi=110)
  grid = figure.add_gridspec(rows, columns, hspace=0.1, wspace=0.12)
  for i, picture in enumerate(pictures):
    cell = grid[i // columns, i % columns].subgridspec(
      2, 1, height_ratios=(2.2, 1.3), hspace=0.12 if truths else 0.03
    )
    truth = truths[i] if truths else None
    axes = figure.add_subplot(cell[0])
    _draw_picture(axes, picture, anchor='S')
    if truth:
      _text(axes, 0.5, -0.02, _short(truth), transform=axes.transAxes,
            ha='center', va='top', fontsize=9, weight='bold')  # fmt: skip
    _draw_bars(figure.add_subplot(cell[1]), classes[i], truth)
  _save(figure, path)


def plot_neighbors(
  queries: Sequence[np.ndarray],
  neighbors: Sequence[Sequence[np.ndarray]],
  captions: Sequence[Sequence[str]],
  path: str,
) -> None:
  """Rows of a picture and those nearest to it (Figure 4, right).

  Args:
    queries: uint8 `[H, W, 3]`.
    neighbors: of each, the nearest first.
    captions: of each row, of the query and then of its neighbors.
    path: of the PNG.
  """
  plt = _pyplot()
  columns = 1 + max(map(len, neighbors))
  figure, grid = plt.subplots(
    len(queries),
    columns,
    figsize=(1.55 * columns, 1.85 * len(queries)),
    dpi=110,
    squeeze=False,
    gridspec_kw={'hspace': 0.3, 'wspace': 0.06},
  )
  for cells, query, near, texts in zip(
    grid, queries, neighbors, captions, strict=True
  ):
    for axes in cells:
      axes.set_axis_off()
    for axes, picture, text in zip(cells, [query, *near], texts, strict=False):
      _draw_picture(axes, picture)
      _text(axes, 0.5, -0.03, text, transform=axes.transAxes, ha='center',
            va='top', fontsize=7)  # fmt: skip
  grid[0, 0].set_title('query', fontsize=9)
  grid[0, 1].set_title('nearest first', fontsize=9, loc='left')
  # Apart from what was found for it.
  for axes in grid[:, 0]:
    box = axes.get_position()
    axes.set_position([box.x0 - 0.02, box.y0, box.width, box.height])
  _save(figure, path)


def _pyplot():
  mpl.use('Agg')
  import matplotlib.pyplot as plt

  return plt


def _save(figure, path: str) -> None:
  with warnings.catch_warnings(action='ignore'):  # Letters that no font has.
    write_file(path, lambda file: figure.savefig(file, bbox_inches='tight'))
  _pyplot().close(figure)


def _draw_picture(axes, picture: np.ndarray, anchor: str = 'C') -> None:
  # What is a few pixels wide is drawn as the squares that it is.
  axes.imshow(picture, interpolation='nearest')
  axes.set_anchor(anchor)  # 'S': down on its bars, whatever its shape.
  axes.set_axis_off()


def _draw_bars(axes, classes: list[dict[str, Any]], truth: str | None) -> None:
  for row, entry in enumerate(classes):
    color = ORANGE if entry['name'] == truth else BLUE
    axes.barh(row, entry['probability'], height=0.82, color=color, alpha=0.6)
    name = f'{_short(entry["name"])}  {entry["probability"]:.0%}'
    _text(axes, 0.02, row, name, va='center', fontsize=8)
  axes.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5), xticks=[], yticks=[])


def _short(name: str) -> str:
  return name.split(',')[0][:30]


def _text(axes, x, y, text: str, **style: Any) -> None:
  axes.text(x, y, text, parse_math=False, **style)
