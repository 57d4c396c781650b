"""Names or skips examples that cannot be used (`config.data.on_error`).

With 'stop', the first one ends the run with an error that names its key. With
'skip', every image of a split is decoded once before the first step, and the
workdir keeps the keys of the examples to skip. Which examples are skipped
therefore does not depend on the crop, the epoch or the process, and their
number is known before the first step.
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
from alexnet_jax.data import decoding, sizes, together
from alexnet_jax.data.dataset import Dataset, Part

FILE = 'left_out.json'

# What reading and decoding raise for an unusable example or file.
ERRORS = (
  tf.errors.InvalidArgumentError,
  tf.errors.DataLossError,
  tf.errors.NotFoundError,
  tf.errors.PermissionDeniedError,
)


def valid(label: Any, dataset: Dataset) -> Any:
  """Returns whether a label, or each of an array, is one of the classes.

  Of lists of labels, which are ones and zeros, an invalid one is negative.
  """
  most = 1 if dataset.has_lists else dataset.num_classes - 1
  return (label >= 0) & (label <= most)


def explain(
  error: tf.errors.OpError | None,
  examples: tf.data.Dataset,
  dataset: Dataset | None,
  split: str,
) -> Exception:
  """Finds the example that cannot be used, and what is wrong with it.

  Args:
    error: TensorFlow's error; None if a label is out of range.
    examples: `(position, example)` with keys; one of them cannot be used.
    dataset: the dataset they were read from; None for files without labels.
    split: the split they were read from.

  Returns:
    A UserError that names the example, or `error` itself.
  """
  of, advice = '', ''
  if dataset:
    of = f' of split {split!r} of {dataset.full_name}'
    advice = ', or skip such images with data.on_error=skip'
  if error and not isinstance(error, tf.errors.InvalidArgumentError):
    # The caller knows more about single files.
    return corrupt_file(dataset, split, error) if dataset else error
  try:
    for _, example in examples.as_numpy_iterator():
      key = example['key'].decode()
      try:
        limit = dataset.max_pixels if dataset else sizes.MAX_PIXELS
        decoding.decode(sizes.checked(tf.constant(example['image']), limit))
      except tf.errors.InvalidArgumentError as cause:
        return UserError(
          f'cannot decode image {key}{of}: {_reason(cause)}; fix or remove '
          f'it{advice}'
        )
      if dataset and not np.all(valid(example['label'], dataset)):
        return UserError(
          f'{_label(example["label"])} of image {key}{of} is out of range: '
          f'expected 0 to {dataset.num_classes - 1}. Use a split with labels'
          f'{advice}'
        )
  except tf.errors.InvalidArgumentError as cause:
    return UserError(f'cannot read an example{of}: {_reason(cause)}')
  assert error
  if dataset:
    return UserError(f'cannot use an example{of}: {_reason(error)}')
  return error


def _label(label: Any) -> str:
  return f'label {label}' if np.ndim(label) == 0 else 'a label'


def corrupt_file(
  dataset: Dataset, split: str, error: tf.errors.OpError | None = None
) -> UserError:
  """Finds the file of a split that is missing, cut off or changed.

  Args:
    dataset: the dataset that has such a file.
    split: the split that has it.
    error: TensorFlow's error; None if records are missing.

  Returns:
    A UserError that names the file.
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
    f'{part.filename} of split {split!r} of {dataset.full_name} is corrupt: '
    f'{reason}; copy it or prepare the dataset again'
  )


def _reason(error: tf.errors.OpError) -> str:
  """Returns an error's message without the names of TensorFlow operations."""
  message = ' '.join(str(error.message).split('\nCondition')[0].split())
  message = re.sub(r'\{\{[^}]*\}\}|\[Op:\w+\]( name:)?', '', message)
  return message.strip()[:160]


