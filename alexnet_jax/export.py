"""Exports a workdir's network, parameters included, as one file.

FILE.stablehlo runs with JAX alone:

  import jax, jax.export, pathlib
  file = pathlib.Path('FILE.stablehlo').read_bytes()
  network = jax.export.deserialize(bytearray(file))
  logits = network.call(images)

FILE.onnx (opset 17) runs with ONNX Runtime and others. Exporting it needs the
package onnx: make venv EXTRAS=onnx

  import onnxruntime
  network = onnxruntime.InferenceSession('FILE.onnx')
  logits, probabilities = network.run(None, {'images': images})

Both take float32 images [N, H, W, 3], normalized by the mean and std that are
printed, and return float32 logits [N, num_classes], for any N. An ONNX
file also returns their softmax, and takes [N, 3, H, W] with --layout=NCHW. It
computes in float32, even if the run did in bfloat16.

Example:
  python -m alexnet_jax.export net.stablehlo --workdir=runs/torchvision
  python -m alexnet_jax.export net.onnx --workdir=runs/torchvision

Exit status: 0 done; 2 an argument is wrong; 3 a file cannot be read or written.
"""

import pathlib
import sys

from alexnet_jax.cli.command import Parser, quiet_imports, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file


def main(argv: list[str]) -> None:
  """Exports as the arguments say."""
  parser = Parser('export', __doc__)
  parser.add_argument(
    'file', metavar='FILE', help='the new file: .stablehlo or .onnx'
  )
  parser.add_argument(
    '--workdir',
    metavar='DIR',
    required=True,
    help='a run or converted weights; torchvision, caffe or caffenet; a URL or '
    'a file of weights',
  )
  parser.add_argument(
    '--step', default='best', help='best (default), latest or a step number'
  )
  parser.add_argument(
    '--layout',
    choices=('NHWC', 'NCHW'),
    default='NHWC',
    help="of an ONNX file's images: NHWC (default) or NCHW",
  )
  flags = parser.parse_args(argv)
  path = pathlib.Path(flags.file)
  if path.suffix not in ('.stablehlo', '.onnx'):
    raise UserError(f'{flags.file} (FILE) must end in .stablehlo or .onnx')
  if flags.layout == 'NCHW' and path.suffix != '.onnx':
    raise UserError('--layout=NCHW is for .onnx; a .stablehlo takes NHWC')
  if not path.absolute().parent.is_dir():
    raise UserError(f'no folder for {flags.file} (FILE)')

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax import pretrained

    export = _exporter(path.suffix, flags.layout)

  network = pretrained.load(flags.workdir, flags.step)
  exported = export(network)
  write_file(flags.file, lambda file: file.write(exported))
  size = network.preprocessing.crop_size
  shape = (
    f'3, {size}, {size}' if flags.layout == 'NCHW' else f'{size}, {size}, 3'
  )
  print(
    f'{network.model.architecture.name}, step {network.step}: float32 '
    f'[batch, {shape}] -> [batch, {network.model.num_classes}]\n'
    f'images: {_normalization(network.preprocessing)}\n'
    f'exported: {flags.file} ({len(exported) / 1e6:,.0f} MB)'
  )


def _normalization(p) -> str:
  """Returns how pixels become the file's input."""
  mean = 'the mean image (load(...).preprocessing.mean_of_crops())'
  if p.mean.ndim == 1:
    mean = str(p.mean.round(3).tolist())
  return f'RGB, 0 to 255, minus {mean}, divided by {p.std.round(3).tolist()}'


def _exporter(suffix, layout):
  """Returns the function from a network to a file's bytes."""
  if suffix == '.stablehlo':
    from alexnet_jax.pretrained.exporting import to_stablehlo

    return to_stablehlo
  try:
    from alexnet_jax.pretrained.onnx_export import to_onnx
  except ImportError as error:
    raise UserError(
      'onnx is required but not installed: make venv EXTRAS=onnx, or pip '
      'install onnx'
    ) from error
  return lambda network: to_onnx(network, layout)


if __name__ == '__main__':
  run(main, sys.argv[1:])
