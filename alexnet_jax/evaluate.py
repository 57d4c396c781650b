"""Scores a checkpoint, or several networks averaged, on a split."""

import functools
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import Interrupted, UserError
from alexnet_jax.cli.files import absolute, write_text
from alexnet_jax.cli.terminal import duration, say
from alexnet_jax.config.loading import Config, flatten
from alexnet_jax.config.saved import check_eval, read_config
from alexnet_jax.data import faults
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.data.prepare import check_dataset, prepare_data
from alexnet_jax.data.preprocessing import read_preprocessing
from alexnet_jax.learning import steps
from alexnet_jax.learning.finish import finisher, input_blocks
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.runs import checkpoint, scoring, signals, workdirs
from alexnet_jax.runs.banner import banner
from alexnet_jax.runs.results import (
  print_results,
  training_errors,
  write_results,
)
from alexnet_jax.runs.scoring import score


def _seed_of(workdir: epath.Path) -> dict[str, int]:
  """The seed that a workdir was trained by; nothing where it does not say."""
  saved = read_config(workdir) or {}
  return {'seed': saved['seed']} if 'seed' in saved else {}


def _epoch(workdir: epath.Path, dataset: Dataset, step: int) -> float | None:
  """Epochs that a run had done at a step; None where nothing tells."""
  saved = read_config(workdir)
  if saved is None or 'data' not in saved:
    return None
  try:
    split = saved['data']['train_split']
    number = dataset.num_examples(split)
    number -= faults.num_left_out(workdir, dataset, split)
    return step / (number // saved['batch_size'])
  # The training split may not be at hand; and a file may say anything.
  except (UserError, TypeError, KeyError, ValueError, ArithmeticError):
    return None


def evaluate(config: Config, workdir: epath.Path) -> dict[str, Any]:
  """`--mode=eval`: restores a checkpoint, scores it, writes results.json."""
  workdirs.check_files(workdir)
  check_eval(config, workdir)
  model = build_model(config.model)
  dataset = open_dataset(config.data.name, config.data.data_dir)
  split = config.data.val_split
  splits = [split] + [config.data.train_split] * config.eval.train_split
  for name in splits:
    dataset.num_examples(name)
  if not (workdir / 'checkpoints').exists():
    checkpoint.restore_params(workdir, config.eval.step, {})
  preprocessing = read_preprocessing(workdir)
  check_dataset(config.model.num_classes, workdir, preprocessing, dataset)
  dataset.check_resize(preprocessing.resize)
  step, best_step, params = checkpoint.restore_params(
    workdir,
    config.eval.step,
    abstract_params(model, preprocessing.crop_size),
  )
  dataset = prepare_data(config.data, dataset, splits, workdir)
  if jax.process_index() == 0:
    faults.write_skipped(dataset, workdir)
  banner(
    workdir=workdir,
    network=config.model.name,
    checkpoint=f'step {step} ({config.eval.step})',
    data=f'{dataset.full_name} {split}',
  )
  blocks = input_blocks(model, preprocessing.crop_size)
  start = time.time()
  with signals.StopSignals() as stop:

    def leave_if_asked() -> None:
      if number := stop.agreed():
        raise Interrupted('no results were written', number)

    score_split = functools.partial(
      score,
      steps.p_eval_step(
        model, finisher(preprocessing, config.eval.crops, blocks)
      ),
      steps.replicate(params),
      dataset,
      preprocessing=preprocessing,
      batch_size=config.eval.batch_size,
      crops=config.eval.crops,
      finish=config.data.finish,
      blocks=blocks,
      dtype=model.dtype,
      at_each_batch=leave_if_asked,
    )
    scores = score_split(split=split)
    if config.eval.train_split:
      of_train = score_split(split=config.data.train_split)
      scores |= training_errors(of_train)
  results = write_results(
    workdir,
    config,
    scores,
    training=False,
    **_seed_of(workdir),
    step=step,
    best_step=best_step,
    epoch=_epoch(workdir, dataset, step),
    dataset=dataset.full_name,
    num_left_out=len(dataset.left_out.get(split, ())),
    params_digest=checkpoint.params_digest(params),
  )
  print_results(workdir, results)
  say(f'took {duration(time.time() - start)}')
  return results


def evaluate_ensemble(
  config: Config, names: Sequence[str], out: epath.Path
) -> dict[str, Any]:
  """Scores the mean of the members' softmax outputs.

  Args:
    config: its `data` and `eval` count; the networks are the members' own.
    names: of the members' workdirs, at least two; local or gs://.
    out: the folder for config.json and results.json, with `members`; no
      member's own.

  Returns:
    What results.json holds.

  Raises:
    UserError: the members tell other classes apart than each other or than the
      data set, one is there twice, or `out` holds something else.
  """
  workdirs = [absolute(name) for name in names]
  _check_out(out, workdirs)
  dataset = open_dataset(config.data.name, config.data.data_dir)
  split, crops = config.data.val_split, config.eval.crops
  dataset.num_examples(split)
  members = [pretrained.load(workdir, config.eval.step) for workdir in workdirs]
  for workdir, member in zip(workdirs, members, strict=True):
    check_dataset(
      member.model.num_classes, workdir, member.preprocessing, dataset
    )
    dataset.check_resize(member.preprocessing.resize)
    if member.model.num_classes != members[0].model.num_classes:
      raise UserError(
        f'{workdir} tells {member.model.num_classes} classes apart, '
        f'{workdirs[0]} {members[0].model.num_classes}: their outputs have no '
        'mean (--workdir)'
      )
  dataset = prepare_data(config.data, dataset, [split], out)
  banner(
    members='; '.join(
      f'{name}, {member.model.architecture.name}, step {member.step}'
      for name, member in zip(names, members, strict=True)
    ),
    data=f'{dataset.full_name} {split}',
    results=out,
  )
  blocks = [
    input_blocks(member.model, member.preprocessing.crop_size)
    for member in members
  ]
  step = steps.p_ensemble_step(
    [
      (member.model, finisher(member.preprocessing, crops, cut))
      for member, cut in zip(members, blocks, strict=True)
    ]
  )
  params = [steps.replicate(member.params) for member in members]
  batches = zip(
    *(
      scoring.device_batches(
        dataset,
        split,
        member.preprocessing,
        batch_size=config.eval.batch_size,
        crops=crops,
        finish=config.data.finish,
        blocks=cut,
        dtype=member.model.dtype,
      )
      for member, cut in zip(members, blocks, strict=True)
    ),
    strict=True,
  )
  start = time.time()
  with signals.StopSignals() as stop:

    def leave_if_asked() -> None:
      if number := stop.agreed():
        raise Interrupted('no results were written', number)

    scores = scoring.total(
      (step(params, list(batch)) for batch in batches),
      dataset,
      split,
      leave_if_asked,
    )
  if jax.process_index() == 0:
    out.mkdir(parents=True, exist_ok=True)
    content = {**json.loads(config.to_json()), 'members': list(names)}
    write_text(out / 'config.json', json.dumps(content, indent=2))
  results = write_results(
    out,
    config,
    scores,
    training=False,
    dataset=dataset.full_name,
    num_left_out=len(dataset.left_out.get(split, ())),
    # Each member has its own.
    architecture='ensemble',
    seed=None,
    members=[
      {
        'workdir': name,
        'architecture': member.model.architecture.name,
        'config': _what_tells_apart(workdir),
        'step': member.step,
        'params_digest': checkpoint.params_digest(member.params),
      }
      for name, workdir, member in zip(names, workdirs, members, strict=True)
    ],
  )
  print_results(out, results)
  say(f'took {duration(time.time() - start)}')
  return results


def _what_tells_apart(workdir: epath.Path) -> dict[str, Any]:
  """Of a member's config what tells its network and training from others."""
  fields = flatten(read_config(workdir) or {})
  names = ('model.', 'seed', 'data.lighting', 'num_epochs')
  return {k: v for k, v in fields.items() if k.startswith(names)}


def _check_out(out: epath.Path, workdirs: list[epath.Path]) -> None:
  twice = [workdir for workdir in workdirs if workdirs.count(workdir) > 1]
  if twice:
    raise UserError(f'{twice[0]} is there twice (--workdir)')
  if out.exists() and not out.is_dir():
    raise UserError(f'{out} is a file (--out)')
  there = read_config(out)
  if (there is not None and 'members' not in there) or (
    there is None and (out / 'results.json').exists()
  ):
    raise UserError(
      f'{out} holds a run: name another folder for the results of all (--out)'
    )
