"""Scores a network on every image of a split, exactly once."""

import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from alexnet_jax import checkpoint, pretrained, signals, workdirs, writer
from alexnet_jax import config as config_lib
from alexnet_jax.data import faults, input_pipeline, preprocess
from alexnet_jax.data.cache import cached
from alexnet_jax.data.dataset import Dataset, open_dataset, origin
from alexnet_jax.errors import Interrupted, UserError
from alexnet_jax.learning import metrics, steps
from alexnet_jax.learning.finish import finisher, input_blocks
from alexnet_jax.model.architectures import Blocks


def score(
  p_eval_step: Any,
  params: Any,
  dataset: Dataset,
  split: str,
  preprocessing: preprocess.Preprocessing,
  *,
  batch_size: int,
  crops: int,
  finish: str = 'host',
  blocks: Blocks | None = None,
  dtype: Any = np.float32,
  at_each_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
  """Errors and loss over a whole split.

  Args:
    p_eval_step: `steps.p_eval_step`, with a `finisher` of these crops where
      `finish` is 'device'.
    params: on this process's devices (`steps.replicate`).
    dataset: a prepared set.
    split: the split to score.
    preprocessing: as training left it.
    batch_size: global; any number, it is rounded up to a multiple of the
      devices and the last batch is filled with blanks that count nothing.
    crops: 1 or 10.
    finish: 'host' or 'device'; see `input_pipeline.train_batches`.
    blocks: see there.
    dtype: see there.
    at_each_batch: called before each; what it raises ends the evaluation.

  Returns:
    `num_examples`, `top1_error` and `top5_error` (fractions), `loss` (nats).
  """
  num_examples = dataset.num_examples(split)
  batch_size = min(batch_size, num_examples)
  batch_size += -batch_size % jax.device_count()
  batches = input_pipeline.eval_batches(
    dataset,
    split,
    preprocessing,
    batch_size=batch_size,
    crops=crops,
    finish=finish,
    blocks=blocks,
    dtype=dtype,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  # Summed in float64 on the host, so that the batch size hardly matters.
  total = {name: 0.0 for name in metrics.zero_sums()}
  with tqdm(total=num_examples, desc=split, disable=None, leave=False) as bar:
    for batch in input_pipeline.to_devices(batches, jax.local_devices()):
      at_each_batch()
      sums = jax.device_get(p_eval_step(params, batch))
      total = {name: total[name] + float(sums[name]) for name in total}
      bar.update(int(sums['count']))
  if total['count'] != num_examples:
    raise RuntimeError(
      f'{split}: {total["count"]} images counted of {num_examples}'
    )
  return {'num_examples': num_examples, **metrics.means(total)}


def write_results(
  workdir: epath.Path,
  config: config_lib.Config,
  scores: dict[str, float],
  **facts: Any,
) -> dict[str, Any]:
  """Writes results.json; returns what is in it."""
  results = {
    **facts,
    'split': config.data.val_split,
    'crops': config.eval.crops,
    **scores,
    'architecture': config.model.name,
    'seed': config.seed,
  }
  if jax.process_index() == 0:
    config_lib.write_whole(
      workdir / 'results.json', json.dumps(results, indent=2) + '\n'
    )
  return results


def say_results(workdir: epath.Path, results: dict[str, Any]) -> None:
  """The scores, and where they are written."""
  writer.say(
    f'{results["split"]}: top-1 error {results["top1_error"]:.2%}, top-5 '
    f'error {results["top5_error"]:.2%}, loss {results["loss"]:.4f} on '
    f'{results["num_examples"]} images ({_views(results["crops"])}), step '
    f'{results["step"]}'
  )
  writer.say(f'results: {workdir / "results.json"}')


def prepare_data(
  data: config_lib.Config,
  dataset: Dataset,
  splits: list[str],
  workdir: epath.Path,
) -> Dataset:
  """A set as `config.data` wants it read: from a copy, without its faults."""
  if data.cache_dir:
    dataset = cached(dataset, splits, data.cache_dir)
    writer.say(f'reading {dataset.full_name} from its copy in {data.cache_dir}')
  if data.on_error == 'skip':
    dataset = faults.leave_out(dataset, splits, workdir, data.max_error_rate)
  for split, keys in dataset.left_out.items():
    if keys:
      named = ', '.join(sorted(keys)[:5]) + (', ...' if len(keys) > 5 else '')
      writer.say(
        f'left out {len(keys)} of {dataset.num_examples(split) + len(keys)} '
        f'examples of {split}, which cannot be used: {named}'
      )
  return dataset


def write_left_out(dataset: Dataset, workdir: epath.Path) -> None:
  """Keeps them, so that the set is checked once."""
  if jax.process_index() == 0 and dataset.left_out:
    config_lib.write_whole(
      workdir / faults.FILE, faults.to_json(dataset, workdir)
    )


def _views(crops: int) -> str:
  return 'centre crop' if crops == 1 else f'{crops} crops averaged'


def _epoch(workdir: epath.Path, dataset: Dataset, step: int) -> float | None:
  """Epochs that a run had done at a step; None where nothing tells."""
  saved = config_lib.read_config(workdir)
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


def _check_dataset(
  config: config_lib.Config,
  workdir: epath.Path,
  preprocessing: preprocess.Preprocessing,
  dataset: Dataset,
) -> None:
  """Is the data set the one trained on, or one that its classes fit?"""
  if preprocessing.dataset is not None:
    # A set and its 256 x 256 form hold the same pictures.
    if origin(preprocessing.dataset) != dataset.origin:
      raise UserError(
        f'{workdir} was trained on {preprocessing.dataset}, not '
        f'{dataset.full_name} (data.name)'
      )
  # Converted weights do not say, but for the names of ImageNet's classes.
  elif preprocessing.class_names not in ((), tuple(dataset.class_names)):
    raise UserError(
      f'{workdir} tells {len(preprocessing.class_names)} classes apart, '
      f'{preprocessing.class_names[0]} and so on; those of '
      f'{dataset.full_name} are others (data.name)'
    )
  elif dataset.num_classes > config.model.num_classes:
    raise UserError(
      f'{workdir} tells {config.model.num_classes} classes apart, '
      f'{dataset.full_name} has {dataset.num_classes} (data.name)'
    )


def evaluate(config: config_lib.Config, workdir: epath.Path) -> dict[str, Any]:
  """`--mode=eval`: restores a checkpoint, scores it, writes results.json."""
  workdirs.check_files(workdir)
  config_lib.check_eval(config, workdir)
  model = pretrained.build_model(config.model)
  dataset = open_dataset(config.data.name, config.data.data_dir)
  split = config.data.val_split
  dataset.num_examples(split)
  if not (workdir / 'checkpoints').exists():
    checkpoint.restore_params(workdir, config.eval.step, {})
  preprocessing = pretrained.read_preprocessing(workdir)
  _check_dataset(config, workdir, preprocessing, dataset)
  dataset.check_resize(preprocessing.resize)
  step, best_step, params = checkpoint.restore_params(
    workdir,
    config.eval.step,
    pretrained.abstract_params(model, preprocessing.crop_size),
  )
  dataset = prepare_data(config.data, dataset, [split], workdir)
  write_left_out(dataset, workdir)
  writer.banner(
    workdir=workdir,
    network=config.model.name,
    checkpoint=f'step {step} ({config.eval.step})',
    data=f'{dataset.full_name} {split}',
  )
  blocks = input_blocks(model, preprocessing.crop_size)
  start = time.time()
  with signals.StopSignals() as stop:

    def leave_if_told() -> None:
      if number := stop.agreed():
        raise Interrupted('no results were written', number)

    scores = score(
      steps.p_eval_step(
        model, finisher(preprocessing, config.eval.crops, blocks)
      ),
      steps.replicate(params),
      dataset,
      split,
      preprocessing,
      batch_size=config.eval.batch_size,
      crops=config.eval.crops,
      finish=config.data.finish,
      blocks=blocks,
      dtype=model.dtype,
      at_each_batch=leave_if_told,
    )
  results = write_results(
    workdir,
    config,
    scores,
    step=step,
    best_step=best_step,
    epoch=_epoch(workdir, dataset, step),
    dataset=dataset.full_name,
    num_left_out=len(dataset.left_out.get(split, ())),
    params_digest=checkpoint.params_digest(params),
  )
  say_results(workdir, results)
  writer.say(f'took {writer.duration(time.time() - start)}')
  return results
