"""Figures 3 and 4: the PNG files in runs' folders."""

import base64
import contextlib
import json
import struct
from collections.abc import Sequence
from typing import Any

from alexnet_jax.report import reading
from alexnet_jax.report.experiments import Experiment
from alexnet_jax.report.runs import Run

# File names, with what each shows.
FIGURE_4 = {
  'figure4_labels': 'the five most probable labels',
  'figure4_neighbors': 'the nearest training images',
}
_PNG = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND\xaeB`\x82'
# Figure 3 is by `alexnet_jax.figures`, or else by the training run.
_FILES = {
  'figure3': ('figure3.png', 'conv1.png'),
  **{name: (f'{name}.png',) for name in FIGURE_4},
}


def of_experiment(experiment: Experiment) -> dict[str, tuple[Run, bytes]]:
  """Returns the PNG of each figure by name, with the first run that has it.

  Skips files that are not complete PNGs.
  """
  found: dict[str, tuple[Run, bytes]] = {}
  for run in experiment.runs:
    for name, files in _FILES.items():
      for path in (run.path / file for file in files):
        with contextlib.suppress(OSError):
          content = path.read_bytes() if path.is_file() else b''
          if content.startswith(_PNG) and content.endswith(_PNG_END):
            found.setdefault(name, (run, content))
  return found


def for_page(
  experiments: Sequence[Experiment], names: Sequence[str]
) -> list[dict[str, Any]]:
  """Returns what the page shows of the figures with some names."""
  return [
    {
      'data': f'data:image/png;base64,{base64.b64encode(content).decode()}',
      'size': struct.unpack('>II', content[16:24]),
      'name': run.name,
      'what': FIGURE_4.get(name, ''),
      'command': _command(run) if name in FIGURE_4 else '',
    }
    for experiment in experiments
    for name, (run, content) in of_experiment(experiment).items()
    if name in names
  ]


def _command(run: Run) -> str:
  """Describes how Figure 4 was made: step, seed of the draw, command."""
  try:
    content = json.loads((run.path / 'figures.json').read_text())
    return reading.text(
      f'step {content["step"]}, seed {content["seed"]}, {content["command"]}'
    )
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return 'command unknown: no valid figures.json'
