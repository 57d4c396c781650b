"""Finds the state dict of torchvision's AlexNet in a file of PyTorch's."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.terminal import printable
from alexnet_jax.data import imagenet
from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained import torch_files
from alexnet_jax.pretrained.tensors import (
  Tensor,
  Weights,
  expected_shapes,
  mismatch,
)

# Layer: its name in torchvision/models/alexnet.py.
NAMES = {
  'conv1': 'features.0',
  'conv2': 'features.3',
  'conv3': 'features.6',
  'conv4': 'features.8',
  'conv5': 'features.10',
  'fc6': 'classifier.1',
  'fc7': 'classifier.4',
  'fc8': 'classifier.6',
}

# The fields of `Preprocessing` that torchvision's weights need.
PREPROCESSING: dict[str, Any] = {
  'resize': 'short_side',
  'mean': np.asarray(imagenet.TORCHVISION_MEAN),
  'mean_crop': 'center',
  'std': np.asarray(imagenet.TORCHVISION_STD),
}

_NETWORK = ALEXNETS['torchvision']
_FIRST = f'{NAMES["conv1"]}.weight'
# Parts of names that PyTorch's wrappers add, also inside: DataParallel,
# torch.compile, FSDP and activation checkpointing.
_WRAPPERS = (
  'module',
  '_orig_mod',
  '_fsdp_wrapped_module',
  '_checkpoint_wrapped_module',
)
_PARTS = ('features.', 'classifier.')
_DEPTH = 5  # Of dicts in dicts.
_NUM_NAMED = 5  # In messages.


class _Candidate(NamedTuple):
  """A part of a file that may be the network.

  Attributes:
    mapping: the keys that lead to its dict, joined by dots.
    where: the same, and the prefix of its names.
    original: the file's name of one of its tensors.
    tensors: by name, less prefix and wrappers.
    unused: names of the same dict that have other prefixes.
  """

  mapping: str
  where: str
  original: str
  tensors: dict[str, Tensor]
  unused: tuple[str, ...]


def read(path: str, kind: str, key: str | None = None) -> Weights:
  """Finds the one state dict in a file whose names and shapes are AlexNet's.

  If there is none, the nearest is returned; `check_tensors` then names what it
  lacks.

  Args:
    path: the file's.
    kind: 'torch' or 'safetensors'.
    key: keys that lead to the state dict, joined by dots, such as `model_ema`;
      needed only if there are several.

  Raises:
    UserError: the file has no tensors, or several networks that differ.
  """
  loaded = torch_files.read(path, kind)
  candidates = [
    candidate
    for keys, mapping in _mappings(loaded)
    for candidate in _candidates(path, keys, mapping)
  ]
  if not candidates:
    raise UserError(
      f'{path} holds a {type(loaded).__name__} without named tensors, expected '
      'a state dict'
    )
  if key is not None:
    named = [c for c in candidates if key in (c.where, c.mapping)]
    if not named:
      raise UserError(
        f'{path} has no state dict {key!r} (--key): found {_list(candidates)}'
      )
    candidates = named
  fitting = [
    c for c in candidates if mismatch(_NETWORK, c.tensors, NAMES) is None
  ]
  taken = fitting[0] if fitting else max(candidates, key=_likeness)
  notes = _note(taken, _same(path, taken, fitting[1:])) if fitting else ()
  place = f'{path} ({taken.where})' if taken.where else path
  return Weights(place, _NETWORK.name, taken.tensors, notes)


def _mappings(loaded: Any) -> Iterator[tuple[tuple[str, ...], Mapping]]:
  """Yields each dict of a file that holds tensors, and the keys to it."""
  import torch

  # A file's dicts may contain each other.
  seen: set[int] = set()
  waiting: collections.deque[tuple[tuple[str, ...], Any]]
  waiting = collections.deque([((), loaded)])
  while waiting:
    keys, found = waiting.popleft()
    if not isinstance(found, Mapping) or id(found) in seen:
      continue
    seen.add(id(found))
    if any(isinstance(value, torch.Tensor) for value in found.values()):
      yield keys, found
    if len(keys) < _DEPTH:
      waiting.extend(
        ((*keys, _text(key)), value) for key, value in found.items()
      )


def _candidates(
  path: str, keys: Sequence[str], mapping: Mapping[Any, Any]
) -> Iterator[_Candidate]:
  """Yields the tensors of a dict, by the prefix of their names."""
  tensors, originals = _named_tensors(path, mapping)
  prefixes = [
    name.removesuffix(_FIRST)
    for name in tensors
    if name == _FIRST or name.endswith(f'.{_FIRST}')
  ]
  groups: dict[str, list[str]] = {
    prefix: [] for prefix in prefixes or [_common_prefix(tensors)]
  }
  unused = []
  for name in tensors:
    fitting = [
      prefix
      for prefix in groups
      if name.startswith(prefix)
      # Beside the network, as a loss or a profiler leave them.
      and (not prefixes or name.removeprefix(prefix).startswith(_PARTS))
    ]
    if fitting:
      groups[max(fitting, key=len)].append(name)
    else:
      unused.append(name)
  for prefix, names in groups.items():
    if names:
      yield _Candidate(
        '.'.join(keys),
        '.'.join([*keys, *filter(None, prefix.split('.'))]),
        originals[names[0]],
        {name.removeprefix(prefix): tensors[name] for name in names},
        tuple(unused),
      )


def _named_tensors(
  path: str, mapping: Mapping[Any, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
  """Returns a dict's tensors, and its names for them, by name less wrappers."""
  import torch

  tensors: dict[str, Tensor] = {}
  originals: dict[str, str] = {}
  for key, value in mapping.items():
    # Numbers beside the weights count steps, such as `n_averaged`.
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
      continue
    parts = _text(key).split('.')
    name = '.'.join(part for part in parts if part not in _WRAPPERS)
    if name in tensors:
      raise UserError(f'{path} has the tensor {name} twice')
    originals[name] = _text(key)
    tensors[name] = torch_files.to_tensor(value, name, path)
  return tensors, originals


