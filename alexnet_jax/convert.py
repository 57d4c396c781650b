"""Converts a file of weights to a workdir, or a workdir to a state dict.

SOURCE is one of these; the content of a file decides what it is, not its name:
  torchvision, caffe or caffenet           published weights, downloaded once
  the URL of a file of weights             downloaded once
  a state dict of torchvision's AlexNet    PyTorch's .pth, .pt, .ckpt, .bin or
                                           .tar, or .safetensors
  weights of Caffe's two networks          .caffemodel, .caffemodel.h5, or
                                           bvlc_alexnet.npy
  a workdir of the network torchvision     converted back to a state dict

A checkpoint may hold its state dict under any key, with prefixes such as
`module.` before the names; what was chosen is printed. Nothing that a file
holds is run.

For a file of Caffe's, its published errors need
--mean=imagenet_mean.binaryproto; Caffe's .npy form of it works, too.

A converted workdir works like any other: with `main --mode=eval`, `predict`,
`export` and `--config.init_from`.

Example:
  python -m alexnet_jax.convert torchvision runs/torchvision
  python -m alexnet_jax.convert alexnet-owt-7be5be79.pth runs/torchvision

Exit status: 0 done; 2 a file is missing or does not fit, and nothing is
written; 3 the result cannot be written.
"""

import argparse
import contextlib
import sys
from typing import Any

from etils import epath

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import absolute, check_bucket, is_url, local_file
from alexnet_jax.cli.terminal import printable

_NETWORKS = ('torchvision', 'caffe', 'caffenet')
_FOR_FILES = ('architecture', 'key', 'class_names', 'mean', 'std', 'crop_size')


def _parser() -> Parser:
  parser = Parser('convert', __doc__)
  parser.add_argument(
    'source',
    metavar='SOURCE',
    help='what to convert: a name, a URL, or a file or folder, local or gs://',
  )
  parser.add_argument(
    'dest',
    metavar='DEST',
    help='a new workdir, or a state dict to write, local or gs://',
  )
  parser.add_argument(
    '--architecture',
    choices=_NETWORKS,
    help='network of the weights (default: detected)',
  )
  parser.add_argument(
    '--key',
    help='state dict to take if the file has several, such as model_ema',
  )
  parser.add_argument(
    '--class_names',
    metavar='FILE',
    help='names of the outputs in order, one a line; or `imagenet` (default: '
    "ImageNet's for a published file, otherwise unknown)",
  )
  parser.add_argument(
    '--mean',
    metavar='FILE|R,G,B',
    help="Caffe's mean image, or a color in grey levels (default: ImageNet's "
    'mean color)',
  )
  parser.add_argument(
    '--std',
    metavar='R,G,B',
    type=_color,
    help="standard deviation in grey levels (default: the network's)",
  )
  parser.add_argument(
    '--crop_size',
    metavar='PIXELS',
    type=int,
    help="side of the input (default: the network's)",
  )
  parser.add_argument(
    '--step', default='best', help='best (default), latest or a step number'
  )
  return parser


def main(argv: list[str]) -> None:
  """Converts as the arguments say."""
  flags = _parser().parse_args(argv)
  if flags.source in _NETWORKS or is_url(flags.source):
    _to_workdir(flags, None)
    return
  source = absolute(flags.source)
  if not source.exists():
    raise UserError(
      f'no file or folder {flags.source!r} (SOURCE); published networks are '
      f'called {", ".join(_NETWORKS)}'
    )
  if source.is_dir():
    _to_state_dict(flags, source)
  else:
    _to_workdir(flags, source)


