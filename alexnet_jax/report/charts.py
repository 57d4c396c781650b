"""Draws learning curves and Figure 1, as SVG for the page and as PNG."""

import hashlib
import io
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.cli.files import write_file
from alexnet_jax.report import figure1
from alexnet_jax.report.experiments import Experiment
from alexnet_jax.report.figure1 import Figure1
from alexnet_jax.report.logs import Lines, curve, drops

# Okabe and Ito's palette, which color-blind readers can distinguish. In dark
# mode the page uses its lighter colors.
_BLUE, _ORANGE, _PURPLE = '#0072b2', '#d55e00', '#cc79a7'
_TRAIN, _VALIDATION = _BLUE, _ORANGE
# A placeholder for the page's text color.
_INK = '#123456'
_IN_PAGE = {
  _INK: 'currentColor',
  _BLUE: 'var(--blue)',
  _ORANGE: 'var(--orange)',
}

Draw = Callable[[Figure], None]


def svg(draw: Draw, size: tuple[float, float], title: str) -> str:
  """Returns a chart as SVG, with text in the page's font and color.

  Args:
    draw: draws the chart.
    size: width and height in inches.
    title: what it shows, for screen readers; unique in the page.
  """
  file = io.StringIO()
  _save(draw, size, _INK, file,
        format='svg', transparent=True, metadata={'Date': None})  # fmt: skip
  text = file.getvalue()
  text = text[text.index('<svg') :]
  for color, in_page in _IN_PAGE.items():
    text = text.replace(color, in_page)
  # Ids must differ between the charts of a page.
  prefix = hashlib.sha1(title.encode()).hexdigest()[:6]
  text = re.sub(r'(id="|url\(#|href="#)', rf'\g<1>{prefix}-', text)
  return text.replace('<svg', f'<svg role="img" aria-label="{title}"', 1)


def png(draw: Draw, size: tuple[float, float], path: pathlib.Path) -> None:
  """Writes a chart as PNG, on white, into a file, local or on gs://."""
  write_file(path, lambda file: _save(draw, size, 'black', file, dpi=150))


_COLORED = ('text.color', 'axes.edgecolor', 'axes.labelcolor',
            'axes.titlecolor', 'xtick.color', 'ytick.color',
            'legend.labelcolor')  # fmt: skip
_STYLE: Any = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'alexnet_jax',
  'font.family': 'sans-serif',
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'grid.alpha': 0.3,
  'axes.grid': True,
  'legend.framealpha': 0.0,
  'legend.fontsize': 8,
  'axes.facecolor': 'none',
}


def _save(draw: Draw, size, ink: str, file, **options) -> None:
  with mpl.rc_context(_STYLE | dict.fromkeys(_COLORED, ink)):
    figure = Figure(figsize=size)
    draw(figure)
    # Room for labels, in inches. A layout engine takes a third of the time.
    width, height = size
    figure.subplots_adjust(
      left=0.6 / width, right=1 - 0.15 / width, wspace=0.2,
      bottom=0.5 / height, top=1 - 0.15 / height,
    )  # fmt: skip
    figure.savefig(file, **options)


PANEL_SIZE = (4.6, 2.9)
# The fields that panels show, with the labels of their axes.
PANELS = {'loss': 'cross-entropy (nats)', 'top1_error': 'top-1 error (%)'}


def panel(experiment: Experiment, field: str) -> Draw:
  """Returns a drawing of loss or top-1 error against epochs, of all seeds.

  Training values are means since the previous line of the log, with dropout and
  random crops. Validation values are dots. Each drop of the learning rate is a
  dotted line with the new learning rate.
  """
  return lambda figure: _panel(figure.subplots(), experiment, field)


