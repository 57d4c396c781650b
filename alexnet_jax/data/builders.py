"""Finds TFDS builders, and names what is missing; the digits are prepared."""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import check_bucket

_IMAGENET_FILES = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
_IMAGENET_HELP = (
  f'ImageNet must be downloaded by hand: put {" and ".join(_IMAGENET_FILES)} '
  'into {data_dir}/downloads/manual, then run'
)


def data_dir_of(builder: tfds.core.DatasetBuilder) -> epath.Path:
  """Returns a builder's TFDS folder, above name, config and version."""
  levels = len(builder.info.full_name.split('/'))
  return epath.Path(builder.data_path).parents[levels - 1]


def resized_name(name: str, how: str) -> str:
  """Returns the name of a dataset's 256 x 256 form.

  Args:
    name: the name of the source.
    how: 'short_side' or 'warp'; see `decoding.resize`.

  Example:
    >>> resized_name('imagenet2012', 'short_side')
    'imagenet2012_256'
    >>> resized_name('imagenet2012', 'warp')
    'imagenet2012_256_warp'
  """
  return f'{name}_256' if how == 'short_side' else f'{name}_256_{how}'


def origin(full_name: str) -> str:
  """Returns the full name of the source of a 256 x 256 dataset.

  Any other name is returned unchanged.

  Example:
    >>> origin('imagenet2012_256/5.1.0')
    'imagenet2012/5.1.0'
    >>> origin('cifar10/3.0.2')
    'cifar10/3.0.2'
  """
  return re.sub(r'^(\w+?)_256(_warp)?/', r'\1/', full_name)


def _versions_in(folder: epath.Path) -> list[str]:
  """Returns the prepared configs and versions in the folder of a dataset."""
  return sorted(
    os.fspath(path.parent)[len(os.fspath(folder)) + 1 :]
    for depth in ('*', '*/*')
    for path in folder.glob(f'{depth}/dataset_info.json')
    if 'incomplete' not in os.fspath(path)
  )


@contextlib.contextmanager
def only_known_features() -> Iterator[None]:
  """Keeps TFDS from importing the modules that a features.json names.

  TFDS's own features stay, and those of modules that are imported already.
  """
  features = tfds.features.FeatureConnector
  original = features.__dict__['cls_from_name']

  def cls_from_name(name: str):
    known = features._registered_features
    if name not in known and not name.startswith('tensorflow_datasets.'):
      raise ValueError(
        f'features.json names {name}, which is not a feature of TFDS; if you '
        'trust it, import its module first'
      )
    return original.__get__(None, features)(name)

  features.cls_from_name = staticmethod(cls_from_name)
  try:
    yield
  finally:
    features.cls_from_name = original


def find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  """Returns the builder of a dataset, prepared or not.

  Raises:
    UserError: there is no such dataset; the message names similar ones. Or the
      folder's bucket does not exist.
  """
  folder = data_dir or tfds.core.constants.DATA_DIR
  check_bucket(folder, 'data.data_dir')
  try:
    with only_known_features():
      return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    base = name.split(':')[0]
    source = origin(f'{base}/').rstrip('/')
    there = _versions_in(epath.Path(folder) / base.split('/')[0])
    close = difflib.get_close_matches(name.split('/')[0], tfds.list_builders())
    hint = ''
    if there:
      hint = f' (prepared there: {", ".join(there)})'
    elif source != base:
      how = 'warp' if base.split('/')[0].endswith('_warp') else 'short_side'
      raise UserError(
        f'dataset {name!r} (data.name) is not prepared in {folder}. Build it '
        f'with: python -m alexnet_jax.data.resized --source={source} '
        f'--resize={how} --data_dir={folder}'
      ) from error
    elif close:
      hint = f' (did you mean {" or ".join(close)}?)'
    raise UserError(
      f'unknown dataset {name!r}{hint}: data.name takes any TFDS name, '
      'NAME[/CONFIG][:VERSION], or one prepared in '
      f'{folder} (data.data_dir)'
    ) from error
  except (ValueError, AssertionError, RuntimeError, ImportError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(f'dataset {name!r} (data.name): {reason}') from error


def prepare(
  builder: tfds.core.DatasetBuilder, manual_dir: str | None = None
) -> None:
  """Downloads and prepares a dataset; another process may be doing the same.

  Args:
    builder: not prepared yet.
    manual_dir: folder of the files that were downloaded by hand; by default
      downloads/manual in the TFDS folder.

  Raises:
    UserError: such a file is missing, or the folder cannot be written.
  """
  if builder.name == 'imagenet2012':
    # TFDS leaves out the split of a file that is missing.
    manual = epath.Path(manual_dir or data_dir_of(builder) / 'downloads/manual')
    missing = [name for name in _IMAGENET_FILES if not (manual / name).exists()]
    if missing:
      raise UserError(
        f'{manual} (--manual_dir) does not have {" and ".join(missing)}: '
        'download from image-net.org/download-images (you must register)'
      )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(manual_dir=manual_dir)
  try:
    builder.download_and_prepare(download_config=config)
  except AssertionError as error:  # How TFDS says that a file is missing.
    raise UserError(
      f'cannot prepare {builder.info.full_name}: {" ".join(str(error).split())}'
    ) from error
  except OSError as error:
    # TFDS builds in a temporary folder and renames it. The process that comes
    # second fails to rename, and uses what the first one built.
    if not builder.data_path.exists():
      if error.errno is None:  # The network.
        raise
      raise UserError(
        f'cannot prepare {builder.name} in {builder.data_path}: {error}. Set '
        'a writable folder (data_dir)'
      ) from error
    builder.info.read_from_directory(builder.data_path)


def how_to_prepare(builder: tfds.core.DatasetBuilder, name: str) -> str:
  """Returns the message for a dataset that is not prepared."""
  data_dir = data_dir_of(builder)
  message = f'dataset {builder.info.full_name} is not prepared in {data_dir}'
  there = _versions_in(data_dir / builder.name)
  if there:
    message += f' (prepared there: {builder.name} {", ".join(there)})'
  command = f'python -m alexnet_jax.data.prepare {name} --data_dir={data_dir}'
  if builder.name == 'imagenet2012':
    message += '. ' + _IMAGENET_HELP.format(data_dir=data_dir)
    command += f' --manual_dir={data_dir}/downloads/manual'
  else:
    message += '. Prepare it with'
  return f'{message}: {command} (or set another folder: data.data_dir)'
