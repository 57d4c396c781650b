"""Exports a workdir's network, parameters included, as one file.

FILE.stablehlo runs with JAX alone:

  import jax, jax.export, pathlib
  file = pathlib.Path('FILE.stablehlo').read_bytes()
  network = jax.export.deserialize(bytearray(file))
  logits = network.call(images)

FILE.onnx runs with ONNX Runtime and others. Exporting it needs jax2onnx, which
requires older packages than this project: `make test-onnx` installs it in a
separate environment, .venv-onnx.

Both take float32 images [N, H, W, 3], normalized as preprocessing.json in the
workdir says, and return float32 logits [N, num_classes], for any N.

Example:
  python -m alexnet_jax.export net.stablehlo --workdir=runs/torchvision

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
    '--workdir', metavar='DIR', required=True, help='a run or converted weights'
  )
  parser.add_argument(
    '--step', default='best', help='best (default), latest or a step number'
  )
  flags = parser.parse_args(argv)
  path = pathlib.Path(flags.file)
  if path.suffix not in ('.stablehlo', '.onnx'):
    raise UserError(f'{flags.file} (FILE) must end in .stablehlo or .onnx')
  if not path.absolute().parent.is_dir():
    raise UserError(f'no folder for {flags.file} (FILE)')

  # These take seconds to import: --help and mistakes should not wait for them.
  with quiet_imports():
    from alexnet_jax import pretrained
    from alexnet_jax.pretrained.exporting import FORMATS

  network = pretrained.load(flags.workdir, flags.step)
  exported = FORMATS[path.suffix](network)
  write_file(flags.file, lambda file: file.write(exported))
  size = network.preprocessing.crop_size
  print(
    f'{network.model.architecture.name}, step {network.step}: float32 '
    f'[batch, {size}, {size}, 3] -> [batch, {network.model.num_classes}]\n'
    f'exported: {flags.file} ({len(exported) / 1e6:,.0f} MB)'
  )


if __name__ == '__main__':
  run(main, sys.argv[1:])
