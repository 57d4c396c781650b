"""Scores a network on every image of a split, exactly once."""

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from alexnet_jax import (
  checkpoint,
  command,
  pretrained,
  signals,
  workdirs,
  writer,
)
from alexnet_jax import config as config_lib
from alexnet_jax.data import faults, input_pipeline, preprocess
from alexnet_jax.data.cache import cached
from alexnet_jax.data.dataset import Dataset, open_dataset, origin
from alexnet_jax.errors import Interrupted, UserError
from alexnet_jax.learning import metrics, steps
from alexnet_jax.learning.finish import finisher, input_blocks
from alexnet_jax.model.architectures import Blocks

_CONFUSED = 10


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
) -> dict[str, Any]:
  """Errors and loss over a whole split.

  Args:
    p_eval_step: `steps.p_eval_step`, with a `finisher` of these crops where
      `finish` is 'device'.
    params: on this process's devices (`steps.replicate`).
    dataset: a prepared set.
    split: the split to score.
    preprocessing: as training left it.
    batch_size: global, in views; any number: see `num_pictures`. The last
      batch is filled with blanks that count nothing.
    crops: 1 or 10.
    finish: 'host' or 'device'; see `input_pipeline.train_batches`.
    blocks: see there.
    dtype: see there.
    at_each_batch: called before each; what it raises ends the evaluation.

  Returns:
    `num_examples`, `top1_error` and `top5_error` (fractions), `loss` (nats),
    and `most_confused` (`confused_classes`).
  """
  batches = device_batches(
    dataset,
    split,
    preprocessing,
    batch_size=batch_size,
    crops=crops,
    finish=finish,
    blocks=blocks,
    dtype=dtype,
  )
  sums = (p_eval_step(params, batch) for batch in batches)
  return total(sums, dataset, split, at_each_batch)


def device_batches(
  dataset: Dataset,
  split: str,
  preprocessing: preprocess.Preprocessing,
  *,
  batch_size: int,
  crops: int,
  **arguments: Any,
) -> Iterator[steps.Batch]:
  """`input_pipeline.eval_batches` on this process's devices; see `score`."""
  batch_size = min(batch_size, crops * dataset.num_examples(split))
  batches = input_pipeline.eval_batches(
    dataset,
    split,
    preprocessing,
    batch_size=num_pictures(batch_size, crops, jax.device_count()),
    crops=crops,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    **arguments,
  )
  return input_pipeline.to_devices(batches, jax.local_devices())


