"""Draws what a network sees in an image, as PNG files in memory."""

import io
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alexnet_jax.plots.figure4 import ORANGE, draw_image, draw_text, short_name

_DPI = 110
# In pixels: the width of all maps and the most of one, the gap between two, and
# the line of a number.
_WIDTH, _MAP, _GAP, _LINE = 1480, 130, 6, 13
# In pixels: what is above the grid, the image there, and the least width.
_TOP, _BIG, _LEAST = 300, 230, 700
_GREY = '#57606a'


def draw_maps(
  image: np.ndarray,
  maps: np.ndarray,
  unit: int,
  box: tuple[int, int, int, int],
  title: str,
) -> bytes:
  """Draws all maps of a layer in rows, below the image and one of them.

  Each map is scaled on its own. Without negative values, black is 0 and white
  its maximum; otherwise blue is negative, white 0 and red positive.

  Args:
    image: uint8 `[H, W, 3]`.
    maps: `[H', W', channels]`.
    unit: the channel that is marked.
    box: left, top, width and height of an area that is marked in the image.
    title: a line above all.

  Returns:
    The PNG file.
  """
  tiles = _colored(maps)
  canvas, places = _grid(tiles)
  height, width, _ = canvas.shape
  wide, total = max(width, _LEAST), height + _TOP
  figure = Figure(figsize=(wide / _DPI, total / _DPI), dpi=_DPI)

  def axes_at(left, top, w, h):
    """Returns axes at a place in pixels, from the top left."""
    axes = figure.add_axes(
      (left / wide, 1 - (top + h) / total, w / wide, h / total)
    )
    axes.set_axis_off()
    return axes

  above = axes_at(0, 0, wide, _TOP)
  above.set(xlim=(0, wide), ylim=(_TOP, 0))
  draw_text(above, _GAP, 18, title, fontsize=11, va='center')
  marked = maps[..., unit]
  text = f'unit {unit}, {marked.min():.3g} to {marked.max():.3g}'
  for left, shown, words in (
    (_GAP, image, 'the image'),
    (_GAP + _BIG + 20, tiles[unit], text),
  ):
    axes = axes_at(left, 36, _BIG, _BIG)
    draw_image(axes, shown)
    if shown is image:
      _frame(axes, box)
    draw_text(above, left, 36 + _BIG + 6, words, fontsize=9, va='top')
  grid = axes_at(0, _TOP, width, height)
  grid.imshow(canvas, interpolation='nearest')
  for i, (left, top, side) in enumerate(places):
    color, weight = ('black', 'bold') if i == unit else (_GREY, 'normal')
    draw_text(grid, left, top - 2, str(i), fontsize=6.5, va='bottom',
              color=color, weight=weight)  # fmt: skip
    if i == unit:
      _frame(grid, (left - 2, top - 2, side + 4, side + 4))
  return _png(figure, tight=False)


