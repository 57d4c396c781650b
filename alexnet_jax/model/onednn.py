"""oneDNN's convolution, which PyTorch and TensorFlow also use on CPU.

jaxlib for Linux on x86 contains oneDNN, and XLA can run it, but the XLA pass
that would use it for convolutions is switched off there. This module calls it
by name, as that pass would. The call is internal to XLA and may change, so it
is tried before it is used.

Run as a program, it tries the call: exit status 0 if the numbers are right.
"""

import contextlib
import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

_enabled = True


def is_usable(x: jax.Array) -> bool:
  """Returns whether `conv2d` can be called for `x` on a CPU.

  It cannot be called

    with a jaxlib that does not have it (`works`);
    with several CPU devices in one process, which is untested;
    for a batch of unknown size, as in exports;
    with a compilation cache: XLA cannot write a program that calls oneDNN to a
      file. Use `with disabled(): ...` before you write one yourself
      (`jax.export`, `serialize_executable`).

  Args:
    x: `[N, H, W, in]`.
  """
  return (
    _enabled
    and x.dtype == jnp.float32
    and all(isinstance(size, int) for size in x.shape)
    and not jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    and jax.default_backend() == 'cpu'
    and jax.local_device_count() == 1
    and works()
  )


@contextlib.contextmanager
def disabled() -> Iterator[None]:
  """Uses XLA's convolutions in what is traced within this context."""
  global _enabled
  before, _enabled = _enabled, False
  try:
    yield
  finally:
    _enabled = before


@functools.cache
def works() -> bool:
  """Returns whether the installed jaxlib has the call and computes it right.

  Tries it in a process of its own, because XLA ends a process that calls oneDNN
  in a way that it does not know. Keeps the answer in the user's cache folder.
  """
  try:
    library = pathlib.Path(jaxlib.__file__)
    home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    answer = pathlib.Path(home, 'alexnet_jax') / (
      f'onednn-{jaxlib.__version__}-{platform.machine()}-'
      f'{library.stat().st_mtime_ns}'
    )
    if answer.exists() and (text := answer.read_text()) in ('True', 'False'):
      return text == 'True'
  except (OSError, RuntimeError):  # There is no home.
    answer = None
  try:
    done = subprocess.run(
      # -P: imports nothing from this folder.
      [sys.executable, '-P', __file__],
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_ENABLE_COMPILATION_CACHE': 'false',
        'XLA_FLAGS': '',
      },
      stdin=subprocess.DEVNULL,
      capture_output=True,
      timeout=120,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return False
  right = done.returncode == 0
  if answer and done.stdout:  # Else it did not come as far as the call.
    with contextlib.suppress(OSError):
      answer.parent.mkdir(parents=True, exist_ok=True)
      answer.write_text(str(right))
  return right


def _is_right() -> bool:
  """Compares convolutions of an image of 8 pixels with XLA's own."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(1, 2, 4, 3)), jnp.float32)
  for stride, padding, transposed in (
    (1, (1, 1), False),
    (2, (0, 1), False),
    (1, (1, 1), True),
  ):
    kernel = jnp.asarray(rng.normal(size=(2, 2, 3, 3)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      (padding, padding),
      dimension_numbers=('NHWC', 'HWOI' if transposed else 'HWIO', 'NHWC'),
    )
    found = conv2d(x, kernel, stride, padding, transposed)
    if not np.allclose(found, expected, atol=1e-5):
      return False
  return True


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  padding: tuple[int, int],
  transposed: bool = False,
) -> jax.Array:
  """Computes a convolution with one group; it has no gradient rule.

  Args:
    x: `[N, H, W, in]` float32.
    kernel: `[kh, kw, in, out]` float32.
    stride: step in both directions.
    padding: zeros before and after the pixels, in both directions.
    transposed: whether the kernel is `[kh, kw, out, in]`.

  Returns:
    `[N, H', W', out]` float32.
  """
  kh, kw, inputs, outputs = kernel.shape
  if transposed:
    inputs, outputs = outputs, inputs
  assert x.shape[-1] == inputs, (x.shape, kernel.shape)
  assert min(padding) >= 0, padding
  size = [
    (n + sum(padding) - k) // stride + 1
    for n, k in zip(x.shape[1:3], (kh, kw), strict=True)
  ]
  # XLA's OneDnnConvolutionConfig (xla/service/cpu/onednn_config.proto).
  images = {'batch_dim': 0, 'feature_dim': 3, 'spatial_dims': [1, 2]}
  kernels = {
    'input_feature_dim': 3 if transposed else 2,
    'output_feature_dim': 2 if transposed else 3,
    'spatial_dims': [0, 1],
  }
  config = {
    'dims': 4,
    'input': {'dims': 4, 'data': images},
    'kernel': {'dims': 4, 'filter': kernels},
    'output': {'dims': 4, 'data': images},
    'window': {
      'size': [kh, kw],
      'pad_left': [padding[0]] * 2,
      'pad_right': [padding[1]] * 2,
      'strides': [stride] * 2,
      'window_dilations': [1, 1],
    },
    'feature_groups': 1,
  }
  return jax.ffi.ffi_call(
    '__onednn$convolution',
    jax.ShapeDtypeStruct((x.shape[0], *size, outputs), x.dtype),
    vmap_method='sequential',
    custom_call_api_version=2,
    legacy_backend_config=json.dumps({'onednn_conv_config': config}),
  )(x, kernel)


if __name__ == '__main__':
  print('trying', flush=True)
  sys.exit(not _is_right())
