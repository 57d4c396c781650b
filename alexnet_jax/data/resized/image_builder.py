"""The TFDS builder of a 256 x 256 dataset from images in any form."""

import contextlib
import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import builders, color_stats, dataset
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.resized import pieces, sources
from alexnet_jax.data.resized.files import SIZE

_PER_FILE = 1000  # Images.
_MOST_FILES = 1024
_KEPT = 'kept.json'


class FromImages(  # type: ignore[call-arg]
  tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True
):
  """A TFDS builder that makes its files from the images of a `Source`."""

  # `image_builder` sets these in a subclass for each source.
  pkg_dir_path = None
  source: sources.Source
  source_name: str
  how: str
  skip_errors: bool
  max_error_rate: float

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'{self.source.form}, {self.how} to {SIZE} x {SIZE}.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(SIZE, SIZE, 3), encoding_format='jpeg'
          ),
          'label': tfds.features.ClassLabel(names=self.source.class_names),
          'file_name': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
      disable_shuffling=True,
    )

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    """Runs two pipelines in TFDS's temporary folder, which TFDS renames."""
    import apache_beam as beam

    del dl_manager  # Nothing is downloaded.
    folder = epath.Path(self.data_dir)
    work = folder / 'pieces'
    work.mkdir()
    options = download_config.beam_options
    num_files = {
      split: min(_MOST_FILES, -(-len(members) // _PER_FILE))
      for split, members in self.source.splits.items()
    }
    todo = list(self._pieces(work, num_files))
    with _progress(work, todo), beam.Pipeline(options=options) as pipeline:
      _ = (
        pipeline
        | 'Pieces' >> beam.Create(todo)
        | 'Spread' >> beam.Reshuffle()
        | 'Resize' >> beam.Map(pieces.keep_piece)
        | 'Sum' >> beam.CombinePerKey(_merge)
        | 'Gather' >> beam.combiners.ToList()
        | 'Write' >> beam.Map(_write, folder=str(folder))
      )
    # The pipeline may have run on other machines: a file carries its results.
    kept = json.loads((folder / _KEPT).read_text())
    (folder / _KEPT).unlink()
    self._check(kept)
    templates = {split: self._get_filename_template(split) for split in kept}
    paths = {
      split: template.sharded_filepaths(num_files[split])
      for split, template in templates.items()
    }
    tasks = [
      (str(path), [(at, ends[i], ends[i + 1]) for at, ends in made['bounds']])
      for split, made in kept.items()
      for i, path in enumerate(paths[split])
    ]
    with beam.Pipeline(options=options) as pipeline:
      _ = (
        pipeline
        | 'Files' >> beam.Create(tasks)
        | 'Spread' >> beam.Reshuffle()
        | 'Gather' >> beam.MapTuple(pieces.gather)
        | 'List' >> beam.combiners.ToList()
        | 'Write' >> beam.Map(_write_lengths, folder=str(folder))
      )
    lengths = json.loads((folder / _KEPT).read_text())
    (folder / _KEPT).unlink()
    work.rmtree()
    self.info.set_splits(
      tfds.core.splits.SplitDict(
        [
          tfds.core.SplitInfo(
            name=split,
            shard_lengths=[lengths[str(path)] for path in paths[split]],
            num_bytes=sum(path.stat().length for path in paths[split]),
            filename_template=template,
          )
          for split, template in templates.items()
        ]
      )
    )
    facts = {
      'source': f'{self.source_name}/{self.version}',
      'resize': self.how,
      'size': SIZE,
      'revision': dataset.RESIZED_REVISION,
      'left_out': {split: len(one['skipped']) for split, one in kept.items()},
      'form': self.source.form,
      'fingerprint': fingerprint(self.source),
      'upright': self.source.upright,
      'skipped': {split: one['skipped'] for split, one in kept.items()},
      'counts': {split: one['counts'] for split, one in kept.items()},
      'sides': {split: one['sides'] for split, one in kept.items()},
    }
    (folder / dataset.RESIZED_FILE).write_text(json.dumps(facts, indent=1))

  def _pieces(self, work, num_files) -> Iterator[pieces.Piece]:
    for i, (split, members) in enumerate(self.source.pieces()):
      yield pieces.Piece(
        split,
        members,
        str(work / str(i)),
        num_files[split],
        self.how,
        self.source.upright,
      )

  def _check(self, kept: dict[str, Any]) -> None:
    bad = [pair for one in kept.values() for pair in one['skipped']]
    if bad and not self.skip_errors:
      more = f'; and {len(bad) - 10} more' if len(bad) > 10 else ''
      listed = '; '.join(f'{name}: {reason}' for name, reason in bad[:10])
      raise UserError(
        f'{len(bad)} files cannot be read: {listed}{more}. Fix or remove them, '
        'or skip them with --on_error=skip'
      )
    for split, members in self.source.splits.items():
      number, skipped = len(members), len(kept[split]['skipped'])
      if skipped == number or skipped > self.max_error_rate * number:
        raise UserError(
          f'{skipped} of {number} images of split {split!r} cannot be '
          f'read: more than --max_error_rate={self.max_error_rate} allows'
        )


@contextlib.contextmanager
def _progress(work: epath.Path, todo: Sequence[pieces.Piece]) -> Iterator[None]:
  """Shows how many images are in the files that the workers have written."""
  sizes = {epath.Path(piece.path).name: len(piece.members) for piece in todo}
  done = threading.Event()
  with tqdm(total=sum(sizes.values()), unit='image', disable=None) as bar:

    def watch():
      while not done.wait(1):
        with contextlib.suppress(Exception):  # Any storage's. It may recover.
          bar.n = sum(sizes[path.name] for path in work.iterdir())
          bar.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    if not bar.disable:
      watcher.start()
    try:
      yield
      bar.n = sum(sizes.values())
    finally:
      done.set()


def _merge(made) -> pieces.Kept:
  return functools.reduce(pieces.Kept.merge, made)


def _write(made: list[tuple[str, pieces.Kept]], folder: str) -> None:
  """Writes the statistics of all pieces, and where their images are kept."""
  made = sorted(made, key=lambda pair: pair[0])  # Workers finish in any order.
  stats = {s: kept.sums.summarize() for s, kept in made if kept.counts}
  color_stats.write_color_stats(epath.Path(folder), stats)
  content = {
    split: {
      'bounds': sorted(kept.bounds),
      'counts': {str(k): v for k, v in sorted(kept.counts.items())},
      'sides': kept.sides,
      'skipped': sorted(kept.skipped),
    }
    for split, kept in made
  }
  (epath.Path(folder) / _KEPT).write_text(json.dumps(content))


def _write_lengths(made: list[tuple[str, int]], folder: str) -> None:
  (epath.Path(folder) / _KEPT).write_text(json.dumps(dict(made)))


def image_builder(
  source: sources.Source,
  name: str,
  out_dir: str | None,
  how: str = 'short_side',
  skip_errors: bool = False,
  max_error_rate: float = 1.0,
) -> FromImages:
  """Returns the builder of the 256 x 256 dataset of a source.

  Args:
    source: of `sources.find`.
    name: of the dataset, without _256.
    out_dir: a TFDS folder; None is TFDS's own.
    how: 'short_side' or 'warp'; see `decoding.resize`.
    skip_errors: whether to skip images that cannot be read.
    max_error_rate: the largest fraction of a split that may be skipped.

  Raises:
    UserError: the name is invalid, or the folder holds another dataset of it.
  """
  if not re.fullmatch(r'[a-z][a-z0-9_]*', name) or name.endswith('_256'):
    raise UserError(
      f'--name={name} must be lower-case letters, digits and _, begin with a '
      'letter, and not end in _256, which is added'
    )
  attributes: dict[str, Any] = {
    'name': builders.resized_name(name, how),
    'VERSION': tfds.core.Version('1.0.0'),
    'BUILDER_CONFIGS': [],
    'source': source,
    'source_name': name,
    'how': how,
    'skip_errors': skip_errors,
    'max_error_rate': max_error_rate,
    '__doc__': FromImages.__doc__,
  }
  builder_class = type(
    'ImageDataset', (FromImages,), attributes, skip_registration=True
  )
  builder = builder_class(data_dir=out_dir)
  facts = epath.Path(builder.data_path) / dataset.RESIZED_FILE
  if facts.exists():
    there = json.loads(facts.read_text())
    if there.get('fingerprint') != fingerprint(source):
      raise UserError(
        f'{builder.data_path} holds another dataset of that name, of '
        f'{there.get("form", there["source"])}: give another --name, or remove '
        'that folder'
      )
  return builder


def fingerprint(source: sources.Source) -> str:
  """Returns a hash of the names and classes of a source's images."""
  digest = hashlib.sha256(repr(source.class_names).encode())
  for split, members in sorted(source.splits.items()):
    for line in sorted(f'{split} {one.name!r} {one.label}' for one in members):
      digest.update(line.encode())
  return digest.hexdigest()[:16]


def summary(made: Dataset) -> Iterator[str]:
  """Yields lines on classes, sizes and skipped files of a built dataset."""
  facts = made.resized or {}
  turned = (
    'upright by their EXIF orientation' if facts['upright'] else 'as stored'
  )
  yield f'  {facts["form"]}, {made.num_classes} classes, images {turned}'
  for split, counts in facts['counts'].items():
    numbers = sorted(counts.values())
    shortest, longest = facts['sides'][split]
    yield (
      f'  {split}: {numbers[0]} to {numbers[-1]} images a class, sides of '
      f'{shortest} to {longest} pixels'
    )
  for split, skipped in facts['skipped'].items():
    for name, reason in skipped[:10]:
      yield f'  skipped in {split}: {name}: {reason}'
    if len(skipped) > 10:
      yield f'  and {len(skipped) - 10} more in {split} (resized.json)'
