"""The TFDS builder of the 256 x 256 dataset, and its Beam pipeline."""

import argparse
import contextlib
import errno
import functools
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.terminal import warn
from alexnet_jax.data import builders, color_stats, dataset
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.resized.files import SIZE, Made, Task, resize_file

try:
  import fcntl
except ImportError:  # Not on Unix.
  fcntl = None  # type: ignore[assignment]

_LENGTHS = 'lengths.json'
# What errors of the storage say, whichever library raises them.
_OF_STORAGE = (
  *map(
    os.strerror,
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES),
  ),
  'ResourceExhausted',
)


class Resized(  # type: ignore[call-arg]
  tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True
):
  """A TFDS builder that makes each file from one file of another dataset."""

  # `resized_builder` sets these in a subclass for each source.
  pkg_dir_path = None
  source: Dataset
  how: str
  skip_errors: bool
  max_error_rate: float

  def _info(self) -> tfds.core.DatasetInfo:
    info = self.source.builder.info
    features = dict(info.features)
    features[self.source.image_key] = tfds.features.Image(
      shape=(SIZE, SIZE, 3), encoding_format='jpeg'
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'{info.full_name}, {self.how} to {SIZE} x {SIZE}.',
      features=tfds.features.FeaturesDict(features),
      supervised_keys=info.supervised_keys,
      homepage=info.homepage,
      citation=info.citation,
      disable_shuffling=True,
    )

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    """Runs the pipeline in TFDS's temporary folder, which TFDS then renames."""
    import apache_beam as beam

    del dl_manager  # Nothing is downloaded.
    folder = epath.Path(self.data_dir)
    templates = {
      split: self._get_filename_template(split)
      for split in self.source.builder.info.splits
    }
    with beam.Pipeline(options=download_config.beam_options) as pipeline:
      _ = (
        pipeline
        | 'Files' >> beam.Create(list(self._tasks(templates)))
        | 'Spread' >> beam.Reshuffle()
        | 'Resize' >> beam.Map(resize_file)
        | 'Sum' >> beam.CombinePerKey(_merge)
        | 'Gather' >> beam.combiners.ToList()
        | 'Write' >> beam.Map(_write, folder=str(folder))
      )
    made = _read_lengths(folder)
    splits = []
    for split, template in templates.items():
      lengths, num_skipped = made[split]
      number = sum(lengths) + num_skipped
      if number == num_skipped or num_skipped > self.max_error_rate * number:
        raise UserError(
          f'{num_skipped} of {number} images of split {split!r} cannot be '
          f'decoded: more than --max_error_rate={self.max_error_rate} allows'
        )
      paths = template.sharded_filepaths(len(lengths))
      splits.append(
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=lengths,
          num_bytes=sum(path.stat().length for path in paths),
          filename_template=template,
        )
      )
    self.info.set_splits(tfds.core.splits.SplitDict(splits))
    facts = {
      'source': self.source.full_name,
      'resize': self.how,
      'size': SIZE,
      'revision': dataset.RESIZED_REVISION,
      'left_out': {split: skipped for split, (_, skipped) in made.items()},
    }
    (folder / dataset.RESIZED_FILE).write_text(json.dumps(facts, indent=1))

  def _tasks(self, templates) -> Iterator[Task]:
    how = (self.source.image_key, self.how, self.skip_errors)
    for split, info in self.source.builder.info.splits.items():
      paths = zip(
        info.filepaths,
        templates[split].sharded_filepaths(info.num_shards),
        strict=True,
      )
      for i, (path, target) in enumerate(paths):
        length = info.shard_lengths[i]
        yield Task(split, i, str(path), str(target), length, *how)


def _merge(made: Iterable[Made]) -> Made:
  return functools.reduce(Made.merge, made)


def _write(made: list[tuple[str, Made]], folder: str) -> None:
  """Ends the pipeline: writes the statistics and lengths of all files."""
  made = sorted(made)  # The workers finish in any order.
  stats = {s: m.sums.summarize() for s, m in made if m.sums.num_examples}
  lengths = {
    split: ([n for _, n in sorted(m.lengths.items())], m.num_skipped)
    for split, m in made
  }
  color_stats.write_color_stats(epath.Path(folder), stats)
  (epath.Path(folder) / _LENGTHS).write_text(json.dumps(lengths))


def _read_lengths(folder: epath.Path) -> dict[str, tuple[list[int], int]]:
  """Reads and removes what `_write` left: by split, lengths and number skipped.

  The pipeline may have run on other machines: files carry its results here.
  """
  path = folder / _LENGTHS
  lengths = json.loads(path.read_text())
  path.unlink()
  return lengths


