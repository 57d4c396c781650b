"""The paper's first step as a data set: every picture as 256 x 256 (section 2).

  python -m alexnet_jax.data.resized --source=imagenet2012:5.1.0 \\
    --data_dir=DIR [--out_dir=DIR] [--resize=warp]

"We rescaled the image such that the shorter side was of length 256, and then
cropped out the central 256x256 patch." Done once, a picture takes a quarter of
the time to read. The set is called SOURCE_256 (with --resize=warp
SOURCE_256_warp); `config.data.name` takes it in the source's place. It has the
source's splits, labels and keys, in the source's order and as many files, so
that a seed gives the same crops and flips of either; pictures are JPEGs of
quality 95. Beside them lie the mean image and the RGB principal components of
each split (`color_stats`), from the same pass.

It runs on Apache Beam (make venv EXTRAS=beam): on this machine, or elsewhere by
--beam_pipeline_options, which docs/input.md has for Dataflow, Flink and Spark.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.data import color_stats, dataset, decoding, faults

SIZE = 256
_QUALITY = 95
_BATCH = 32


class Task(NamedTuple):
  """One file of the source, and the file to be made of it."""

  split: str
  number: int
  source: str
  target: str
  length: int
  image_key: str
  how: str
  skip_errors: bool


class Made(NamedTuple):
  """What was made of some files of a split: examples in each, and their sums.

  Attributes:
    lengths: number of examples by the file's number.
    num_left_out: examples that cannot be decoded.
    sums: over the pictures, as they are stored.
  """

  lengths: dict[int, int]
  num_left_out: int
  sums: color_stats.ColorSums

  def merge(self, other: 'Made') -> 'Made':
    """Of both."""
    return Made(
      {**self.lengths, **other.lengths},
      self.num_left_out + other.num_left_out,
      self.sums.merge(other.sums),
    )


def resize_file(task: Task) -> tuple[str, Made]:
  """Makes one file: its pictures resized, all other features as they were.

  Returns:
    The split, and what was made.

  Raises:
    UserError: a picture cannot be decoded; its key is named.
  """
  source = tf.data.TFRecordDataset(task.source, buffer_size=1 << 20)
  feature = {task.image_key: tf.io.FixedLenFeature([], tf.string)}

  def resized(record):
    encoded = tf.io.parse_single_example(record, feature)[task.image_key]
    image = decoding.resize(decoding.decode(encoded), task.how, SIZE)
    jpeg = tf.io.encode_jpeg(image, quality=_QUALITY)
    # As whoever reads the set will see it.
    return record, jpeg, tf.io.decode_jpeg(jpeg)

  examples = source.map(resized, num_parallel_calls=tf.data.AUTOTUNE)
  if task.skip_errors:
    examples = examples.ignore_errors()
  sums = color_stats.ColorSums.zero(SIZE)
  there = 0
  try:
    for _ in source:
      there += 1
    if there != task.length:
      raise UserError(_damaged(task, f'{there} of {task.length} records'))
    # A worker that is tried again writes the file anew.
    with tf.io.TFRecordWriter(task.target) as file, tqdm(
      desc=task.target.rsplit('/', 1)[-1], unit='', leave=False, disable=None
    ) as bar:  # fmt: skip
      for batch in examples.batch(_BATCH).prefetch(2).as_numpy_iterator():
        for record, jpeg in zip(*batch[:2], strict=True):
          file.write(_with_picture(record, task.image_key, jpeg))
        sums = sums.add(batch[2])
        bar.update(len(batch[0]))
  except faults.ERRORS as error:
    raise UserError(_what_is_wrong(task, sums.num_examples, error)) from error
  num_left_out = there - sums.num_examples
  lengths = {task.number: sums.num_examples}
  return task.split, Made(lengths, num_left_out, sums)


def _with_picture(record: bytes, key: str, jpeg: bytes) -> bytes:
  example = tf.train.Example.FromString(record)
  example.features.feature[key].bytes_list.value[:] = [jpeg]
  return example.SerializeToString()


def _what_is_wrong(task: Task, done: int, error: tf.errors.OpError) -> str:
  name = task.source.rsplit('/', 1)[-1]
  records = tf.data.TFRecordDataset(task.source).enumerate().skip(done)
  feature = {task.image_key: tf.io.FixedLenFeature([], tf.string)}
  with contextlib.suppress(*faults.ERRORS):
    for number, record in records.as_numpy_iterator():
      try:
        example = tf.io.parse_single_example(record, feature)
        decoding.decode(example[task.image_key])
      except tf.errors.InvalidArgumentError:
        return (
          f'cannot decode picture {name}__{number} of split {task.split!r}: '
          'mend it, or leave such pictures out with --on_error=skip'
        )
  return _damaged(task, str(error.message))


def _damaged(task: Task, reason: str) -> str:
  return (
    f'{task.source} of split {task.split!r} is damaged: {reason}; copy it or '
    'prepare the set anew'
  )


class Resized(  # type: ignore[call-arg]
  tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True
):
  """A TFDS builder whose files are made, one of each, of another set's."""

  # No class of its own for each source: see `resized_builder`.
  pkg_dir_path = None
  source: dataset.Dataset
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
    """Runs the pipeline; TFDS has made a folder aside, and renames it."""
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
    made = _read(folder)
    splits = []
    for split, template in templates.items():
      number, left_out = sum(made[split][0]), made[split][1]
      if not number or left_out > self.max_error_rate * (number + left_out):
        raise UserError(
          f'{left_out} of {number + left_out} pictures of split {split!r} '
          f'cannot be decoded: more than --max_error_rate='
          f'{self.max_error_rate} allows'
        )
      paths = template.sharded_filepaths(len(made[split][0]))
      splits.append(
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=made[split][0],
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
      'left_out': {split: left_out for split, (_, left_out) in made.items()},
    }
    (folder / dataset.RESIZED_FILE).write_text(json.dumps(facts, indent=1))

  def _tasks(self, templates) -> Iterator[Task]:
    for split, info in self.source.builder.info.splits.items():
      paths = info.filepaths
      targets = templates[split].sharded_filepaths(len(paths))
      for i, (path, target) in enumerate(zip(paths, targets, strict=True)):
        yield Task(
          split,
          i,
          str(path),
          str(target),
          info.shard_lengths[i],
          self.source.image_key,
          self.how,
          self.skip_errors,
        )