def skip_faults(
  dataset: Dataset, splits: Sequence[str], workdir: epath.Path, bound: float
) -> Dataset:
  """Returns the dataset without the examples that cannot be used.

  Those are the images that cannot be decoded and the labels out of range. A
  split is read once to find them, unless the workdir lists them already;
  `write_skipped` keeps them there.

  Args:
    dataset: a prepared dataset.
    splits: the splits that will be read.
    workdir: may list the examples; nothing is written.
    bound: the largest fraction of a split that may be skipped.

  Raises:
    UserError: more examples cannot be used, or a file is corrupt.
  """
  known = _read(workdir).get(dataset.full_name, {})
  skipped = {}
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
        f'{dataset.full_name} cannot be used, such as {sorted(keys)[0]}: more '
        f'than data.max_error_rate {bound} allows'
      )
    skipped[split] = frozenset(keys)
  return dataclasses.replace(dataset, skipped=skipped)


def _check_keys(dataset, split, keys, workdir):
  """Checks listed keys: the dataset may have been prepared again since."""
  lengths = {
    str(part.filename).rsplit('/', 1)[-1]: part.examples_in_shard
    for part in dataset.builder.info.splits[split].file_instructions
  }
  for key in keys:
    name, _, number = key.rpartition('__')
    if not number.isdigit() or int(number) >= lengths.get(name, 0):
      raise UserError(
        f'{workdir / FILE} lists {key!r}, which split {split!r} of '
        f'{dataset.full_name} does not have; remove that file to check the '
        'dataset again'
      )


def find_faults(dataset: Dataset, split: str) -> list[str]:
  """Returns the keys of the examples that cannot be used.

  Each process of a run reads its part of the split.

  Raises:
    UserError: a file is corrupt, so that records are missing.
  """
  parts = dataset.parts(split, together.share())
  found = together.from_all(lambda: _faults_of(dataset, split, parts))
  return sorted(key for keys in found for key in keys)


def _faults_of(
  dataset: Dataset, split: str, parts: Sequence[Part]
) -> list[str]:
  number = sum(part.number for part in parts)
  # `ignore_errors` below would skip a corrupt file without an error.
  num_records, error = 0, None
  try:
    num_records = int(
      dataset.records(split, parts)
      .batch(64)
      .reduce(np.int64(0), lambda n, batch: n + tf.shape(batch, tf.int64)[0])
    )
  except tf.errors.OpError as e:
    error = e
  if error or num_records != number:
    raise corrupt_file(dataset, split, error) from error

  def check(example):
    encoded = sizes.checked(example['image'], dataset.max_pixels)
    image = decoding.decode(encoded)
    # An image that no output depends on would not be decoded.
    return example['key'], example['label'], tf.reduce_max(image)

  usable = set()
  with tqdm(total=number, desc=f'checking {split}', disable=None) as bar:
    examples = dataset.read(split, parts).map(
      check, num_parallel_calls=tf.data.AUTOTUNE
    )
    for key, label, _ in examples.ignore_errors().as_numpy_iterator():
      bar.update()
      if np.all(valid(label, dataset)):
        usable.add(key)
  if len(usable) == number:
    return []
  keys = dataset.records(split, parts, keys=True).map(lambda _, key: key)
  return [key.decode() for key in keys.as_numpy_iterator() if key not in usable]


def write_skipped(dataset: Dataset, workdir: epath.Path) -> None:
  """Adds the skipped examples to a workdir's list, if some split was checked.

  Raises:
    StorageError: the list cannot be written.
  """
  if not dataset.skipped:
    return
  known = _read(workdir)
  of_dataset = known.setdefault(dataset.full_name, {})
  for split, keys in dataset.skipped.items():
    of_dataset[split] = sorted(keys)
  write_text(workdir / FILE, json.dumps(known, indent=1))


def _read(workdir: epath.Path) -> dict[str, dict[str, list[str]]]:
  path = workdir / FILE
  if not path.exists():
    return {}
  try:
    known = json.loads(path.read_text())
    for splits in known.values():
      for keys in splits.values():
        assert isinstance(keys, list), 'not a list of keys'
        assert all(isinstance(key, str) for key in keys), 'not a list of keys'
  except (ValueError, AttributeError, AssertionError, OSError,
          RecursionError) as error:  # fmt: skip
    raise UserError(
      f'{path} is corrupt ({error}): remove it to check the dataset again'
    ) from error
  return known