def resized_builder(
  source: Dataset,
  out_dir: str,
  how: str = 'short_side',
  skip_errors: bool = False,
  max_error_rate: float = 0.001,
) -> Resized:
  """Returns the builder of the 256 x 256 form of a dataset.

  Args:
    source: a prepared dataset, stored as TFRecord.
    out_dir: a TFDS folder, local or gs://.
    how: 'short_side' or 'warp'; see `decoding.resize`.
    skip_errors: whether to skip images that cannot be decoded.
    max_error_rate: the largest fraction of a split that may be skipped.

  Raises:
    UserError: the source is a 256 x 256 dataset itself, or no TFRecord.
  """
  if source.resized:
    raise UserError(
      f'{source.full_name} (--source) is already resized, from {source.origin}'
    )
  info = source.builder.info
  if info.file_format != tfds.core.FileFormat.TFRECORD:
    raise UserError(
      f'{source.full_name} is stored as {info.file_format.value}, not as '
      'tfrecord. Prepare it in another folder: python -m '
      f'alexnet_jax.data.prepare {info.full_name} --data_dir=FOLDER'
    )
  config = source.builder.builder_config
  version = tfds.core.Version(str(info.version))
  attributes: dict[str, Any] = {
    'name': builders.resized_name(source.builder.name, how),
    # The source's, so that several versions can exist side by side.
    'VERSION': version,
    'BUILDER_CONFIGS': [],
    'source': source,
    'how': how,
    'skip_errors': skip_errors,
    'max_error_rate': max_error_rate,
    '__doc__': Resized.__doc__,
  }
  if config is not None:
    attributes['BUILDER_CONFIGS'] = [
      tfds.core.BuilderConfig(name=config.name, version=version)
    ]
  builder_class = type(
    'ResizedDataset', (Resized,), attributes, skip_registration=True
  )
  return builder_class(data_dir=out_dir)


def build(builder: Resized, beam_pipeline_options: str = '') -> Dataset:
  """Builds a dataset unless it exists, and opens it.

  Args:
    builder: of `resized_builder`.
    beam_pipeline_options: `name=value,...`, as in TFDS; empty: run on
      this machine.

  Raises:
    UserError: Beam is not installed, an option is invalid, an image cannot be
      decoded, or another process is building this dataset.
    StorageError: the dataset cannot be written.
  """
  if not builder.data_path.exists():
    _prepare(builder, beam_pipeline_options)
  name = builder.info.full_name.rsplit('/', 1)[0]
  data_dir = str(builders.data_dir_of(builder))
  return dataset.open_dataset(f'{name}:{builder.version}', data_dir)


def _prepare(builder: Resized, beam_pipeline_options: str) -> None:
  try:
    logging.disable()  # Beam warns about optional Google packages.
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as error:
    raise UserError(
      'Apache Beam is not installed: make venv EXTRAS=beam, or pip install '
      "'apache-beam>=2.77'"
    ) from error
  finally:
    logging.disable(logging.NOTSET)
  # One process on this machine: TensorFlow uses all its cores.
  options = beam_pipeline_options or 'runner=DirectRunner'
  flags = [f'--{option}' for option in options.split(',')]
  _check_beam_options(flags, PipelineOptions)
  config = tfds.download.DownloadConfig(beam_options=PipelineOptions(flags))
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  # Beam logs a traceback of each error that it raises.
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  try:
    # TFDS prints that it downloads something of unknown size.
    with _locked(builder), contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(download_config=config)
  except UserError as error:  # To which Beam adds where it was raised.
    raise UserError(str(error).split(' [while running')[0]) from error
  except OSError as error:
    raise StorageError(f'cannot write {builder.data_path}: {error}') from error
  except Exception as error:
    raise _error_of_worker(error) from error


@contextlib.contextmanager
def _locked(builder: Resized) -> Iterator[None]:
  """Excludes a second build and removes what an interrupted one left."""
  folder = epath.Path(builder.data_path).parent
  incomplete = [
    path
    for path in (folder.iterdir() if folder.exists() else ())
    if 'incomplete' in path.name
  ]
  if '://' in str(folder):  # There are no locks: another build may be running.
    for path in incomplete:
      print(f'an interrupted or running build left {path}', flush=True)
    yield
    return
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.lock').open('w') as lock:
    try:
      if fcntl:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(
        f'another process is building {folder}: wait until it ends'
      ) from error
    except OSError as error:
      warn(f'{folder} has no locks ({error}): run one build at a time')
    for path in incomplete:
      print(f'removing what an interrupted build left: {path}', flush=True)
      path.rmtree()
    yield


def _check_beam_options(flags, pipeline_options) -> None:
  """Refuses unknown options, which Beam ignores: a typo would run it here."""
  parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
  for options in pipeline_options.__subclasses__():
    options._add_argparse_args(parser)
  try:
    unknown = parser.parse_known_args(flags)[1]
    reason = f'unknown option {unknown[0].lstrip("-")!r}' if unknown else ''
  except argparse.ArgumentError as error:
    reason = str(error)
  if reason:
    raise UserError(f'Beam: {reason} (--beam_pipeline_options=NAME=VALUE,...)')


def _error_of_worker(error: Exception) -> Exception:
  """Returns the error of a worker, which Beam reports as a traceback's text."""
  pattern = r'UserError: (.*?)(?: \[while running|\n|$)'
  if messages := re.findall(pattern, str(error)):
    return UserError(messages[-1])
  if isinstance(error, ValueError):  # Raised by runners.
    return UserError(f'Beam: {error} (--beam_pipeline_options)')
  last = str(error).strip().splitlines()[-1].split(' [while running')[0]
  if any(words in str(error) for words in _OF_STORAGE):
    return StorageError(f'cannot build the dataset: {last}')
  return error


def summary(made: Dataset) -> Iterator[str]:
  """Yields a line for each split of a 256 x 256 dataset."""
  for split, info in made.builder.info.splits.items():
    skipped = (made.resized or {})['left_out'].get(split, 0)
    stats = color_stats.read_color_stats(made.builder.data_path, split)
    mean = stats.mean if stats else np.zeros(3)
    yield (
      f'  {split}: {info.num_examples} images, {info.num_bytes / 1e6:.1f} MB, '
      f'{info.num_shards} files, mean {np.round(mean, 2).tolist()}'
      + (f', {skipped} skipped' if skipped else '')
    )
