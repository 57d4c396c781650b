"""Scores a network on every image of a split, exactly once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from alexnet_jax.data import input_pipeline
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.learning import metrics, steps
from alexnet_jax.model.architectures import Blocks

_CONFUSED = 10


def score(
  p_eval_step: Any,
  params: Any,
  dataset: Dataset,
  split: str,
  preprocessing: Preprocessing,
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
    batch_size: global, in views; any number: see `num_images`. The last
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
  preprocessing: Preprocessing,
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
    batch_size=num_images(batch_size, crops, jax.device_count()),
    crops=crops,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    **arguments,
  )
  return input_pipeline.to_devices(batches, jax.local_devices())


def num_images(batch_size: int, crops: int, num_devices: int) -> int:
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
