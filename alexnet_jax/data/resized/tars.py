"""Finds the images in tars: ImageNet's two, and WebDataset's."""

import os
import pathlib
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet
from alexnet_jax.data.resized.source import (
  Image,
  Source,
  checked_names,
  split_of,
)

TRAIN, VALIDATION = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'


def of_imagenet(root: pathlib.Path) -> Source:
  """Reads ImageNet's two archives, the first of which holds one per class."""
  for name in (TRAIN, VALIDATION):
    if not (root / name).exists():
      raise UserError(f'{root} (--source) has no {name}')
  names = tuple(imagenet.synsets())
  labels = {name: label for label, name in enumerate(names)}
  path = str(root / TRAIN)
  train = []
  for member in _members(path):
    synset = pathlib.PurePath(member.name).stem
    if synset not in labels:
      raise UserError(
        f'{path} has {member.name}, which is no class of ImageNet'
      )
    train += [
      Image(f'{synset}/{name}', labels[synset], path, start, size)
      for name, start, size in _inner_members(path, member)
    ]
  path = str(root / VALIDATION)
  known = (
    tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')
    .read_text()
    .split()
  )
  validation = []
  for member in _members(path):
    number = re.search(r'_(\d{8})\.JPEG$', member.name)
    if not number or not 1 <= int(number[1]) <= len(known):
      raise UserError(f'{path} has {member.name}, whose class is not known')
    validation.append(
      Image(
        os.path.basename(member.name),
        labels[known[int(number[1]) - 1]],
        path,
        member.offset_data,
        member.size,
      )
    )
  splits = {'train': train, 'validation': validation}
  return Source("ImageNet's two tars", names, splits, upright=False)


def _members(path: str) -> Iterator[tarfile.TarInfo]:
  """Yields the files in a tar."""
  try:
    size = os.path.getsize(path)
    with tarfile.open(path, 'r:') as tar:
      for member in tar:
        if member.offset_data + member.size > size:
          raise tarfile.ReadError('unexpected end of data')
        if member.isfile():
          yield member
  except tarfile.TarError as error:
    raise UserError(f'{path} is cut off or corrupt: {error}') from error


def _inner_members(
  path: str, outer: tarfile.TarInfo
) -> Iterator[tuple[str, int, int]]:
  """Yields name, position and size of the files in a tar in a tar."""
  try:
    with open(path, 'rb') as file:
      file.seek(outer.offset_data)
      with tarfile.open(fileobj=file, mode='r:') as tar:
        for member in tar:
          start, size = member.offset_data, member.size
          if start + size > outer.offset_data + outer.size:
            raise tarfile.ReadError('unexpected end of data')
          yield member.name, start, size
  except tarfile.TarError as error:
    raise UserError(
      f'{outer.name} in {path} is cut off or corrupt: {error}'
    ) from error


def webdataset(
  files: Sequence[pathlib.Path], class_names: Sequence[str]
) -> Source:
  """Reads tars of pairs KEY.jpg, KEY.cls."""
  splits: dict[str, list[Image]] = defaultdict(list)
  for path in files:
    pairs: dict[str, dict[str, tarfile.TarInfo]] = defaultdict(dict)
    for member in _members(str(path)):
      key, _, suffix = member.name.partition('.')
      pairs[key][suffix.lower()] = member
    with path.open('rb') as file:
      for key, parts in pairs.items():
        label = parts.pop('cls', None)
        if label is None or len(parts) != 1:
          raise UserError(
            f'{path}: {key} has {", ".join(sorted(parts)) or "no image"}'
            f'{"" if label else " but no cls"}: KEY.jpg and KEY.cls are needed'
          )
        file.seek(label.offset_data)
        text = file.read(label.size).decode(errors='replace').strip()
        if not text.isdigit():
          raise UserError(f'{path}: {label.name} is {text!r}, not a number')
        (image,) = parts.values()
        splits[split_of(path)].append(
          Image(image.name, int(text), str(path), image.offset_data, image.size)
        )
  names = checked_names(class_names, splits, files[0].parent)
  return Source('WebDataset tars', names, dict(splits), upright=True)
