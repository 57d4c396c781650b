"""Scores networks on every image of a split: one checkpoint, or an ensemble."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import Interrupted, UserError
from alexnet_jax.cli.files import absolute, write_text
from alexnet_jax.cli.terminal import duration, say
from alexnet_jax.config.loading import Config, flatten
from alexnet_jax.config.saved import check_eval, read_config, with_classes
from alexnet_jax.data import faults
from alexnet_jax.data.classes import match
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.data.labels import task_of
from alexnet_jax.data.of_run import prepare_data
from alexnet_jax.data.preprocessing import Preprocessing, read_preprocessing
from alexnet_jax.learning import eval_steps
from alexnet_jax.learning.placement import replicate
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.runs import scoring, signals
from alexnet_jax.runs.banner import banner
from alexnet_jax.runs.params import params_digest, restore_params
from alexnet_jax.runs.results import (
  print_results,
  training_errors,
  write_results,
)
from alexnet_jax.runs.workdirs import check_files


def evaluate(
  config: Config, workdir: epath.Path, out: epath.Path
) -> dict[str, Any]:
  """Scores one checkpoint of a workdir and writes results.json.

      python -m alexnet_jax.main --config=configs/imagenet.py --mode=eval \\
        --workdir=DIR --config.eval.step=latest --config.eval.crops=10

  Args:
    config: `model`, `data` and `eval` are used; `eval.step` chooses the
      checkpoint. With `eval.train_split` the training split is scored too.
    workdir: the workdir of a trained run or of converted weights.
    out: the folder for the results. If it is not the workdir, whose
      results.json stays as it is, it gets a config.json, too.

  Returns:
    What results.json holds.

  Raises:
    UserError: there is no such checkpoint, the network is not the one that was
      trained, or its classes and the dataset's differ.
    StorageError: no checkpoint is intact, or results.json cannot be written.
    Interrupted: SIGTERM or SIGINT.
  """
  if out != workdir:
    _check_out(out, [workdir])
  check_files(workdir)
  saved = (read_config(workdir) or {}).get('model')
  if isinstance(saved, dict):
    config = with_classes(config, saved.get('num_classes'))
  check_eval(config, workdir)
  model = build_model(config.model)
  split = config.data.val_split
  splits = [split] + [config.data.train_split] * config.eval.train_split
  dataset = open_dataset(config.data.name, config.data.data_dir)
  for name in splits:
    dataset.num_examples(name)  # Raises if there is no such split.
  if not (workdir / 'checkpoints').exists():
    restore_params(workdir, config.eval.step, {})  # Raises: nothing to score.
  preprocessing = read_preprocessing(workdir)
  classes = match(
    model.num_classes, workdir, preprocessing, dataset, config.eval.classes
  )
  dataset.check_resize(preprocessing.resize)
  step, best_step, params = restore_params(
    workdir,
    config.eval.step,
    abstract_params(model, preprocessing.crop_size),
  )
  dataset = prepare_data(config, dataset, splits, workdir)
  if jax.process_index() == 0:
    faults.write_skipped(dataset, workdir)
  banner(
    workdir=workdir,
    network=config.model.name,
    checkpoint=f'step {step} ({config.eval.step})',
    data=f'{dataset.full_name} {split}',
  )
  start = time.time()
  with _stop_signals() as leave_if_asked:
    score = scoring.scorer(
      config, model, dataset, preprocessing, classes, leave_if_asked
    )
    replicated = replicate(params)
    scores = score(replicated, split)
    if config.eval.train_split:
      scores |= training_errors(score(replicated, config.data.train_split))
  saved = read_config(workdir) or {}
  if out != workdir:
    _write_config(config, [os.fspath(workdir)], out)
  return _report(
    out,
    config,
    dataset,
    scores,
    start,
    seed=saved.get('seed', config.seed),
    step=step,
    best_step=best_step,
    epoch=_epoch(saved, workdir, preprocessing, step),
    params_digest=params_digest(params),
  )


def evaluate_ensemble(
  config: Config, names: Sequence[str], out: epath.Path
) -> dict[str, Any]:
  """Scores the mean of several networks' softmax outputs.

  These are the paper's ensembles of 5 and 7 CNNs (section 6, Table 2):

      python -m alexnet_jax.main --config=configs/imagenet.py --mode=eval \\
        --workdir=DIR,DIR,DIR --out=DIR

  The members need not be the same network: each sees every image through its
  own preprocessing. All process one batch of images together, so memory does
  not grow with the size of the split.

  Args:
    config: `data` and `eval` are used; each member has its own network.
    names: the members' workdirs, at least two; local or gs://.
    out: the folder for config.json, with `members`, and results.json. It must
      not be a member's workdir.

  Returns:
    What results.json holds.

  Raises:
    UserError: the members' classes differ from each other or from the
      dataset's, a member is given twice, or `out` holds something else.
    StorageError: no checkpoint of a member is intact, or the results cannot be
      written.
    Interrupted: SIGTERM or SIGINT.
  """
  workdirs = [absolute(name) for name in names]
  _check_out(out, workdirs)
  split = config.data.val_split
  dataset = open_dataset(config.data.name, config.data.data_dir)
  dataset.num_examples(split)
  members = [pretrained.load(workdir, config.eval.step) for workdir in workdirs]
  each_classes = [
    match(
      member.model.num_classes,
      workdir,
      member.preprocessing,
      dataset,
      config.eval.classes,
    )
    for workdir, member in zip(workdirs, members, strict=True)
  ]
  classes = each_classes[0]
  for workdir, member, other in zip(
    workdirs, members, each_classes, strict=True
  ):
    dataset.check_resize(member.preprocessing.resize)
    if other.num_outputs != classes.num_outputs:
      raise UserError(
        f'{workdir} has {other.num_outputs} classes, {workdirs[0]} '
        f'{classes.num_outputs}: their outputs cannot be averaged (--workdir)'
      )
    if not np.array_equal(other.outputs, classes.outputs):
      raise UserError(
        f'{workdir} has the classes of {workdirs[0]} in another order: their '
        'outputs cannot be averaged (--workdir)'
      )
  config = with_classes(config, members[0].model.num_classes)
  dataset = prepare_data(config, dataset, [split], out)
  banner(
    members='; '.join(
      f'{name}, {member.model.architecture.name}, step {member.step}'
      for name, member in zip(names, members, strict=True)
    ),
    data=f'{dataset.full_name} {split}',
    results=out,
  )
  task = task_of(classes, dataset, split)
  p_step = eval_steps.p_ensemble_step(
    [
      (m.model, scoring.eval_finisher(config, m.model, m.preprocessing))
      for m in members
    ],
    task.outputs,
  )
  params = [replicate(member.params) for member in members]
  batches = [
    scoring.eval_batches(
      config, m.model, dataset, split, m.preprocessing, classes
    )
    for m in members
  ]
  start = time.time()
  with _stop_signals() as leave_if_asked:
    sums = (p_step(params, list(each)) for each in zip(*batches, strict=True))
    scores = scoring.add_up(sums, task, classes, split, leave_if_asked)
  _write_config(config, names, out)
  return _report(
    out,
    config,
    dataset,
    scores,
    start,
    # Each member has its own.
    architecture='ensemble',
    seed=None,
    members=[
      {
        'workdir': name,
        'architecture': member.model.architecture.name,
        'config': _identifying_fields(workdir),
        'step': member.step,
        'params_digest': params_digest(member.params),
      }
      for name, workdir, member in zip(names, workdirs, members, strict=True)
    ],
  )


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], None]]:
  """Yields a function that raises Interrupted after SIGTERM or SIGINT."""
  with signals.StopSignals() as stop:

    def leave_if_asked() -> None:
      if number := stop.agreed():
        raise Interrupted('no results were written', number)

    yield leave_if_asked


def _report(
  out: epath.Path,
  config: Config,
  dataset: Dataset,
  scores: dict[str, Any],
  start: float,
  **facts: Any,
) -> dict[str, Any]:
  """Writes and prints the results of an evaluation that began at `start`."""
  results = write_results(
    out,
    config,
    scores,
    training=False,
    dataset=dataset.full_name,
    num_left_out=len(dataset.skipped.get(config.data.val_split, ())),
    **facts,
  )
  print_results(out, results)
  say(f'took {duration(time.time() - start)}')
  return results


def _write_config(
  config: Config, names: Sequence[str], out: epath.Path
) -> None:
  """Writes the config.json of a folder that has the results of networks."""
  if jax.process_index() == 0:
    out.mkdir(parents=True, exist_ok=True)
    content = {**json.loads(config.to_json()), 'members': list(names)}
    write_text(out / 'config.json', json.dumps(content, indent=2))


def _epoch(
  saved: dict[str, Any],
  workdir: epath.Path,
  preprocessing: Preprocessing,
  step: int,
) -> float | None:
  """Returns the epochs that a run had done at a step, None if unknown.

  Args:
    saved: the run's config.json; {} if it has none.
    workdir: the workdir of the run.
    preprocessing: the run's.
    step: steps done.
  """
  try:
    number = (preprocessing.color_stats or {})['num_examples']
    return step / (number // saved['batch_size'])
  # Converted weights have none, and config.json may hold anything.
  except (TypeError, KeyError, ValueError, ArithmeticError):
    return None


def _identifying_fields(workdir: epath.Path) -> dict[str, Any]:
  """Returns the config fields by which members of an ensemble differ."""
  fields = flatten(read_config(workdir) or {})
  names = ('model.', 'seed', 'data.lighting', 'num_epochs')
  return {k: v for k, v in fields.items() if k.startswith(names)}


def _check_out(out: epath.Path, workdirs: list[epath.Path]) -> None:
  for workdir in workdirs:
    if workdirs.count(workdir) > 1:
      raise UserError(f'{workdir} is given twice (--workdir)')
  if out.exists() and not out.is_dir():
    raise UserError(f'{out} is a file (--out)')
  saved = read_config(out)
  if (saved is not None and 'members' not in saved) or (
    saved is None and (out / 'results.json').exists()
  ):
    raise UserError(
      f'{out} holds a run: give another folder for the results (--out)'
    )