def num_pictures(batch_size: int, crops: int, num_devices: int) -> int:
  """Pictures in a batch of so many views: ten crops take no more memory.

  Args:
    batch_size: global, in views.
    crops: of each picture.
    num_devices: of all processes.

  Returns:
    A multiple of the devices, at least one on each.
  """
  return -(-max(batch_size // crops, 1) // num_devices) * num_devices


def total(
  batch_sums: Iterator[metrics.Sums],
  dataset: Dataset,
  split: str,
  at_each_batch: Callable[[], None],
) -> dict[str, Any]:
  """What `score` returns, of the sums over each batch of a split."""
  num_examples = dataset.num_examples(split)
  # Summed in float64 on the host, so that the batch size hardly matters.
  result: dict[str, Any] = dict.fromkeys(metrics.zero_sums(), 0.0)
  result['confusion'] = 0.0
  with tqdm(total=num_examples, desc=split, disable=None, leave=False) as bar:
    at_each_batch()
    for sums in map(jax.device_get, batch_sums):
      for name in result:
        result[name] = result[name] + np.asarray(sums[name], np.float64)
      bar.update(int(sums['count']))
      at_each_batch()
  if result['count'] != num_examples:
    raise RuntimeError(
      f'{split}: {result["count"]} images counted of {num_examples}'
    )
  return {
    'num_examples': num_examples,
    **metrics.means(result),
    'most_confused': confused_classes(result['confusion'], dataset.class_names),
  }


def confused_classes(
  confusion: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
  """The pairs of classes that are most often confused, at most ten.

  Args:
    confusion: `metrics.confusion` over a split.
    class_names: by label.

  Returns:
    For each pair `label` and `predicted` (names), how often (`count`), and of
    how many examples of the label (`of`); the greatest share first.
  """

  def name(label):
    known = label < len(class_names)
    return class_names[label] if known else f'class {label}'

  of = confusion.sum(axis=1, keepdims=True)
  shares = confusion / np.maximum(of, 1)
  np.fill_diagonal(shares, 0)
  order = np.argsort(-shares, axis=None, kind='stable')[:_CONFUSED]
  pairs = zip(*np.unravel_index(order, shares.shape), strict=True)
  return [
    {
      'label': name(label),
      'predicted': name(predicted),
      'count': int(confusion[label, predicted]),
      'of': int(of[label, 0]),
    }
    for label, predicted in pairs
    if shares[label, predicted] > 0
  ]


def training_errors(scores: dict[str, Any]) -> dict[str, float]:
  """What results.json says of the training split: `train_top1_error`, ..."""
  names = ('num_examples', 'top1_error', 'top5_error', 'loss')
  return {f'train_{name}': scores[name] for name in names}


def write_results(
  workdir: epath.Path,
  config: config_lib.Config,
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
    'versions': writer.versions(),
    'devices': writer.devices(),
  }
  if jax.process_index() == 0:
    config_lib.write_whole(path, json.dumps(results, indent=2) + '\n')
  return results


def _commands(path: epath.Path) -> list[str]:
  """Those of an earlier results.json, which may be anything or missing."""
  try:
    return list(json.loads(path.read_text())['commands'])
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return []


def say_results(workdir: epath.Path, results: dict[str, Any]) -> None:
  """The scores, and where they are written."""
  writer.say(
    f'{results["split"]}: top-1 error {results["top1_error"]:.2%}, top-5 '
    f'error {results["top5_error"]:.2%}, loss {results["loss"]:.4f} on '
    f'{results["num_examples"]} images ({_views(results["crops"])}), '
    + (
      f'step {results["step"]}'
      if 'step' in results
      else f'{len(results["members"])} networks'
    )
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


def _seed_of(workdir: epath.Path) -> dict[str, int]:
  """The seed that a workdir was trained by; nothing where it does not say."""
  saved = config_lib.read_config(workdir) or {}
  return {'seed': saved['seed']} if 'seed' in saved else {}


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


def check_dataset(
  num_classes: int,
  workdir: epath.Path,
  preprocessing: preprocess.Preprocessing,
  dataset: Dataset,
) -> None:
  """Is the data set the one trained on, or one that its classes fit?

  Args:
    num_classes: that the network tells apart.
    workdir: its own.
    preprocessing: its own.
    dataset: to be scored.

  Raises:
    UserError: it is another, or has other classes.
  """
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
  elif dataset.num_classes > num_classes:
    raise UserError(
      f'{workdir} tells {num_classes} classes apart, '
      f'{dataset.full_name} has {dataset.num_classes} (data.name)'
    )


def evaluate(config: config_lib.Config, workdir: epath.Path) -> dict[str, Any]:
  """`--mode=eval`: restores a checkpoint, scores it, writes results.json."""
  workdirs.check_files(workdir)
  config_lib.check_eval(config, workdir)
  model = pretrained.build_model(config.model)
  dataset = open_dataset(config.data.name, config.data.data_dir)
  split = config.data.val_split
  splits = [split] + [config.data.train_split] * config.eval.train_split
  for name in splits:
    dataset.num_examples(name)
  if not (workdir / 'checkpoints').exists():
    checkpoint.restore_params(workdir, config.eval.step, {})
  preprocessing = pretrained.read_preprocessing(workdir)
  check_dataset(config.model.num_classes, workdir, preprocessing, dataset)
  dataset.check_resize(preprocessing.resize)
  step, best_step, params = checkpoint.restore_params(
    workdir,
    config.eval.step,
    pretrained.abstract_params(model, preprocessing.crop_size),
  )
  dataset = prepare_data(config.data, dataset, splits, workdir)
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
      at_each_batch=leave_if_told,
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
  say_results(workdir, results)
  writer.say(f'took {writer.duration(time.time() - start)}')
  return results
