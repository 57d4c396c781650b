"""Downloads and prepares a dataset of TFDS.

It does what TFDS's own command, tfds build, does; that command does not start
without packages that TFDS does not install.

ImageNet must be downloaded by hand: put ILSVRC2012_img_train.tar and
ILSVRC2012_img_val.tar into the folder of --manual_dir. Prepared, they take
another 150 GB. A dataset that exists is not prepared again. After an
interruption, run the same command again.

Example:
  python -m alexnet_jax.data.prepare cifar10
  python -m alexnet_jax.data.prepare imagenet2012 --data_dir=DIR \\
    --manual_dir=DIR/downloads/manual

Exit status: 0 done; 2 there is no such dataset, or a file is missing; 3 it
cannot be downloaded or written.
"""

import sys

from alexnet_jax.cli.command import Parser, quiet_imports, run


def main(argv: list[str]) -> None:
  """Prepares a dataset as the arguments say, unless it exists."""
  parser = Parser('data.prepare', __doc__)
  parser.add_argument(
    'name',
    metavar='NAME[/CONFIG][:VERSION]',
    help='a dataset of TFDS, such as cifar10 or imagenette/320px-v2',
  )
  parser.add_argument(
    '--data_dir',
    metavar='DIR',
    help="folder to prepare in (default: TFDS's own, TFDS_DATA_DIR)",
  )
  parser.add_argument(
    '--manual_dir',
    metavar='DIR',
    help='folder of the files that you downloaded (default: '
    'downloads/manual in the folder of --data_dir)',
  )
  flags = parser.parse_args(argv)

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    import tensorflow  # noqa: F401

    from alexnet_jax.data import builders

  builder = builders.find_builder(flags.name, flags.data_dir)
  state = 'exists already'
  if not builder.info.splits:
    state = 'is prepared'
    builders.prepare(builder, flags.manual_dir)
  print(f'{builder.info.full_name} {state}: {builder.data_path}')
  for name, split in builder.info.splits.items():
    print(f'  {name}: {split.num_examples:,} examples')


if __name__ == '__main__':
  run(main, sys.argv[1:])