def _to_workdir(flags: argparse.Namespace, source: epath.Path | None) -> None:
  """Converts a file; None stands for published weights or a URL's."""
  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax.pretrained import conversion, published
    from alexnet_jax.runs.params import params_digest

  dest = absolute(flags.dest)
  options = conversion.Options(**_options(flags))
  # Before the download.
  conversion.check_new(dest)
  with contextlib.ExitStack() as stack:
    with_mean = options.mean is None
    if fetched := published.fetch(flags.source, with_mean):
      path = fetched.path
      stack.enter_context(published.naming(fetched))
      if with_mean:
        options = options._replace(mean=fetched.mean)
    else:
      assert source is not None
      path = stack.enter_context(local_file(source))
    converted = conversion.to_workdir(path, dest, options)
  for note in converted.notes:
    print(printable(note))
  _report(
    f'{converted.network}, {len(converted.params["fc8"]["bias"])} classes',
    params_digest(converted.params),
    dest,
  )


def _to_state_dict(flags: argparse.Namespace, source: epath.Path) -> None:
  """Converts a workdir."""
  given = [f for f in _FOR_FILES if getattr(flags, f) is not None]
  if given:
    raise UserError(f'--{given[0]} is for files, not workdirs')
  check_bucket(flags.dest, 'DEST')
  if '://' not in flags.dest and not absolute(flags.dest).parent.is_dir():
    raise UserError(f'no folder for {flags.dest} (DEST)')

  with quiet_imports():
    from alexnet_jax.pretrained import exporting, load
    from alexnet_jax.runs.params import params_digest

  dest = absolute(flags.dest)
  if dest.suffix not in exporting.STATE_DICTS:
    raise UserError(
      f'{flags.dest} (DEST) must end in one of '
      f'{", ".join(exporting.STATE_DICTS)}'
    )
  network = load(source, flags.step)
  exporting.write_state_dict(str(dest), network)
  _report(f'step {network.step}', params_digest(network.params), dest)


def _report(what: str, digest: str, dest: epath.Path) -> None:
  print(f'{what}, params_digest {digest}\nconverted: {dest}')


def _options(flags: argparse.Namespace) -> dict[str, Any]:
  """The fields of `conversion.Options`."""
  options = {name: getattr(flags, name) for name in _FOR_FILES}
  if flags.class_names is not None:
    options['class_names'] = _names(flags.class_names)
  if flags.mean is not None and _is_color(flags.mean):
    options['mean'] = _color(flags.mean)
  elif flags.mean and ',' in flags.mean and not absolute(flags.mean).exists():
    raise UserError(
      f'--mean={flags.mean} is neither R,G,B in grey levels nor a file'
    )
  if flags.std and min(flags.std) <= 0:
    raise UserError('the three numbers of --std must be positive')
  for name in ('mean', 'std'):
    levels = options[name]
    # Caffe's std is 1, and a mean of 0 is none.
    if isinstance(levels, tuple) and any(levels) and max(levels) < 1:
      raise UserError(
        f'--{name}={",".join(f"{level:g}" for level in levels)} must be in '
        'grey levels, 0 to 255: multiply it by 255'
      )
  return options


def _is_color(text: str) -> bool:
  try:
    _color(text)
  except argparse.ArgumentTypeError:
    return False
  return True


def _color(text: str) -> tuple[float, ...]:
  """Three numbers, with commas between them."""
  try:
    levels = tuple(map(float, text.split(',')))
  except ValueError:
    levels = ()
  if len(levels) != 3 or not all(abs(level) < 1e6 for level in levels):
    raise argparse.ArgumentTypeError(f'{text!r} is not R,G,B')
  return levels


def _names(path: str) -> list[str]:
  """The lines of a file, or ImageNet's synsets."""
  from alexnet_jax.data import imagenet

  if path == 'imagenet':
    return list(imagenet.synsets())
  try:
    with open(path, encoding='utf-8-sig') as file:
      return [line.strip() for line in file.read().rstrip().splitlines()]
  except (OSError, UnicodeError) as error:
    raise UserError(f'cannot read {path} (--class_names): {error}') from error


if __name__ == '__main__':
  run(main, sys.argv[1:])
