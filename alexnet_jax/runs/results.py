"""results.json: the scores of one checkpoint."""

import json
from typing import Any

import jax
from etils import epath

from alexnet_jax.cli import command
from alexnet_jax.cli.files import write_text
from alexnet_jax.cli.terminal import say
from alexnet_jax.config.loading import Config
from alexnet_jax.runs.banner import devices, versions


def training_errors(scores: dict[str, Any]) -> dict[str, float]:
  """What results.json says of the training split: `train_top1_error`, ..."""
  names = ('num_examples', 'top1_error', 'top5_error', 'loss')
  return {f'train_{name}': scores[name] for name in names}


def write_results(
  workdir: epath.Path,
  config: Config,
  scores: dict[str, Any],
  training: bool,
  **facts: Any,
) -> dict[str, Any]:
  """Writes results.json; returns what is in it.

  The commands that led to it are the run's, and that of a later evaluation.
  """
  path = workdir / 'results.json'
  earlier = [] if training else _commands(path)[:1]
  results = {
    'architecture': config.model.name,
    'seed': config.seed,
    **facts,
    'split': config.data.val_split,
    'crops': config.eval.crops,
    **scores,
    'commands': [*earlier, command.typed()],
    'versions': versions(),
    'devices': devices(),
  }
  if jax.process_index() == 0:
    write_text(path, json.dumps(results, indent=2) + '\n')
  return results


def _commands(path: epath.Path) -> list[str]:
  """Those of an earlier results.json, which may be anything or missing."""
  try:
    return list(json.loads(path.read_text())['commands'])
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return []


def print_results(workdir: epath.Path, results: dict[str, Any]) -> None:
  """The scores, and where they are written."""
  say(
    f'{results["split"]}: top-1 error {results["top1_error"]:.2%}, top-5 '
    f'error {results["top5_error"]:.2%}, loss {results["loss"]:.4f} on '
    f'{results["num_examples"]} images ({_views(results["crops"])}), '
    + (
      f'step {results["step"]}'
      if 'step' in results
      else f'{len(results["members"])} networks'
    )
  )
  say(f'results: {workdir / "results.json"}')


def _views(crops: int) -> str:
  return 'centre crop' if crops == 1 else f'{crops} crops averaged'
