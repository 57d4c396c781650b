"""Writes and prints the scores of a checkpoint: results.json and by class."""

import csv
import io
import json
from typing import Any

import jax
import numpy as np
from etils import epath

from alexnet_jax.cli import command
from alexnet_jax.cli.files import write_text
from alexnet_jax.cli.terminal import say
from alexnet_jax.config.loading import Config
from alexnet_jax.data import imagenet
from alexnet_jax.runs import starts
from alexnet_jax.runs.banner import devices, versions


def write_results(
  workdir: epath.Path,
  config: Config,
  scores: dict[str, Any],
  training: bool,
  **facts: Any,
) -> dict[str, Any]:
  """Writes results.json, per_class.csv and confusion.png.

  Its `commands` are the command that trained the run and that of the latest
  evaluation, if there was one. Its `starts` are those of the training.

  Args:
    workdir: the folder to write to.
    config: the config of the run.
    scores: the scores of a split (`scoring.scorer`).
    training: whether this is a training, not an evaluation.
    **facts: other keys; they replace those from the config.

  Returns:
    What results.json holds.

  Raises:
    StorageError: it cannot be written.
  """
  path = workdir / 'results.json'
  confusion = scores.get('confusion', ())
  scores = {k: v for k, v in scores.items() if k != 'confusion'}
  earlier = [] if training else _commands(path)[:1]
  results = {
    'architecture': config.model.name,
    'seed': config.seed,
    **facts,
    'split': config.data.val_split,
    'crops': config.eval.crops,
    **scores,
    'commands': [*earlier, command.typed()],
    'starts': starts.read(workdir),
    'versions': versions(),
    'devices': devices(),
  }
  if jax.process_index() == 0:
    write_text(path, json.dumps(results, indent=2) + '\n')
    _write_classes(workdir, scores.get('per_class', {}), confusion)
  return results


def _write_classes(workdir, per_class, confusion) -> None:
  # Imported here: matplotlib takes half a second.
  from alexnet_jax.plots.confusion import plot_confusion

  if not per_class:  # Scores that an earlier version kept in a checkpoint.
    return
  names = [imagenet.words(name) for name in per_class]
  text = io.StringIO()
  table = csv.writer(text, lineterminator='\n')
  rows = [list(one.values()) for one in per_class.values()]
  table.writerow(['label', 'class', *list(next(iter(per_class.values())))[1:]])
  for name, (label, *values) in zip(names, rows, strict=True):
    cells = [f'{v:.4f}' if isinstance(v, float) else v for v in values]
    table.writerow([label, name, *cells])
  write_text(workdir / 'per_class.csv', text.getvalue())
  place = {label: i for i, (label, *_) in enumerate(rows)}
  matrix = np.zeros((len(rows), len(rows)))
  for label, predicted, count in confusion:
    # A network whose outputs are NaN predicts class 0, masked or not.
    if predicted in place:
      matrix[place[label], place[predicted]] = count
  plot_confusion(matrix, names, str(workdir / 'confusion.png'))


def _commands(path: epath.Path) -> list[str]:
  """Returns the commands of an earlier results.json, [] if it is invalid."""
  try:
    return list(json.loads(path.read_text())['commands'])
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return []


def training_errors(scores: dict[str, Any]) -> dict[str, Any]:
  """Returns the scores of the training split, prefixed with `train_`."""
  names = ('num_examples', 'top1_error', 'top5_error', 'loss')
  return {f'train_{name}': scores[name] for name in names}


def print_results(workdir: epath.Path, results: dict[str, Any]) -> None:
  """Prints the scores and the path of results.json."""
  crops = results['crops']
  views = 'center crop' if crops == 1 else f'{crops} crops averaged'
  source = (
    f'step {results["step"]}'
    if 'step' in results
    else f'{len(results["members"])} networks'
  )
  say(f'{results["split"]}: {score_text(results)} ({views}), {source}')
  say(f'results: {workdir / "results.json"}')


def score_text(scores: dict[str, Any]) -> str:
  """Returns scores as a person reads them.

  Example:
    >>> errors = {'top1_error': 0.25, 'top5_error': None}
    >>> score_text({**errors, 'loss': 1.5, 'num_examples': 19})
    'top-1 error 25.00%, loss 1.5000 on 19 images'
  """
  top5 = scores['top5_error']  # None: five classes or fewer.
  return (
    f'top-1 error {scores["top1_error"]:.2%}, '
    + ('' if top5 is None else f'top-5 error {top5:.2%}, ')
    + f'loss {scores["loss"]:.4f} on {scores["num_examples"]} images'
  )
