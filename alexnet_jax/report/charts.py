"""Learning curves and Figure 1, as SVG for the page and as PNG."""

import contextlib
import hashlib
import io
import math
import pathlib
import re
from collections.abc import Callable, Iterator

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.report import figure1
from alexnet_jax.report.figure1 import Figure1
from alexnet_jax.report.runs import Experiment, curve, drops

# Okabe and Ito's colours: colour-blind readers can tell them apart. The page
# has lighter ones of theirs in the dark.
_BLUE, _ORANGE, _PURPLE = '#0072b2', '#d55e00', '#cc79a7'
_TRAIN, _VALIDATION = _BLUE, _ORANGE
# Stands for the colour of the page's text, whatever that is.
_INK = '#123456'
_IN_PAGE = {
  _INK: 'currentColor',
  _BLUE: 'var(--blue)',
  _ORANGE: 'var(--orange)',
}

Draw = Callable[[Figure], None]


def svg(draw: Draw, size: tuple[float, float], title: str) -> str:
  """A chart to be put into a page: its text is text, in the page's colour.

  Args:
    draw: draws it.
    size: width and height in inches.
    title: what it shows, for who does not see it.
  """
  with _style(_INK):
    figure = Figure(figsize=size, layout='constrained')
    draw(figure)
    file = io.StringIO()
    figure.savefig(
      file, format='svg', transparent=True, metadata={'Date': None}
    )
  text = file.getvalue()
  text = text[text.index('<svg') :]
  for color, in_page in _IN_PAGE.items():
    text = text.replace(color, in_page)
  # Several charts are in one page.
  prefix = hashlib.sha1(title.encode()).hexdigest()[:6]
  text = re.sub(r'(id="|url\(#|href="#)', rf'\g<1>{prefix}-', text)
  return text.replace('<svg', f'<svg role="img" aria-label="{title}"', 1)


def png(draw: Draw, size: tuple[float, float], path: pathlib.Path) -> None:
  """The same on white."""
  with _style('black'):
    figure = Figure(figsize=size, layout='constrained')
    draw(figure)
    figure.savefig(path, dpi=150)


@contextlib.contextmanager
def _style(ink: str) -> Iterator[None]:
  names = ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'axes.titlecolor',
           'xtick.color', 'ytick.color', 'legend.labelcolor')  # fmt: skip
  with mpl.rc_context(
    {
      **{name: ink for name in names},  # type: ignore[misc]
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
  ):
    yield


PANEL_SIZE = (4.6, 2.9)
# What a panel shows, and its axis.
PANELS = {'loss': 'cross-entropy (nats)', 'top1_error': 'top-1 error (%)'}


def panel(experiment: Experiment, field: str) -> Draw:
  """Loss or top-1 error against epochs, of all seeds.

  Training: means since the line before, as it trained; validation: dots. A
  drop of the learning rate is a dotted line with the rate that it fell to.
  """
  return lambda figure: _panel(figure.subplots(), experiment, field)


def curves(experiment: Experiment) -> Draw:
  """Both panels side by side."""

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


def _line(axes: Axes, lines, field: str, style: str, **kwargs) -> None:
  points = list(curve(lines, field))
  scale = 100 if field == 'top1_error' else 1
  axes.plot(
    [x for x, _ in points], [y * scale for _, y in points], style, **kwargs
  )


def _mark_drops(axes: Axes, experiment: Experiment) -> None:
  marked: dict[tuple[float, float], None] = {}
  for run in experiment.runs:
    marked.update({(round(e, 2), rate): None for e, rate in drops(run)})
  for epoch, rate in marked:
    axes.axvline(epoch, color=_PURPLE, lw=1, ls=':')
    axes.annotate(
      f'rate {rate:.2g}',
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
    f'guessing: ln {classes}',
    (0.02, chance),
    xycoords=('axes fraction', 'data'),
    ha='left',
    va='bottom',
    fontsize=7,
  )
  # The first steps of a large net reach far above what is to be seen.
  top = max(axes.get_ylim()[1], 1.1 * chance)
  if top > 1.6 * chance:
    top = 1.6 * chance
    axes.set_ylabel(f'{axes.get_ylabel()}, to {top:.1f}')
  axes.set_ylim(0, top)


FIGURE_1_SIZE = (6.4, 3.8)


def figure_1(figure_1: Figure1) -> Draw:
  """Training error against epochs with ReLU and with tanh units."""

  def draw(figure: Figure) -> None:
    axes = figure.subplots()
    for rates, name, style, color in (
      (figure_1.relu, 'ReLU', '-', _BLUE),
      (figure_1.tanh, 'tanh', '--', _ORANGE),
    ):
      for fastest in rates[:1]:
        label: str | None = f'{name}, rate {fastest.rate:g}'
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