_LENGTHS = 'lengths.json'


def _merge(made: Sequence[Made]) -> Made:
  first, *others = made
  for other in others:
    first = first.merge(other)
  return first


def _write(made: list[tuple[str, Made]], folder: str) -> None:
  """The last step of the pipeline: what is known of all files together."""
  path = epath.Path(folder)
  color_stats.write_color_stats(
    path,
    {split: m.sums.summarize() for split, m in made if m.sums.num_examples},
  )
  lengths = {
    split: ([n for _, n in sorted(m.lengths.items())], m.num_left_out)
    for split, m in made
  }
  (path / _LENGTHS).write_text(json.dumps(lengths))


def _read(folder: epath.Path) -> dict[str, tuple[list[int], int]]:
  path = folder / _LENGTHS
  lengths = json.loads(path.read_text())
  path.unlink()
  return lengths


def resized_builder(
  source: dataset.Dataset,
  out_dir: str,
  how: str = 'short_side',
  skip_errors: bool = False,
  max_error_rate: float = 0.001,
) -> Resized:
  """The builder of SOURCE_256.

  Args:
    source: a prepared set, stored as TFRecord.
    out_dir: a TFDS data folder, local or gs://.
    how: 'short_side' or 'warp'; see `decoding.resize`.
    skip_errors: whether to leave out pictures that cannot be decoded.
    max_error_rate: the largest share of a split that may be left out.
  """
  info = source.builder.info
  if info.file_format != tfds.core.FileFormat.TFRECORD:
    raise UserError(
      f'{source.full_name} is stored as {info.file_format.value}: tfrecord '
      'expected (tfds build --file_format=tfrecord)'
    )
  config = source.builder.builder_config
  version = tfds.core.Version(str(info.version))
  attributes: dict[str, Any] = {
    'name': dataset.resized_name(source.builder.name, how),
    # The source's: what was made of another version lies beside it.
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
    'ResizedSet', (Resized,), attributes, skip_registration=True
  )
  return builder_class(data_dir=out_dir)


@contextlib.contextmanager
def _alone(builder: Resized) -> Iterator[None]:
  """Holds off a second build of a set, and clears what a killed one left."""
  folder = epath.Path(builder.data_path).parent
  left = [
    path
    for path in (folder.iterdir() if folder.exists() else ())
    if 'incomplete' in path.name
  ]
  if '://' in str(folder):
    for path in left:
      print(f'a killed build (or a running one) left {path}', flush=True)
    yield
    return
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.lock').open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(f'{folder} is being made by another process') from error
    for path in left:
      print(f'removing what a killed build left: {path}', flush=True)
      path.rmtree()
    yield


