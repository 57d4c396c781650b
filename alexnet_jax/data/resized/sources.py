"""Finds and reads the images of a folder, in whatever form they are stored.

Each form becomes a `Source`.
"""

import csv
import itertools
import json
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet, images
from alexnet_jax.data.resized import tars
from alexnet_jax.data.resized.source import (
  SPLITS,
  Image,
  Source,
  checked_names,
  position,
  split_of,
)


def read(members: Sequence[Image]) -> Iterator[bytes | OSError]:
  """Yields the content of image files, in order, or why there is none."""
  for path, group in itertools.groupby(members, lambda image: image.path):
    if path.endswith('.parquet'):
      yield from _read_rows(path, [image.start for image in group])
      continue
    for image in group:
      try:
        with open(path, 'rb') as file:
          file.seek(image.start)
          yield file.read(-1 if image.size is None else image.size)
      except OSError as error:
        yield error


def find(
  path: str, val_share: float, class_names: Sequence[str] = ()
) -> Source:
  """Finds the images below a path, in whatever form they are stored.

  Args:
    path: a folder, local.
    val_share: the share of each class that becomes the validation split, if
      there is none.
    class_names: by label, for files that do not have them.

  Raises:
    UserError: there are no images, or classes are missing or ambiguous; the
      message says what to do.
  """
  root = pathlib.Path(path)
  kaggle = root / 'ILSVRC' / 'Data' / 'CLS-LOC'
  if kaggle.is_dir():
    source = _kaggle(root, kaggle)
  elif (root / tars.TRAIN).exists() or (root / tars.VALIDATION).exists():
    source = tars.of_imagenet(root)
  elif files := sorted(root.rglob('*.parquet')):
    source = _parquet(files, class_names)
  elif files := sorted(root.glob('*.tar')):
    source = tars.webdataset(files, class_names)
  else:
    source = _folder(root)
  for split, members in source.splits.items():
    if not members:
      raise UserError(f'{path} (--source) has no images of the split {split}')
  if 'validation' not in source.splits:
    source = _with_validation(source, val_share)
  _check(source, path)
  return source


def _check(source: Source, path: str) -> None:
  """Refuses classes from which nothing can be learned."""
  names = source.class_names
  if len(names) < 2:
    raise UserError(
      f'{path} (--source) has one class, {names[0]!r}: at least two are needed'
    )
  folded = Counter(name.casefold() for name in names)
  for name in names:
    if folded[name.casefold()] > 1:
      same = [n for n in names if n.casefold() == name.casefold()]
      raise UserError(
        f'{path} (--source) has classes whose names differ in case alone: '
        f'{", ".join(same)}: rename or merge them'
      )


def _with_validation(source: Source, share: float) -> Source:
  """Moves a share of each class to a validation split, by hashes of names."""
  train, validation = [], []
  by_label = defaultdict(list)
  for image in source.splits['train']:
    by_label[image.label].append(image)
  for label, members in by_label.items():
    if len(members) < 2:
      raise UserError(
        f'class {source.class_names[label]!r} has one image, '
        f'{members[0].name}: at least two are needed, one to train on and one '
        'to validate'
      )
    ordered = sorted(members, key=lambda image: position(image.name))
    number = min(len(members) - 1, max(1, round(share * len(members))))
    validation += ordered[:number]
    train += ordered[number:]
  stored = {image: i for i, image in enumerate(source.splits['train'])}
  splits = {
    **source.splits,
    'train': sorted(train, key=stored.__getitem__),
    'validation': sorted(validation, key=stored.__getitem__),
  }
  return source._replace(splits=splits)


def _folder(root: pathlib.Path) -> Source:
  """Reads DIR/CLASS/* or DIR/{train,val,...}/CLASS/*."""
  folders = _folders(root)
  if folders and {name.lower() for name in folders} <= set(SPLITS):
    roots = {SPLITS[name.lower()]: root / name for name in folders}
    if len(roots) < len(folders):
      raise UserError(
        f'{root} (--source) has several folders of one split: '
        f'{", ".join(folders)}'
      )
    if 'train' not in roots:
      raise UserError(f'{root} (--source) has no folder train')
  else:
    roots = {'train': root}
  names = tuple(sorted({name for r in roots.values() for name in _folders(r)}))
  if not names:
    found = next(images.walk(str(root)), None)
    what = 'images but no folders of classes' if found else 'no images'
    raise UserError(
      f'{root} (--source) has {what}: put the images of each class into a '
      'folder of its own, DIR/CLASS/'
    )
  if set(names) == set(imagenet.synsets()):
    names = tuple(imagenet.synsets())
  for name in names:
    if not any(images.walk(str(roots['train'] / name))):
      raise UserError(
        f'{root} (--source): class {name!r} has no image to train on: add '
        'some, or remove the class'
      )
  splits = {
    split: [
      Image(os.path.relpath(path, folder), label, path)
      for label, name in enumerate(names)
      for path, _ in images.walk(str(folder / name))
    ]
    for split, folder in roots.items()
  }
  return Source('a folder of class folders', names, splits, upright=True)