def curves(experiment: Experiment) -> Draw:
  """Returns a drawing of both panels side by side."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots(1, len(PANELS))
    for one, field in zip(axes, PANELS, strict=True):
      _panel(one, experiment, field)

  return draw


def _panel(axes: Axes, experiment: Experiment, field: str) -> None:
  for i, run in enumerate(experiment.runs):
    for lines, color, style, name in (
      (run.train, _TRAIN, '-', 'training'),
      (run.validation, _VALIDATION, 'o--', 'validation'),
    ):
      _line(axes, lines, field, style, color=color, lw=1.1, markersize=3.5,
            alpha=0.85, label=name if i == 0 else None)  # fmt: skip
  axes.set(xlabel='epoch', ylabel=PANELS[field])
  axes.set_xlim(left=0)
  axes.set_ylim(bottom=0)
  if field == 'loss':
    _mark_chance(axes, experiment)
  _mark_drops(axes, experiment)
  axes.legend(loc='lower left')


def comparison(unchanged: Experiment, changed: Experiment, split: str) -> Draw:
  """Returns a drawing of two experiments' top-1 error against epochs.

  A line is the mean over seeds; its band goes from the least to the largest.

  Args:
    unchanged: in blue.
    changed: in orange.
    split: `train` or `validation`, for whose lines of the log.
  """

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    name_of = {'train': 'training', 'validation': 'validation'}
    for experiment, color, style, name in (
      (unchanged, _BLUE, '-', unchanged.name),
      (changed, _ORANGE, '--', changed.name),
    ):
      _band(axes, [getattr(run, split) for run in experiment.runs],
            style, color=color, label=name)  # fmt: skip
    axes.set(xlabel='epoch', ylabel=f'{name_of[split]} top-1 error (%)')
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(loc='upper right')

  return draw


def _band(axes: Axes, logs: Sequence[Lines], style: str, **kwargs) -> None:
  curves = [np.array(list(curve(lines, 'top1_error'))) for lines in logs]
  curves = [points for points in curves if len(points)]
  if not curves:
    return
  # Where all seeds have values.
  last = min(points[-1, 0] for points in curves)
  epochs = curves[0][curves[0][:, 0] <= last, 0]
  errors = 100 * np.array([np.interp(epochs, *points.T) for points in curves])
  axes.plot(epochs, errors.mean(axis=0), style, lw=1.4, **kwargs)
  axes.fill_between(epochs, errors.min(axis=0), errors.max(axis=0), lw=0,
                    alpha=0.25, color=kwargs['color'])  # fmt: skip


def _line(axes: Axes, lines: Lines, field: str, style: str, **kwargs) -> None:
  points = list(curve(lines, field))
  scale = 100 if field == 'top1_error' else 1
  axes.plot(
    [x for x, _ in points], [y * scale for _, y in points], style, **kwargs
  )


def _mark_drops(axes: Axes, experiment: Experiment) -> None:
  marked: dict[tuple[float, float], None] = {}
  for run in experiment.runs:
    fell = drops(run.train)
    marked.update({(round(e, 2), rate): None for e, rate in fell})
  for epoch, rate in marked:
    axes.axvline(epoch, color=_PURPLE, lw=1, ls=':')
    axes.annotate(
      f'learning rate {rate:.2g}',
      (epoch, 1),
      xycoords=('data', 'axes fraction'),
      rotation=90,
      ha='right',
      va='top',
      fontsize=7,
    )


def _mark_chance(axes: Axes, experiment: Experiment) -> None:
  classes = int(experiment.config.get('model.num_classes', 0))
  if classes < 2:
    return
  chance = math.log(classes)
  axes.axhline(chance, color='gray', lw=0.8, ls=':')
  axes.annotate(
    f'chance: ln {classes}',
    (0.02, chance),
    xycoords=('axes fraction', 'data'),
    ha='left',
    va='bottom',
    fontsize=7,
  )
  # The first steps of a large network would hide the rest.
  top = max(axes.get_ylim()[1], 1.1 * chance)
  if top > 1.6 * chance:
    top = 1.6 * chance
    axes.set_ylabel(f'{axes.get_ylabel()}, to {top:.1f}')
  axes.set_ylim(0, top)


FIGURE_1_SIZE = (6.4, 3.8)


def figure_1(figure_1: Figure1) -> Draw:
  """Returns a drawing of training error against epochs, ReLU and tanh."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    for trials, name, style, color in (
      (figure_1.relu, 'ReLU', '-', _BLUE),
      (figure_1.tanh, 'tanh', '--', _ORANGE),
    ):
      for fastest in trials[:1]:
        label: str | None = f'{name}, learning rate {fastest.learning_rate:g}'
        for run in fastest.experiment.runs:
          _line(axes, run.train, 'top1_error', style, color=color, lw=1.4,
                label=label)  # fmt: skip
          label = None
        for reached in fastest.epochs.values():
          axes.plot([reached], [100 * figure1.ERROR], 'o', color=color)
    axes.axhline(100 * figure1.ERROR, color='gray', lw=0.8, ls=':')
    axes.set(xlabel='epoch', ylabel='training error (%)')
    axes.set_ylim(0, 75)
    axes.set_xlim(left=0)
    axes.legend()

  return draw