def build(builder: Resized, beam_pipeline_options: str = '') -> None:
  """Prepares a set; nothing is done to one that is there.

  Args:
    builder: of `resized_builder`.
    beam_pipeline_options: `name=value,...`, as `tfds build` has it; empty: on
      this machine.

  Raises:
    UserError: Beam is not installed, a picture cannot be decoded, the options
      do not go, or another process makes this set.
    StorageError: the set cannot be written.
  """
  try:
    logging.disable()  # Of Google packages that it does not find.
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as error:
    raise UserError(
      'Apache Beam is not installed: make venv EXTRAS=beam, or pip install '
      "'apache-beam>=2.77'"
    ) from error
  finally:
    logging.disable(logging.NOTSET)
  # One process here: TensorFlow uses all its cores.
  options = beam_pipeline_options or 'runner=DirectRunner'
  flags = [f'--{option}' for option in options.split(',')]
  _check_beam_options(flags, PipelineOptions)
  config = tfds.download.DownloadConfig(beam_options=PipelineOptions(flags))
  try:
    with _alone(builder):
      builder.download_and_prepare(download_config=config)
  except UserError:
    raise
  except OSError as error:
    raise StorageError(f'cannot write {builder.data_path}: {error}') from error
  except Exception as error:
    raise _error_of_worker(error) from error


def _check_beam_options(flags, pipeline_options) -> None:
  """Beam passes over what it does not know: a typo would run it here."""
  parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
  for options in pipeline_options.__subclasses__():
    options._add_argparse_args(parser)
  try:
    unknown = parser.parse_known_args(flags)[1]
    reason = f'Beam does not know {unknown[0].lstrip("-")!r}' if unknown else ''
  except argparse.ArgumentError as error:
    reason = str(error)
  if reason:
    raise UserError(f'{reason} (--beam_pipeline_options=NAME=VALUE,...)')


def _error_of_worker(error: Exception) -> Exception:
  """Beam passes on a worker's error as text, with a traceback."""
  told = re.findall(r'UserError: (.*?)(?: \[while running|\n|$)', str(error))
  if told:
    return UserError(told[-1])
  if isinstance(error, ValueError):  # Of a runner.
    return UserError(f'Beam: {error} (--beam_pipeline_options)')
  if 'No space left' in str(error) or 'ResourceExhausted' in str(error):
    return StorageError(str(error).strip().splitlines()[-1])
  return error


def main(argv: Sequence[str]) -> None:
  """Builds a set, or says that it is there."""
  parser = Parser('data.resized', __doc__)
  parser.add_argument(
    '--source', required=True, help='NAME[/CONFIG][:VERSION] of a prepared set'
  )
  parser.add_argument('--data_dir', help="where it is; TFDS's default if not")
  parser.add_argument('--out_dir', help='where to; --data_dir if not given')
  parser.add_argument(
    '--resize', choices=('short_side', 'warp'), default='short_side'
  )
  parser.add_argument('--on_error', choices=('stop', 'skip'), default='stop')
  parser.add_argument('--max_error_rate', type=float, default=0.001)
  parser.add_argument(
    '--beam_pipeline_options', default='', help='NAME=VALUE,... of the runner'
  )
  arguments = parser.parse_args(argv)
  if not 0 <= arguments.max_error_rate <= 1:
    parser.error(
      f'--max_error_rate={arguments.max_error_rate}: a share, 0 to 1'
    )
  source = dataset.open_dataset(arguments.source, arguments.data_dir)
  if (source.builder.data_path / dataset.RESIZED_FILE).exists():
    raise UserError(f'{source.full_name} (--source) is a resized set itself')
  builder = resized_builder(
    source,
    arguments.out_dir or str(source.data_dir),
    arguments.resize,
    arguments.on_error == 'skip',
    arguments.max_error_rate,
  )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  there = builder.data_path.exists()
  if not there:
    build(builder, arguments.beam_pipeline_options)
  made = dataset.open_dataset(
    f'{builder.info.full_name.rsplit("/", 1)[0]}:{builder.version}',
    str(dataset.data_dir_of(builder)),
  )
  print(f'{made.full_name} {"was" if there else "is"} in {builder.data_path}')
  facts = made.resized or {}
  for split, info in made.builder.info.splits.items():
    left_out = facts['left_out'].get(split, 0)
    stats = color_stats.read_color_stats(builder.data_path, split)
    mean = stats.mean if stats else np.zeros(3)
    print(
      f'  {split}: {info.num_examples} pictures, {info.num_bytes / 1e6:.1f} MB,'
      f' {info.num_shards} files, mean {np.round(mean, 2).tolist()}'
      + (f', {left_out} left out' if left_out else '')
    )


if __name__ == '__main__':
  # By its own name, so that Beam's workers find it under that.
  from alexnet_jax.data import resized

  run(resized.main, sys.argv[1:])