def _folders(root: pathlib.Path) -> list[str]:
  return sorted(
    path.name
    for path in root.iterdir()
    if path.is_dir() and not images.is_left_behind(path.name)
  )


def _kaggle(root: pathlib.Path, data: pathlib.Path) -> Source:
  """Reads ImageNet as Kaggle packs it: a flat val/ and its labels in a CSV."""
  names = tuple(imagenet.synsets())
  labels = {name: label for label, name in enumerate(names)}
  train = _folder(data / 'train')
  if set(train.class_names) - set(names):
    raise UserError(
      f'{data / "train"} has other folders than the synsets of ImageNet: '
      f'{", ".join(sorted(set(train.class_names) - set(names))[:3])}'
    )
  table = root / 'LOC_val_solution.csv'
  if not table.exists():
    raise UserError(f'{table} is missing: it has the classes of val/')
  try:
    with table.open(newline='') as file:
      of_image = {
        f'{row["ImageId"]}.JPEG': row['PredictionString'].split()[0]
        for row in csv.DictReader(file)
      }
  except (KeyError, IndexError, AttributeError, csv.Error) as error:
    raise UserError(
      f'{table} needs the columns ImageId and PredictionString, which begins '
      'with a synset'
    ) from error
  if unknown := sorted(set(of_image.values()) - set(names)):
    raise UserError(
      f'{table} names {unknown[0]}, which is no class of ImageNet'
    )
  found = {
    os.path.relpath(path, data / 'val'): path
    for path, _ in images.walk(str(data / 'val'))
  }
  if missing := sorted(set(of_image) - set(found)):
    raise UserError(
      f'{table} names {len(missing)} files that are not in {data / "val"}: '
      f'{", ".join(missing[:3])}'
    )
  if extra := sorted(set(found) - set(of_image)):
    raise UserError(
      f'{data / "val"} has {len(extra)} files that {table} does not name: '
      f'{", ".join(extra[:3])}'
    )
  return Source(
    "ImageNet as Kaggle's zip",
    names,
    {
      'train': [
        image._replace(label=labels[train.class_names[image.label]])
        for image in train.splits['train']
      ],
      'validation': [
        Image(name, labels[of_image[name]], path)
        for name, path in found.items()
      ],
    },
    upright=True,
  )


def _parquet(
  files: Sequence[pathlib.Path], class_names: Sequence[str]
) -> Source:
  """Reads the shards of a dataset of Hugging Face: `image` and `label`."""
  from pyarrow import parquet

  splits: dict[str, list[Image]] = defaultdict(list)
  for path in files:
    try:
      file = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow's, of several kinds.
      raise UserError(f'{path} is cut off or corrupt: {error}') from error
    with file:
      columns = file.schema_arrow.names
      if 'image' not in columns or 'label' not in columns:
        raise UserError(
          f'{path} has the columns {", ".join(columns)}: image and label are '
          'needed'
        )
      found = _names_in(file.schema_arrow.metadata)
      class_names = class_names or found
      labels = file.read(['label']).column('label').to_pylist()
    if bad := [label for label in labels if not isinstance(label, int)]:
      raise UserError(f'{path} has the label {bad[0]!r}, which is not a number')
    if set(labels) == {-1}:
      continue  # A test split whose labels are secret.
    splits[split_of(path)] += [
      Image(f'{path.name}__{row}', label, str(path), row)
      for row, label in enumerate(labels)
    ]
  names = checked_names(class_names, splits, files[0].parent)
  return Source("Hugging Face's parquet", names, dict(splits), upright=False)


def _read_rows(path: str, rows: Sequence[int]) -> Iterator[bytes | OSError]:
  """Yields the images in some rows of a parquet file, in order."""
  from pyarrow import parquet

  wanted = set(rows)
  row = 0
  with parquet.ParquetFile(path) as file:
    for batch in file.iter_batches(64, columns=['image']):
      if wanted & set(range(row, row + len(batch))):
        for i, image in enumerate(batch.column('image').to_pylist(), row):
          if i in wanted:
            yield _bytes_of(image, path)
      row += len(batch)


def _bytes_of(image: Any, path: str) -> bytes | OSError:
  if isinstance(image, bytes):
    return image
  if isinstance(image, dict) and image.get('bytes'):
    return image['bytes']
  name = image.get('path') if isinstance(image, dict) else image
  try:
    return (pathlib.Path(path).parent / str(name)).read_bytes()
  except OSError as error:
    return error


def _names_in(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
  """Returns the class names that Hugging Face keeps in a schema."""
  try:
    content = json.loads((metadata or {})[b'huggingface'])
    return tuple(content['info']['features']['label']['names'])
  except (KeyError, TypeError, ValueError):
    return ()
