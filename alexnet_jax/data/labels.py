"""The labels that a split's images have, and what of it is scored."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import faults, input_pipeline, together
from alexnet_jax.data.classes import Classes
from alexnet_jax.data.dataset import Dataset

_BATCH = 1024


class Task(NamedTuple):
  """What is scored of a split.

  Attributes:
    outputs: those that can be predicted, bool `[num_outputs]`; None: all.
    num_examples: the number of images that count: those with a label.
    num_unlabeled: the number of the others.
  """

  outputs: np.ndarray | None
  num_examples: int
  num_unlabeled: int


def task_of(classes: Classes, dataset: Dataset, split: str) -> Task:
  """Returns what is scored of a split."""
  number = dataset.num_examples(split)
  if not classes.only_data and not dataset.has_lists:
    return Task(None, number, 0)
  labels = count_labels(dataset, split)
  if not labels.num_labeled:
    raise UserError(f'no image of {dataset.full_name} {split!r} has a label')
  outputs = None
  if classes.only_data:
    outputs = np.zeros(classes.num_outputs, bool)
    outputs[classes.outputs[labels.counts > 0]] = True
  return Task(outputs, labels.num_labeled, number - labels.num_labeled)


class Labels(NamedTuple):
  """The labels of a split's images.

  Attributes:
    counts: the number of images of each class, `[num_classes]`.
    num_labeled: the number of images with a label. Without lists of labels,
      all have one.
  """

  counts: np.ndarray
  num_labeled: int


def count_labels(dataset: Dataset, split: str) -> Labels:
  """Counts the labels of a split, whose images are not decoded.

  Each process of a run reads its part.

  Raises:
    UserError: a label is out of range, or a file is corrupt.
  """

  def count():
    counts, number, num_read = np.zeros(dataset.num_classes), 0, 0
    parts = dataset.parts(split, together.share())
    labels = dataset.records(split, parts).map(
      lambda record: {'label': dataset.parse(record)['label']},
      num_parallel_calls=tf.data.AUTOTUNE,
    )
    for batch in input_pipeline.iterate(
      labels.batch(_BATCH),
      lambda: dataset.read(split, parts).enumerate(),
      _BATCH,
      dataset,
      split,
    ):
      label = batch['label']
      num_read += len(label)
      if label.ndim == 1:
        counts += np.bincount(label, minlength=len(counts))
        number += len(label)
      else:
        counts += label.sum(axis=0)
        number += int(label.any(axis=1).sum())
    if num_read != sum(part.number for part in parts):
      raise faults.corrupt_file(dataset, split)
    return counts, number

  counts, numbers = zip(*together.from_all(count), strict=True)
  return Labels(np.sum(counts, axis=0), sum(numbers))
