"""Builds the paper's 256 x 256 images as a dataset, to read them faster.

"We rescaled the image such that the shorter side was of length 256, and then
cropped out the central 256x256 patch" (section 2). Doing this once, before
training, lets a host deliver about 4 times as many images a second
(docs/input.md).

The dataset is called NAME_256, or with --resize=warp NAME_256_warp. It has the
splits, labels, keys, order and number of files of its source, so that a seed
gives the same crops and flips. Images are JPEGs of quality 95. The mean image
and the RGB principal components of each split are stored with them.

It runs on Apache Beam (make venv EXTRAS=beam): on this machine, or on Dataflow,
Flink or Spark with --beam_pipeline_options, for which docs/input.md has
examples. A dataset that exists is not built again. After an interrupted build,
the same command removes its leftovers and starts over.

Example:
  python -m alexnet_jax.data.resized --source=imagenet2012:5.1.0 --data_dir=DIR
  python -m alexnet_jax.main --config=configs/imagenet.py \\
    --config.data.name=imagenet2012_256 --config.data.data_dir=DIR \\
    --config.data.finish=device

Exit status: 0 done; 2 an argument is wrong, or an image or a file cannot be
read; 3 the dataset cannot be written.
"""

import sys

from alexnet_jax.cli.command import Parser, quiet_imports, run


def main(argv: list[str]) -> None:
  """Builds a dataset as the arguments say, unless it exists."""
  parser = Parser('data.resized', __doc__)
  parser.add_argument(
    '--source',
    required=True,
    metavar='NAME[/CONFIG][:VERSION]',
    help='a prepared TFDS dataset',
  )
  parser.add_argument(
    '--data_dir',
    metavar='DIR',
    help="folder of the source (default: TFDS's own, TFDS_DATA_DIR)",
  )
  parser.add_argument(
    '--out_dir',
    metavar='DIR',
    help='folder to build in, local or gs:// (default: that of the source)',
  )
  parser.add_argument(
    '--resize',
    choices=('short_side', 'warp'),
    default='short_side',
    help='short_side: the shorter side to 256, then the central square (the '
    'paper); warp: both sides to 256 (Caffe) (default: short_side)',
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
    default=0.001,
    metavar='FRACTION',
    help='largest fraction of a split that may be skipped (default: 0.001)',
  )
  parser.add_argument(
    '--beam_pipeline_options',
    default='',
    metavar='NAME=VALUE,...',
    help="Beam's options (default: run on this machine)",
  )
  flags = parser.parse_args(argv)
  if not 0 <= flags.max_error_rate <= 1:
    parser.error(
      f'--max_error_rate={flags.max_error_rate} must be a fraction, 0 to 1'
    )

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax.data.dataset import open_dataset
    from alexnet_jax.data.resized.builder import build, resized_builder, summary

  source = open_dataset(flags.source, flags.data_dir)
  builder = resized_builder(
    source,
    flags.out_dir or str(source.data_dir),
    flags.resize,
    flags.on_error == 'skip',
    flags.max_error_rate,
  )
  state = 'exists already' if builder.data_path.exists() else 'is built'
  made = build(builder, flags.beam_pipeline_options)
  print(f'{made.full_name} {state}: {builder.data_path}')
  print(*summary(made), sep='\n')


if __name__ == '__main__':
  run(main, sys.argv[1:])