def _grid(tiles):
  """Returns maps in rows on white, and left, top and side of each."""
  columns = math.ceil(math.sqrt(1.5 * len(tiles)))
  rows = -(-len(tiles) // columns)
  scale = max(1, min(_MAP, _WIDTH // columns - _GAP) // tiles.shape[1])
  tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
  side = tiles.shape[1]
  across, down = side + _GAP, side + _GAP + _LINE
  canvas = np.full(
    (rows * down + _GAP, columns * across + _GAP, 3), 255, np.uint8
  )
  places = []
  for i, tile in enumerate(tiles):
    left = _GAP + i % columns * across
    top = _GAP + i // columns * down + _LINE
    canvas[top : top + side, left : left + side] = tile
    places.append((left, top, side))
  return canvas, places


def _colored(maps):
  """Returns each map as an image, uint8 `[channels, H, W, 3]`."""
  maps = np.moveaxis(np.asarray(maps, np.float64), -1, 0)
  largest = np.abs(maps).max(axis=(1, 2), keepdims=True)
  scaled = maps / np.where(largest > 0, largest, 1)
  if maps.min() >= 0:
    return (colormaps['gray'](scaled)[..., :3] * 255).astype(np.uint8)
  return (colormaps['RdBu_r'](0.5 + scaled / 2)[..., :3] * 255).astype(np.uint8)


def draw_gradient(image: np.ndarray, gradient: np.ndarray, title: str) -> bytes:
  """Draws a gradient by the pixels: its size, and its sign.

  Args:
    image: uint8 `[H, W, 3]`.
    gradient: `[H, W, 3]`.
    title: a line above all.

  Returns:
    The PNG file.
  """
  largest, total = np.abs(gradient).max(axis=-1), gradient.sum(axis=-1)
  figure, cells = _panels(3, title)
  draw_image(cells[0], image)
  cells[0].set_title('the image', fontsize=9)
  for axes, values, colors, lowest, text in (
    (cells[1], largest, 'magma', 0, 'largest absolute value of R, G, B'),
    (cells[2], total, 'RdBu_r', -1, 'sum of R, G, B'),
  ):
    limit = saturation(values)
    shown = axes.imshow(values, cmap=colors, vmin=lowest * limit, vmax=limit)
    axes.set_axis_off()
    axes.set_title(text, fontsize=9)
    _bar(figure, shown, axes, 'logit per grey level', 'both' if lowest else
         'max')  # fmt: skip
  return _png(figure)


def saturation(values: np.ndarray) -> float:
  """Returns the absolute value from which colors no longer change.

  It is the 99.5th percentile: a few pixels have values many times larger.
  """
  limit = float(np.percentile(np.abs(values), 99.5))
  return limit if limit > 0 else 1.0


def draw_occlusion(
  image: np.ndarray,
  hidden: np.ndarray,
  probabilities: np.ndarray,
  stride: int,
  box: tuple[int, int, int, int],
  title: str,
) -> bytes:
  """Draws the probability of a class with a square over each place.

  Args:
    image: uint8 `[H, W, 3]`.
    hidden: the image with the square that lowers it most.
    probabilities: `[n, n]`.
    stride: pixels from one place to the next.
    box: left, top, width and height of that square, in pixels.
    title: a line above all.

  Returns:
    The PNG file.
  """
  size = len(image)
  figure, cells = _panels(3, title)
  for axes, shown, text in (
    (cells[0], image, 'the image'),
    (cells[1], hidden, 'with the square that lowers it most'),
  ):
    draw_image(axes, shown)
    axes.set_title(text, fontsize=9)
  end = stride * len(probabilities)
  heat = cells[2].imshow(
    probabilities, cmap='viridis', extent=(-0.5, end - 0.5, end - 0.5, -0.5),
    interpolation='nearest',
  )  # fmt: skip
  cells[2].set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
  cells[2].set_axis_off()
  cells[2].set_title('probability, by the center of the square', fontsize=9)
  for axes in cells[1:]:
    _frame(axes, box)
  _bar(figure, heat, cells[2], 'probability of the class', 'neither')
  return _png(figure)


class Patch(NamedTuple):
  """An image that drives a unit.

  Attributes:
    image: uint8 `[H, W, 3]`.
    box: left, top, width and height of the receptive field within the image, in
      pixels.
    truth: the name of the image's class.
    activation: of the unit.
  """

  image: np.ndarray
  box: tuple[int, int, int, int]
  truth: str
  activation: float


def draw_patches(patches: Sequence[Patch], title: str) -> bytes:
  """Draws images with a receptive field, each beside what lies in it.

  Args:
    patches: in the order in which they are drawn.
    title: a line above all.

  Returns:
    The PNG file.
  """
  columns = min(3, len(patches))
  rows = -(-len(patches) // columns)
  figure = Figure(figsize=(4.2 * columns, 2.35 * rows + 0.4), dpi=_DPI)
  top = 1 - 0.45 / (2.35 * rows + 0.4)
  grid = figure.add_gridspec(
    rows, columns, top=top, bottom=0.02, left=0.01, right=0.99, hspace=0.16,
    wspace=0.06,
  )  # fmt: skip
  figure.suptitle(title, x=0.01, y=0.995, ha='left', va='top', fontsize=11,
                  parse_math=False)  # fmt: skip
  for i, patch in enumerate(patches):
    pair = grid[i // columns, i % columns].subgridspec(1, 2, wspace=0.03)
    view, inside = (figure.add_subplot(pair[j]) for j in (0, 1))
    draw_image(view, patch.image, anchor='NW')
    _frame(view, patch.box)
    left, top_, width, height = patch.box
    part = patch.image[top_ : top_ + height, left : left + width]
    draw_image(inside, part, anchor='NW')
    text = f'{short_name(patch.truth)}, {patch.activation:.3g}'
    draw_text(view, 0, 1.02, text, transform=view.transAxes, fontsize=9,
              va='bottom')  # fmt: skip
  return _png(figure)


def _panels(number, title):
  figure = Figure(figsize=(4.1 * number, 4.3), dpi=_DPI)
  cells = figure.subplots(1, number, gridspec_kw={'wspace': 0.08})
  figure.suptitle(title, x=0.125, y=0.99, ha='left', va='top', fontsize=11,
                  parse_math=False)  # fmt: skip
  return figure, cells


def _frame(axes, box):
  left, top, width, height = box
  # Within the image's last pixels, or it would be cut.
  axes.add_patch(
    Rectangle(
      (left, top), width - 1, height - 1, fill=False, edgecolor=ORANGE,
      linewidth=2,
    )
  )  # fmt: skip


def _bar(figure, shown, axes, label, extend):
  # In place of `ax=axes`, which would make this panel smaller than the others.
  place = axes.inset_axes((0, -0.08, 1, 0.04))
  bar = figure.colorbar(
    shown, cax=place, orientation='horizontal', extend=extend
  )
  bar.set_label(label, fontsize=8)
  bar.ax.tick_params(labelsize=7)
  bar.formatter.set_powerlimits((-3, 3))
  bar.ax.xaxis.get_offset_text().set_fontsize(7)


def _png(figure: Figure, tight: bool = True) -> bytes:
  file = io.BytesIO()
  with warnings.catch_warnings(action='ignore'):  # Characters without a glyph.
    figure.savefig(
      file, format='png', bbox_inches='tight' if tight else None, dpi=_DPI
    )
  return file.getvalue()
