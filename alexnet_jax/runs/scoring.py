"""Scores a network on every image of a split, exactly once."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from alexnet_jax.config.loading import Config
from alexnet_jax.data import input_pipeline
from alexnet_jax.data.classes import Classes
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.labels import Task, task_of
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.learning import eval_steps, metrics
from alexnet_jax.learning.finish import Finish, finisher, input_blocks
from alexnet_jax.learning.placement import mesh_of, replicate
from alexnet_jax.model import AlexNet

_NUM_CONFUSED = 10


def scorer(
  config: Config,
  model: AlexNet,
  dataset: Dataset,
  preprocessing: Preprocessing,
  classes: Classes,
  at_each_batch: Callable[[], None],
) -> Callable[[Any, str], dict[str, Any]]:
  """Returns a function that scores parameters on a split.

  Args:
    config: its `eval` and `data.finish` count.
    model: the network.
    dataset: a prepared dataset.
    preprocessing: the preprocessing of the training.
    classes: the network's and the dataset's.
    at_each_batch: called before each batch; may raise to end the evaluation.

  Returns:
    `score(params, split)`, which returns what `add_up` returns. The parameters
    may be anywhere.
  """
  finish = eval_finisher(config, model, preprocessing)

  @functools.cache
  def compiled_for(outputs: tuple[bool, ...] | None) -> Any:
    mask = None if outputs is None else np.array(outputs)
    return eval_steps.p_eval_step(model, finish, mask)

  def score(params: Any, split: str) -> dict[str, Any]:
    task = task_of(classes, dataset, split)
    outputs = None if task.outputs is None else tuple(task.outputs.tolist())
    step, params = compiled_for(outputs), replicate(params)
    batches = eval_batches(
      config, model, dataset, split, preprocessing, classes
    )
    sums = (step(params, batch) for batch in batches)
    return add_up(sums, task, classes, split, at_each_batch)

  return score


def eval_finisher(
  config: Config, model: AlexNet, preprocessing: Preprocessing
) -> Finish:
  """Returns the `finisher` of an evaluation."""
  blocks = input_blocks(model, preprocessing.crop_size)
  return finisher(preprocessing, config.eval.crops, blocks)


def eval_batches(
  config: Config,
  model: AlexNet,
  dataset: Dataset,
  split: str,
  preprocessing: Preprocessing,
  classes: Classes,
) -> Iterator[eval_steps.Batch]:
  """Yields the batches of an evaluation, on the devices."""
  return device_batches(
    dataset,
    split,
    preprocessing,
    batch_size=config.eval.batch_size,
    crops=config.eval.crops,
    classes=classes,
    finish=config.data.finish,
    blocks=input_blocks(model, preprocessing.crop_size),
    dtype=model.dtype,
  )


def device_batches(
  dataset: Dataset,
  split: str,
  preprocessing: Preprocessing,
  *,
  batch_size: int,
  crops: int,
  **arguments: Any,
) -> Iterator[eval_steps.Batch]:
  """Yields the batches of an evaluation, on the devices.

  Args:
    dataset: a prepared dataset.
    split: the split to read.
    preprocessing: the preprocessing of the training.
    batch_size: global, in views; any number (`num_images`). The last batch is
      padded with blanks, which do not count.
    crops: 1 or 10.
    **arguments: of `input_pipeline.eval_batches`.
  """
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
  return input_pipeline.to_devices(batches, mesh_of())


def num_images(batch_size: int, crops: int, num_devices: int) -> int:
  """Returns the images in an evaluation batch.

  A batch size counts views, so that ten crops take no more memory than one.

  Args:
    batch_size: global, in views.
    crops: views of each image.
    num_devices: the number of devices of all processes.

  Returns:
    A multiple of the number of devices, at least one image on each.

  Example:
    >>> num_images(256, crops=10, num_devices=4)
    28
  """
  return -(-max(batch_size // crops, 1) // num_devices) * num_devices


def add_up(
  batch_sums: Iterator[metrics.Sums],
  task: Task,
  classes: Classes,
  split: str,
  at_each_batch: Callable[[], None],
) -> dict[str, Any]:
  """Returns the scores of a split from the sums over each of its batches.

  Returns:
    `num_examples`; `top1_error` and `top5_error` (fractions; None if five
    classes or fewer can be predicted); `loss` (nats); `most_confused`
    (`confused_classes`); `per_class` (`scores_by_class`); and `confusion`, a
    list of label, predicted class and number of images, where that is not 0.
    With `eval.classes='data'` also `num_classes`, of those that can be
    predicted; and `num_unlabeled`, if images have empty lists of labels.

  Raises:
    RuntimeError: an image was not counted exactly once.
  """
  # In float64 on the host, so that the batch size hardly changes the loss.
  result: dict[str, Any] = dict.fromkeys(metrics.zero_sums(), 0.0)
  result['confusion'] = 0.0
  with tqdm(
    total=task.num_examples, desc=split, disable=None, leave=False
  ) as bar:
    at_each_batch()
    for sums in map(jax.device_get, batch_sums):
      for name in result:
        result[name] = result[name] + np.asarray(sums[name], np.float64)
      bar.update(int(sums['count']))
      at_each_batch()
  if result['count'] != task.num_examples:
    raise RuntimeError(
      f'{split}: {result["count"]} images counted of {task.num_examples}'
    )
  confusion, names = result['confusion'], classes.names
  shown = list(range(classes.num_outputs))
  more = {}
  if task.outputs is not None:
    shown = np.flatnonzero(task.outputs).tolist()
    more['num_classes'] = len(shown)
  if task.num_unlabeled:
    more['num_unlabeled'] = task.num_unlabeled
  found = np.argwhere(confusion)
  return {
    'num_examples': task.num_examples,
    **more,
    **means(result, min(len(shown), len(classes.outputs))),
    'most_confused': confused_classes(confusion, names),
    'per_class': scores_by_class(confusion, names, shown),
    'confusion': [[*map(int, at), int(confusion[tuple(at)])] for at in found],
  }


def means(sums: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
  """Returns `metrics.means`; no top-5 error of five classes or fewer."""
  values = metrics.means(sums)
  return values | ({'top5_error': None} if num_classes <= 5 else {})


def scores_by_class(
  confusion: np.ndarray, class_names: Sequence[str], shown: Sequence[int]
) -> dict[str, dict[str, Any]]:
  """Returns the scores of each class.

  Args:
    confusion: `metrics.confusion` over a split.
    class_names: by label.
    shown: the labels of the classes.

  Returns:
    For the name of each class its `label`; `num_examples`, its number of
    images; `top1_error`; `precision`, the share of the images predicted as this
    class that are of it; and `recall`, the share of its images that are
    predicted as it. They are None where there are no such images.

  Example:
    >>> confusion = np.array([[8.0, 2.0], [0.0, 10.0]])
    >>> scores_by_class(confusion, ['cat', 'dog'], range(2))['cat']['precision']
    1.0
  """
  right, of = np.diagonal(confusion), confusion.sum(axis=1)
  predicted = confusion.sum(axis=0)

  def share(part, total):
    return float(part / total) if total else None

  return {
    _class_name(label, class_names): {
      'label': label,
      'num_examples': int(of[label]),
      'top1_error': share(of[label] - right[label], of[label]),
      'precision': share(right[label], predicted[label]),
      'recall': share(right[label], of[label]),
    }
    for label in shown
  }


def _class_name(label: int, class_names: Sequence[str]) -> str:
  known = label < len(class_names)
  return class_names[label] if known else f'class {label}'


def confused_classes(
  confusion: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
  """Returns the ten pairs of classes that are confused most often.

  Args:
    confusion: `metrics.confusion` over a split.
    class_names: by label.

  Returns:
    For each pair the names `label` and `predicted`, how often it was confused
    (`count`), and the number of examples of the label (`of`). The pair with the
    largest `count / of` comes first.

  Example:
    >>> confused_classes(np.array([[8.0, 2.0], [0.0, 10.0]]), ['cat', 'dog'])
    [{'label': 'cat', 'predicted': 'dog', 'count': 2, 'of': 10}]
  """
  of = confusion.sum(axis=1, keepdims=True)
  shares = confusion / np.maximum(of, 1)
  np.fill_diagonal(shares, 0)
  order = np.argsort(-shares, axis=None, kind='stable')[:_NUM_CONFUSED]
  pairs = zip(*np.unravel_index(order, shares.shape), strict=True)
  return [
    {
      'label': _class_name(label, class_names),
      'predicted': _class_name(predicted, class_names),
      'count': int(confusion[label, predicted]),
      'of': int(of[label, 0]),
    }
    for label, predicted in pairs
    if shares[label, predicted] > 0
  ]
