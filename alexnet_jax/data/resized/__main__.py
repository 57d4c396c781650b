"""Builds the paper's 256 x 256 images as a dataset, to read them faster.

"We rescaled the image such that the shorter side was of length 256, and then
cropped out the central 256x256 patch" (section 2). Doing this once, before
training, lets a host deliver about 4 times as many images a second
(docs/input.md).

--source is a prepared TFDS dataset, or a folder with

  DIR/CLASS/*, images in folders of classes; a share of each class becomes the
    validation split
  DIR/train/CLASS/* and DIR/val/CLASS/*, and maybe DIR/test/CLASS/*
  ImageNet as Kaggle's zip has it: DIR/ILSVRC/Data/CLS-LOC, LOC_val_solution.csv
  ImageNet's tars: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar
  parquet files of Hugging Face, with image and label
  WebDataset's tars, with KEY.jpg and KEY.cls

The dataset is called NAME_256, or with --resize=warp NAME_256_warp. Of a TFDS
dataset it has the splits, labels, keys, order and number of files, so that a
seed gives the same crops and flips. Images are JPEGs of quality 95. The mean
image and the RGB principal components of each split are stored with them.

Images in folders and in WebDataset's tars are turned upright by their EXIF
orientation. Of animations the first frame is taken; transparent images are put
on white. Hidden files are passed over.

It runs on Apache Beam (make venv EXTRAS=beam): on this machine, or on Dataflow,
Flink or Spark with --beam_pipeline_options, for which docs/input.md has
examples. A dataset that exists is not built again. After an interrupted build,
the same command removes its leftovers and starts over.

Example:
  python -m alexnet_jax.data.resized --source=imagenet2012:5.1.0 --data_dir=DIR
  python -m alexnet_jax.main --config=configs/imagenet.py \\
    --config.data.name=imagenet2012_256 --config.data.data_dir=DIR \\
    --config.data.finish=device
  python -m alexnet_jax.data.resized --source=photos --name=photos \\
    --data_dir=DIR

Exit status: 0 done; 2 an argument is wrong, or an image or a file cannot be
read; 3 the dataset cannot be written.
"""

import os
import sys

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError


def main(argv: list[str]) -> None:
  """Builds a dataset as the arguments say, unless it exists."""
  parser = Parser('data.resized', __doc__)
  parser.add_argument(
    '--source',
    required=True,
    metavar='SOURCE',
    help='a prepared TFDS dataset, NAME[/CONFIG][:VERSION], or a folder',
  )
  parser.add_argument(
    '--name', metavar='NAME', help='name of the dataset, if SOURCE is a folder'
  )
  parser.add_argument(
    '--data_dir',
    metavar='DIR',
    help="folder of a TFDS dataset (default: TFDS's own, TFDS_DATA_DIR)",
  )
  parser.add_argument(
    '--out_dir',
    metavar='DIR',
    help='folder to build in, local or gs:// (default: --data_dir)',
  )
  parser.add_argument(
    '--resize',
    choices=('short_side', 'warp'),
    default='short_side',
    help='short_side: the shorter side to 256, then the central square (the '
    'paper); warp: both sides to 256 (Caffe) (default: short_side)',
  )
  parser.add_argument(
    '--val_share',
    type=float,
    default=0.1,
    metavar='FRACTION',
    help='share of each class for validation, if there is no such split '
    '(default: 0.1)',
  )
  parser.add_argument(
    '--class_names',
    metavar='FILE',
    help='names of the classes, one a line, for files that have only numbers',
  )
  parser.add_argument(
    '--on_error',
    choices=('stop', 'skip'),
    default='stop',
    help='what to do if an image cannot be decoded (default: stop)',
  )
  parser.add_argument(
    '--max_error_rate',
    type=float,
    metavar='FRACTION',
    help='largest fraction of a split that may be skipped (default: 0.001 of a '
    'TFDS dataset, any of a folder)',
  )
  parser.add_argument(
    '--beam_pipeline_options',
    default='',
    metavar='NAME=VALUE,...',
    help="Beam's options (default: run on this machine)",
  )
  flags = parser.parse_args(argv)
  for option in ('max_error_rate', 'val_share'):
    value = getattr(flags, option)
    if value is not None and not 0 <= value <= 1:
      parser.error(f'--{option}={value} must be a fraction, 0 to 1')
  is_folder = os.path.isdir(flags.source)
  if is_folder and not flags.name:
    parser.error(f'{flags.source} is a folder: name its dataset with --name')
  if flags.name and not is_folder:
    raise UserError(f'there is no folder {flags.source} (--source)')

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax.data.dataset import open_dataset
    from alexnet_jax.data.resized import image_builder, sources
    from alexnet_jax.data.resized.builder import build, resized_builder, summary

  how = flags.resize, flags.on_error == 'skip'
  if is_folder:
    names = _lines(flags.class_names) if flags.class_names else ()
    builder = image_builder.image_builder(
      sources.find(flags.source, flags.val_share, names),
      flags.name,
      flags.out_dir or flags.data_dir,
      *how,
      1.0 if flags.max_error_rate is None else flags.max_error_rate,
    )
  else:
    source = open_dataset(flags.source, flags.data_dir)
    builder = resized_builder(
      source,
      flags.out_dir or str(source.data_dir),
      *how,
      0.001 if flags.max_error_rate is None else flags.max_error_rate,
    )
  state = 'exists already' if builder.data_path.exists() else 'is built'
  made = build(builder, flags.beam_pipeline_options)
  print(f'{made.full_name} {state}: {builder.data_path}')
  print(*summary(made), sep='\n')
  if is_folder:
    print(*image_builder.summary(made), sep='\n')


def _lines(path: str) -> list[str]:
  try:
    with open(path, encoding='utf-8') as file:
      return [line.strip() for line in file if line.strip()]
  except (OSError, UnicodeError) as error:
    raise UserError(f'cannot read {path} (--class_names): {error}') from error


if __name__ == '__main__':
  run(main, sys.argv[1:])
