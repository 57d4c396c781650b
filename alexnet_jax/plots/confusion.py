"""Draws a confusion matrix, of ten classes or a thousand."""

import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from alexnet_jax.cli.files import write_file

# With more classes, cells have no numbers, and then only some classes a name.
_NUMBERED, _NAMED = 20, 100
_CELL, _SIDE = 0.38, 12.0  # Inches: of a named cell, and the most of all cells.
# So many classes' cells are too small to be seen: the most frequent mistakes
# are circled.
_CIRCLED = 200


def plot_confusion(
  confusion: np.ndarray, class_names: Sequence[str], path: str
) -> None:
  """Draws how often each class was taken for each other, as a PNG file.

  A row is a class, and its colors are shares of that class's images. With over
  a hundred classes, the most frequent mistakes have circles, larger for larger
  shares.

  Args:
    confusion: numbers of images, `[num_classes, num_classes]`: one row for each
      label, one column for each predicted class.
    class_names: by label.
    path: the path of the PNG file.
  """
  count = len(confusion)
  side = min(_SIDE, max(3.5, _CELL * count))
  # At least a dot for each of a thousand classes.
  figure = Figure(figsize=(side, side), dpi=110)
  axes = figure.subplots()
  shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  # Square roots: a few mistakes among many images should be visible.
  image = axes.imshow(
    shares, cmap='Blues', norm=PowerNorm(0.5, 0, 1), interpolation='nearest'
  )
  step = 1 if count <= _NAMED else -(-count // 40)
  ticks = list(range(0, count, step))
  names = [_short(class_names[i]) for i in ticks]
  size = 8 if count <= 40 else 5
  axes.set_xticks(ticks, names, rotation=90, fontsize=size, parse_math=False)
  axes.set_yticks(ticks, names, fontsize=size, parse_math=False)
  axes.set(xlabel='predicted class', ylabel='class of the image')
  if count <= _NUMBERED:
    for row, column in np.argwhere(confusion > 0):
      dark = shares[row, column] > 0.4
      axes.text(column, row, f'{confusion[row, column]:.0f}', fontsize=7,
                ha='center', va='center', color='white' if dark else 'black'
      )  # fmt: skip
  if count > _NAMED:
    wrong = shares * (1 - np.eye(count))
    order = np.argsort(-wrong, axis=None)[:_CIRCLED]
    rows, columns = np.unravel_index(order, wrong.shape)
    largest = max(wrong.max(), 1e-9)
    axes.scatter(
      columns,
      rows,
      80 * wrong[rows, columns] / largest,
      facecolors='none',
      edgecolors='#D55E00',
      linewidths=0.8,
    )
  figure.colorbar(image, fraction=0.04, pad=0.02).set_label(
    "share of the class's images"
  )
  with warnings.catch_warnings(action='ignore'):  # Characters without a glyph.
    write_file(path, lambda file: figure.savefig(file, bbox_inches='tight'))


def _short(name: str) -> str:
  return name.split(',')[0][:24]
