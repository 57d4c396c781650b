"""Converts published weights to a workdir, or a workdir to a state dict.

SOURCE is one of:
  a .pth, .pt, .tar or .safetensors file   a torchvision state dict
  a .caffemodel file                       one of Caffe's two networks
  a workdir of the network torchvision     converted back to a state dict

The published errors of Caffe's networks need --mean=imagenet_mean.binaryproto;
Caffe's .npy form of it works, too.

A converted workdir works like any other: with `main --mode=eval`, `predict`,
`export` and `--config.init_from`. docs/networks.md lists the published files.

Example:
  python -m alexnet_jax.convert alexnet-owt-7be5be79.pth runs/torchvision

Exit status: 0 done; 2 a file is missing or does not fit, and nothing is
written; 3 the result cannot be written.
"""

import sys

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute, check_bucket, local_file


def main(argv: list[str]) -> None:
  """Converts as the arguments say."""
  parser = Parser('convert', __doc__)
  parser.add_argument(
    'source', metavar='SOURCE', help='what to convert, local or gs://'
  )
  parser.add_argument(
    'dest',
    metavar='DEST',
    help='a new workdir, or a state dict to write, local or gs://',
  )
  parser.add_argument(
    '--architecture',
    choices=('caffe', 'caffenet', 'torchvision'),
    help='network of the weights (default: detected)',
  )
  parser.add_argument(
    '--mean', metavar='FILE', help="Caffe's mean image (default: a mean color)"
  )
  parser.add_argument(
    '--step', default='best', help='best (default), latest or a step number'
  )
  flags = parser.parse_args(argv)
  source = absolute(flags.source)
  if not source.exists():
    raise UserError(f'no file or folder {flags.source!r} (SOURCE)')
  if source.is_dir():
    if flags.mean or flags.architecture:
      raise UserError('--mean and --architecture are for files, not workdirs')
    check_bucket(flags.dest, 'DEST')
    if '://' not in flags.dest and not absolute(flags.dest).parent.is_dir():
      raise UserError(f'no folder for {flags.dest} (DEST)')

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax.data.imagenet import CAFFE_MEAN
    from alexnet_jax.pretrained import conversion, torchvision
    from alexnet_jax.runs.params import params_digest

  dest = absolute(flags.dest)
  suffixes = ', '.join(torchvision.SUFFIXES)
  if source.is_dir():
    if dest.suffix not in torchvision.SUFFIXES:
      raise UserError(f'{flags.dest} (DEST) must end in one of {suffixes}')
    network = torchvision.write(str(dest), source, flags.step)
    params, what = network.params, f'step {network.step}'
  elif source.suffix in (*torchvision.SUFFIXES, '.tar', '.caffemodel'):
    with local_file(source) as path:
      name, params = conversion.to_workdir(
        path, dest, flags.architecture, flags.mean
      )
    what = f'{name}, {len(params["fc8"]["bias"])} classes'
    if 'caffe' in name and not flags.mean:
      print(
        f'without --mean, the mean color {CAFFE_MEAN} is subtracted; the '
        'published errors need the mean image (imagenet_mean.binaryproto)'
      )
  else:
    raise UserError(
      f'{flags.source} (SOURCE) must be a workdir, or end in one of '
      f'.caffemodel, .tar, {suffixes}'
    )
  print(f'{what}, params_digest {params_digest(params)}\nconverted: {dest}')


if __name__ == '__main__':
  run(main, sys.argv[1:])