def _common_prefix(names: Iterable[str]) -> str:
  """Returns the first parts of names that all have, with the last dot.

  Example:
    >>> _common_prefix(['net.conv1.weight', 'net.conv1.bias', 'net.fc.bias'])
    'net.'
  """
  # Without the last two parts, the layer and `weight` or `bias`.
  paths = [name.split('.')[:-2] for name in names]
  common = itertools.takewhile(
    lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)
  )
  return ''.join(f'{part}.' for part, *_ in common)


def _likeness(candidate: _Candidate) -> tuple[int, int, int]:
  """How much a candidate is like the network."""
  found = candidate.tensors
  expected = expected_shapes(_NETWORK, found, NAMES)
  names = expected.keys() & found.keys()
  right = sum(found[name].shape == expected[name] for name in names)
  return right, len(names), len(found)


def _same(
  path: str, taken: _Candidate, others: Sequence[_Candidate]
) -> Sequence[_Candidate]:
  """Returns the others, if all have the same values as the one taken.

  Raises:
    UserError: they differ.
  """
  for other in others:
    for name, tensor in taken.tensors.items():
      if not np.array_equal(tensor.read(), other.tensors[name].read()):
        choice = _list([taken, *others], '--key=', ' or ')
        raise UserError(
          f'{path} holds several networks that differ: add {choice} of '
          'alexnet_jax.convert'
        )
  return others


def _note(taken: _Candidate, same: Sequence[_Candidate]) -> tuple[str, ...]:
  """Says what was taken, if there was anything to choose."""
  name, *_ = taken.tensors
  removed = taken.original.split('.')
  for part in reversed(name.split('.')):
    del removed[len(removed) - 1 - removed[::-1].index(part)]
  notes = []
  if taken.mapping:
    notes.append(f'state dict: {taken.mapping}')
  if removed:
    prefix = ''.join(f'{part}.' for part in dict.fromkeys(removed))
    notes.append(f'{prefix!r} removed from the names')
  if same:
    notes.append(f'the same values as {_list(same)}')
  if taken.unused:
    more = ', ...' if len(taken.unused) > _NUM_NAMED else ''
    notes.append(f'not used: {", ".join(taken.unused[:_NUM_NAMED])}{more}')
  return ('; '.join(notes),) if notes else ()


def _list(
  candidates: Sequence[_Candidate], before: str = '', between: str = ', '
) -> str:
  names = [f'{before}{c.where}' for c in candidates[:_NUM_NAMED]]
  more = ', ...' if len(candidates) > _NUM_NAMED else ''
  return between.join(name or 'the outermost' for name in names) + more


def _text(key: Any) -> str:
  """A key of a file as a name to print."""
  return printable(str(key)[:200])
