"""Which output of a network stands for which class of a dataset."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.preprocessing import Preprocessing

_NUM_NAMED = 5  # In messages.


@dataclasses.dataclass(frozen=True)
class Classes:
  """How a network is scored on the classes of a dataset.

  Attributes:
    names: by output of the network, as far as they are known.
    num_outputs: of the network.
    outputs: the output for each label of the dataset, integers
      `[dataset classes]`.
    only_data: whether only the classes of the images can be predicted
      (`config.eval.classes`).
  """

  names: tuple[str, ...]
  num_outputs: int
  outputs: np.ndarray
  only_data: bool = False

  def to_outputs(self, labels: np.ndarray) -> np.ndarray:
    """Returns labels of the dataset as outputs of the network.

    Args:
      labels: integers `[n]`; or for lists of labels, ones and zeros
        `[n, dataset classes]`.

    Returns:
      int32 `[n]` or `[n, num_outputs]`.
    """
    if labels.ndim == 1:
      return self.outputs[labels].astype(np.int32)
    moved = np.zeros((len(labels), self.num_outputs), np.int32)
    moved[:, self.outputs] = labels
    return moved


def match(
  num_outputs: int,
  workdir: epath.Path,
  preprocessing: Preprocessing,
  dataset: Dataset,
  which: str,
) -> Classes:
  """Finds a dataset's classes among those of a network, by their names.

  If the names of the network's classes are not known, as for some converted
  weights, the labels are taken for its outputs.

  Args:
    num_outputs: of the network.
    workdir: the network's, for messages.
    preprocessing: the network's.
    dataset: to be scored.
    which: `config.eval.classes`: with 'all', network and dataset must have the
      same classes, in any order; with 'data', the network may have more.

  Raises:
    UserError: a class is missing; the message shows the differing names.
  """
  names, found = preprocessing.class_names, tuple(dataset.class_names)
  only_data = which == 'data'
  if names in ((), found):
    if len(found) > num_outputs:
      raise UserError(
        f'the network in {workdir} has {num_outputs} classes, '
        f'{dataset.full_name} (data.name) has {len(found)}'
      )
    return Classes(found, num_outputs, np.arange(len(found)), only_data)
  lost = [name for name in names if name not in set(found)]
  new = [name for name in found if name not in set(names)]
  if new or (lost and not only_data):
    advice = '' if new else (
      '. To score the classes that the dataset has, with the other outputs '
      'masked: --config.eval.classes=data'
    )  # fmt: skip
    raise UserError(
      f'the network in {workdir} and {dataset.full_name} (data.name) differ '
      f'in their classes: {_diff(lost, new)}{advice}'
    )
  output_of = {name: i for i, name in enumerate(names)}
  outputs = np.array([output_of[name] for name in found])
  return Classes(names, num_outputs, outputs, only_data)


def _diff(lost: Sequence[str], new: Sequence[str]) -> str:
  """Returns names as in a diff.

  Example:
    >>> _diff(['cat', 'dog'], ['bird'])
    "- 'cat', 'dog' (2 of the network alone), + 'bird' (1 of the dataset alone)"
  """
  return ', '.join(
    f'{sign} {", ".join(map(repr, names[:_NUM_NAMED]))}'
    f'{", ..." if len(names) > _NUM_NAMED else ""} ({len(names)} of {whose})'
    for sign, names, whose in (
      ('-', lost, 'the network alone'),
      ('+', new, 'the dataset alone'),
    )
    if names
  )
