"""Examples that cannot be used: named, or left out (`config.data.on_error`).

With 'stop' the first one that is met ends the run, by its key. With 'skip'
every picture of a split is decoded once, before the first step, and the keys of
those that cannot be are kept in the workdir. So what is left out does not
depend on the crop, the epoch or the process, and how much it is is known before
a step is paid for.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_text
from alexnet_jax.data import decoding
from alexnet_jax.data.dataset import Dataset

FILE = 'left_out.json'

# What reading and decoding raise for what is wrong with a set.
ERRORS = (
  tf.errors.InvalidArgumentError,
  tf.errors.DataLossError,
  tf.errors.NotFoundError,
  tf.errors.PermissionDeniedError,
)


def valid(label: Any, dataset: Dataset) -> Any:
  """Whether a label, or each of many, is one of the set's classes."""
  return (label >= 0) & (label < dataset.num_classes)


def explain(
  error: tf.errors.OpError | None,
  examples: tf.data.Dataset,
  dataset: Dataset | None,
  split: str,
) -> Exception:
  """Finds what is wrong with some examples.

  Args:
    error: what TensorFlow said; None where a label is out of range.
    examples: `(position, example)` with keys, one of which is at fault.
    dataset: what they were read from; None for files without labels.
    split: of it.

  Returns:
    A UserError that names it, or `error` itself.
  """
  of, advice = '', ''
  if dataset:
    of = f' of split {split!r} of {dataset.full_name}'
    advice = ' (data.on_error=skip passes over such pictures)'
  if error and not isinstance(error, tf.errors.InvalidArgumentError):
    # Who gave single files knows more of them.
    return damaged(dataset, split, error) if dataset else error
  try:
    for _, example in examples.as_numpy_iterator():
      key = example['key'].decode()
      try:
        decoding.decode(tf.constant(example['image']))
      except tf.errors.InvalidArgumentError as cause:
        return UserError(
          f'cannot decode picture {key}{of}: {_reason(cause)}; mend it or '
          f'leave it out{advice}'
        )
      if dataset and not valid(example['label'], dataset):
        return UserError(
          f'label {example["label"]} of picture {key}{of} is out of range: 0 '
          f'to {dataset.num_classes - 1} expected; a split without labels '
          f'cannot be used{advice}'
        )
  except tf.errors.InvalidArgumentError as cause:
    return UserError(f'cannot read an example{of}: {_reason(cause)}')
  assert error
  if dataset:
    return UserError(f'cannot use an example{of}: {_reason(error)}')
  return error


def damaged(
  dataset: Dataset, split: str, error: tf.errors.OpError | None = None
) -> UserError:
  """Finds the file of a split that holds less than it should.

  Args:
    dataset: a set, some file of which is missing, cut off or changed.
    split: of it.
    error: what TensorFlow said; None where records are missing.
  """
  reason = _reason(error) if error else 'records are missing'
  for part in dataset.builder.info.splits[split].file_instructions:
    number = 0
    try:
      for _ in dataset.file_records(part.filename):
        number += 1
    except tf.errors.OpError:
      pass
    if number != part.examples_in_shard:
      reason = f'{number} of {part.examples_in_shard} records can be read'
      break
  return UserError(
    f'{part.filename} of split {split!r} of {dataset.full_name} is damaged: '
    f'{reason}; copy it or prepare the set anew'
  )


def _reason(error: tf.errors.OpError) -> str:
  """A message without the name of the operation that it came from."""
  message = ' '.join(str(error.message).split())
  message = re.sub(r'\{\{[^}]*\}\}|\[Op:\w+\]( name:)?', '', message)
  return message.strip()[:160]


