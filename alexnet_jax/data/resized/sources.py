"""Finds the images in folders, in archives of ImageNet, and in other files.

Each form is read into a `Source`: the classes, and for each split the pieces
that a worker reads from their beginning to their end.
"""

import csv
import hashlib
import itertools
import json
import os
import pathlib
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet, images

_SPLITS = {
  'train': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'test': 'test',
}
_PIECE = 2000  # Images.
_TRAIN_TAR, _VAL_TAR = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'


class Image(NamedTuple):
  """An image file of a source.

  Attributes:
    name: of the file, which is unique in its split.
    label: its class.
    path: of the file that holds it.
    start: position in that file, in bytes; in a parquet file its row.
    size: number of bytes; None: to the end.
  """

  name: str
  label: int
  path: str
  start: int = 0
  size: int | None = None


class Source(NamedTuple):
  """Images that are not a TFDS dataset.

  Attributes:
    form: what it is, for people.
    class_names: by label.
    splits: for each split its images, in the order in which they are stored.
    upright: whether images are turned by their EXIF orientation. ImageNet's
      own files, and datasets of decoded images, are taken as they are.
  """

  form: str
  class_names: tuple[str, ...]
  splits: dict[str, list[Image]]
  upright: bool

  def pieces(self) -> Iterator[tuple[str, list[Image]]]:
    """Yields parts of the splits, each for one worker."""
    for split, members in self.splits.items():
      for start in range(0, len(members), _PIECE):
        yield split, members[start : start + _PIECE]


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
  elif (root / _TRAIN_TAR).exists() or (root / _VAL_TAR).exists():
    source = _imagenet_tars(root)
  elif files := sorted(root.rglob('*.parquet')):
    source = _parquet(files, class_names)
  elif files := sorted(root.glob('*.tar')):
    source = _webdataset(files, class_names)
  else:
    source = _folder(root)
  source = _in_order(source)
  if 'validation' not in source.splits:
    source = _with_validation(source, val_share)
  _check(source, path)
  return source


def position(name: str) -> int:
  """Returns where an image belongs in its split: a hash of its name."""
  digest = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()
  return int.from_bytes(digest[:8])


def _in_order(source: Source) -> Source:
  """Gives ImageNet's classes TFDS's order, and any others that of names."""
  names, known = source.class_names, tuple(imagenet.synsets())
  words = tuple(imagenet.synsets().values())
  if names == words:
    return source._replace(class_names=known)
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
  if folders and {name.lower() for name in folders} <= set(_SPLITS):
    roots = {_SPLITS[name.lower()]: root / name for name in folders}
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
  with table.open(newline='') as file:
    of_image = {
      f'{row["ImageId"]}.JPEG': row['PredictionString'].split()[0]
      for row in csv.DictReader(file)
    }
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
  # Its folder has no synset with no image, so labels are by the full list.
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


def _imagenet_tars(root: pathlib.Path) -> Source:
  """Reads ImageNet's two archives, the first of which holds one per class."""
  for name in (_TRAIN_TAR, _VAL_TAR):
    if not (root / name).exists():
      raise UserError(f'{root} (--source) has no {name}')
  names = tuple(imagenet.synsets())
  labels = {name: label for label, name in enumerate(names)}
  path = str(root / _TRAIN_TAR)
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
  path = str(root / _VAL_TAR)
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
          start = member.offset_data
          yield member.name, start, member.size
          if start + member.size >= outer.offset_data + outer.size:
            raise tarfile.ReadError('unexpected end of data')
  except tarfile.TarError as error:
    raise UserError(
      f'{outer.name} in {path} is cut off or corrupt: {error}'
    ) from error


def _webdataset(
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
        splits[_split_of(path)].append(
          Image(image.name, int(text), str(path), image.offset_data, image.size)
        )
  names = _names(class_names, splits, files[0].parent)
  return Source('WebDataset tars', names, dict(splits), upright=True)


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
    splits[_split_of(path)] += [
      Image(f'{path.name}__{row}', label, str(path), row)
      for row, label in enumerate(labels)
    ]
  names = _names(class_names, splits, files[0].parent)
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


def _split_of(path: pathlib.Path) -> str:
  """Returns the split in a file's name, such as imagenet-val-0001.tar."""
  for word in re.split(r'[^a-z]+', path.name.lower()):
    if word in _SPLITS:
      return _SPLITS[word]
  return 'train'


def _names(
  names: Sequence[str], splits: dict[str, list[Image]], folder: pathlib.Path
) -> tuple[str, ...]:
  """Returns the class names, or numbers where there are none; checks them."""
  most = max(image.label for members in splits.values() for image in members)
  least = min(image.label for members in splits.values() for image in members)
  if 'train' not in splits:
    raise UserError(f'{folder} (--source) has no files of the split train')
  if least < 0:
    raise UserError(
      f'{folder} (--source) has the label {least}: images without a class '
      'cannot be used'
    )
  if not names:
    return tuple(map(str, range(most + 1)))
  if most >= len(names):
    raise UserError(
      f'{folder} (--source) has the label {most}, but {len(names)} class names'
    )
  return tuple(names)
