"""A network as one file: `python -m alexnet_jax.export --workdir=DIR FILE`.

FILE.stablehlo is a serialized `jax.export` of any batch size, which JAX alone
runs, with no code of this project:

  import jax, jax.export, pathlib
  file = pathlib.Path('FILE.stablehlo').read_bytes()
  f = jax.export.deserialize(bytearray(file))
  logits = f.call(images)

FILE.onnx is for ONNX Runtime and others; it needs jax2onnx, which wants older
packages than ours: `make test-onnx` makes a .venv-onnx of its own for it.

Either takes `[N, H, W, 3]` float32 pixels as the workdir's preprocessing.json
has them, and returns `[N, num_classes]` float32 logits.

Exit status: 0 done; 2 what is asked for does not go; 3 storage.
"""

import logging
import pathlib
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.export
import jax.numpy as jnp

from alexnet_jax import pretrained
from alexnet_jax.cli.command import Parser, run
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def logits_fn(
  network: pretrained.Pretrained,
) -> Callable[[jax.Array], Any]:
  """Pixels to logits, the parameters within."""
  params = jax.device_put(network.params)

  def logits(images: jax.Array) -> Any:
    return network.model.apply({'params': params}, images)

  return logits


def to_stablehlo(network: pretrained.Pretrained) -> bytes:
  """A serialized `jax.export.Exported` of any batch, for CPU, GPU and TPU."""
  size = network.preprocessing.crop_size
  (batch,) = jax.export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
  exported = jax.export.export(
    jax.jit(logits_fn(network)), platforms=_PLATFORMS
  )(images)
  return bytes(exported.serialize())


def to_onnx(network: pretrained.Pretrained) -> bytes:
  """A serialized ONNX model of any batch.

  Raises:
    UserError: jax2onnx is not installed.
  """
  try:
    import jax2onnx
  except ImportError as error:
    raise UserError(
      'ONNX needs jax2onnx, which does not go with our packages: make '
      f'.venv-onnx, then .venv-onnx/bin/{" ".join(_COMMAND)} ...'
    ) from error
  size = network.preprocessing.crop_size
  # Shapes whose type it does not know, once an operation: nothing to act on.
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)
  # It knows no choice by platform: the plain operations are exported.
  with mock.patch('jax.lax.platform_dependent', _by_default):
    model = jax2onnx.to_onnx(
      logits_fn(network), [('batch', size, size, 3)], model_name='alexnet'
    )
  return model.SerializeToString()


def _by_default(*args, default, **_):
  return default(*args)


_FORMATS = {'.stablehlo': to_stablehlo, '.onnx': to_onnx}
_COMMAND = ('python', '-m', 'alexnet_jax.export')


def main(argv: list[str]) -> None:
  """Exports as the arguments say."""
  parser = Parser('export', __doc__)
  parser.add_argument('file', metavar='FILE')
  parser.add_argument('--workdir', required=True, help='local or gs://')
  parser.add_argument(
    '--step', default='best', help='best, latest, or the number of a step'
  )
  flags = parser.parse_args(argv)
  path = pathlib.Path(flags.file)
  if path.suffix not in _FORMATS:
    raise UserError(
      f'{flags.file}: a name that ends in {" or ".join(_FORMATS)} needed'
    )
  if not path.absolute().parent.is_dir():
    raise UserError(f'no folder for {flags.file}')
  network = pretrained.load(flags.workdir, flags.step)
  exported = _FORMATS[path.suffix](network)
  write_file(flags.file, lambda file: file.write(exported))
  size = network.preprocessing.crop_size
  print(
    f'{network.model.architecture.name}, step {network.step}: float32 '
    f'[batch, {size}, {size}, 3] -> [batch, {network.model.num_classes}]\n'
    f'exported: {flags.file} ({len(exported) / 1e6:,.0f} MB)'
  )


if __name__ == '__main__':
  run(main, sys.argv[1:])