def leave_out(
  dataset: Dataset, splits: Sequence[str], workdir: epath.Path, bound: float
) -> Dataset:
  """The set without the examples that cannot be decoded or have no label.

  Args:
    dataset: a prepared set.
    splits: those that will be read.
    workdir: may know them from before; nothing is written.
    bound: the largest share of a split that may be left out.

  Raises:
    UserError: more than that is; or a file is damaged.
  """
  known = _read(workdir).get(dataset.full_name, {})
  left_out = {}
  for split in splits:
    number = dataset.num_examples(split)
    if split in known:
      keys = known[split]
      _check_keys(dataset, split, keys, workdir)
    else:
      keys = find_faults(dataset, split)
    if len(keys) > bound * number:
      raise UserError(
        f'{len(keys)} of {number} examples of split {split!r} of '
        f'{dataset.full_name} cannot be used, {sorted(keys)[0]} for one: more '
        f'than data.max_error_rate {bound} allows'
      )
    left_out[split] = frozenset(keys)
  return dataclasses.replace(dataset, left_out=left_out)


def num_left_out(workdir: epath.Path, dataset: Dataset, split: str) -> int:
  """How many a workdir knows to be left out of a split."""
  return len(_read(workdir).get(dataset.full_name, {}).get(split, ()))


def _check_keys(dataset, split, keys, workdir):
  """The set may have been prepared anew since, and its keys be others."""
  lengths = {
    str(part.filename).rsplit('/', 1)[-1]: part.examples_in_shard
    for part in dataset.builder.info.splits[split].file_instructions
  }
  for key in keys:
    name, _, number = key.rpartition('__')
    if not number.isdigit() or int(number) >= lengths.get(name, 0):
      raise UserError(
        f'{workdir / FILE} leaves out {key!r}, which split {split!r} of '
        f'{dataset.full_name} has not: remove it, and the set is checked anew'
      )


def find_faults(dataset: Dataset, split: str) -> list[str]:
  """Keys of a split's examples that cannot be decoded or have no valid label.

  Raises:
    UserError: a file is damaged, so that records are missing.
  """
  number = dataset.num_examples(split)
  # A damaged file would be passed over below.
  there, error = 0, None
  try:
    there = int(
      dataset.records(split)
      .batch(64)
      .reduce(np.int64(0), lambda n, batch: n + tf.shape(batch, tf.int64)[0])
    )
  except tf.errors.OpError as e:
    error = e
  if error or there != number:
    raise damaged(dataset, split, error) from error

  def check(example):
    image = decoding.decode(example['image'])
    # Else nobody asks for it, and it is not decoded.
    return example['key'], example['label'], tf.reduce_max(image)

  sound = set()
  with tqdm(total=number, desc=f'checking {split}', disable=None) as bar:
    examples = dataset.read(split).map(
      check, num_parallel_calls=tf.data.AUTOTUNE
    )
    for key, label, _ in examples.ignore_errors().as_numpy_iterator():
      bar.update()
      if valid(label, dataset):
        sound.add(key)
  if len(sound) == number:
    return []
  keys = dataset.read(split).map(lambda example: example['key'])
  return sorted(
    key.decode() for key in keys.as_numpy_iterator() if key not in sound
  )


def to_json(dataset: Dataset, workdir: epath.Path) -> str:
  """What to keep in the workdir's `FILE`, beside what is there."""
  known = _read(workdir)
  of_set = known.setdefault(dataset.full_name, {})
  for split, keys in dataset.left_out.items():
    of_set[split] = sorted(keys)
  return json.dumps(known, indent=1)


def _read(workdir: epath.Path) -> dict[str, dict[str, list[str]]]:
  path = workdir / FILE
  if not path.exists():
    return {}
  try:
    known = json.loads(path.read_text())
    for splits in known.values():
      for keys in splits.values():
        assert isinstance(keys, list), 'no list of keys'
        assert all(isinstance(key, str) for key in keys), 'no list of keys'
  except (ValueError, AttributeError, AssertionError, OSError,
          RecursionError) as error:  # fmt: skip
    raise UserError(
      f'{path} is broken ({error}): remove it, and the set is checked anew'
    ) from error
  return known


def write_skipped(dataset: Dataset, workdir: epath.Path) -> None:
  """Keeps them, so that the set is checked once."""
  if dataset.left_out:
    write_text(workdir / FILE, to_json(dataset, workdir))
