"""oneDNN's operations, which PyTorch and TensorFlow also use on CPU.

jaxlib for Linux on x86 contains oneDNN, and XLA can run it, but the XLA passes
that would use it are switched off there. This module calls it by name, as those
passes would. The calls are internal to XLA and may change, so they are tried
before they are used.

Run as a program, it tries the calls for the dtypes in its arguments, and prints
those whose numbers are right.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

_enabled = True


def is_usable(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
  """Returns whether this module's operations can be called for `x` on a CPU.

  They cannot be called

    with a jaxlib that does not have them (`dtypes`);
    for bfloat16 on a CPU without bfloat16 instructions (`cli/machine.py`);
    with several CPU devices in one process, which is untested;
    for a batch of unknown size, as in exports, or of no images;
    with a compilation cache: XLA cannot write a program that calls oneDNN to a
      file. Use `with disabled(): ...` before you write one yourself
      (`jax.export`, `serialize_executable`).

  Args:
    x: any shape and dtype.
  """
  return (
    _enabled
    and x.dtype in (jnp.float32, jnp.bfloat16)
    and all(isinstance(size, int) and size for size in x.shape)
    and not jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    and jax.default_backend() == 'cpu'
    and jax.local_device_count() == 1
    and x.dtype.name in dtypes()
  )


def bfloat16_is_slow() -> bool:
  """Returns whether bfloat16 is computed in float32, which is no faster."""
  return jax.default_backend() == 'cpu' and not is_usable(
    jax.ShapeDtypeStruct((), jnp.bfloat16)
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
def dtypes() -> frozenset[str]:
  """Returns the dtypes for which the installed jaxlib computes right numbers.

  Tries the calls in a process of its own, because XLA ends a process that calls
  oneDNN in a way that it does not know. Keeps the answer in the user's cache
  folder.
  """
  # Imported here, as the other process may not find this package.
  from alexnet_jax.cli import machine

  names = ('float32', 'bfloat16')[: 1 + machine.has_bfloat16()]
  try:
    library = pathlib.Path(jaxlib.__file__)
    home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    answer = pathlib.Path(home, 'alexnet_jax') / (
      f'onednn-{jaxlib.__version__}-{platform.machine()}-'
      f'{"-".join(names)}-{library.stat().st_mtime_ns}-{_own_digest()}'
    )
    if answer.exists() and (text := answer.read_text()).startswith('right:'):
      return frozenset(text.split()[1:])
  except (OSError, RuntimeError):  # There is no home.
    answer = None
  try:
    done = subprocess.run(
      # -P: imports nothing from this folder.
      [sys.executable, '-P', __file__, *names],
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_ENABLE_COMPILATION_CACHE': 'false',
        'XLA_FLAGS': '',
      },
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return frozenset()
  tried, *right = done.stdout.split() or ['']
  if answer and tried:  # Else it did not come as far as the calls.
    with contextlib.suppress(OSError):
      answer.parent.mkdir(parents=True, exist_ok=True)
      answer.write_text(' '.join(['right:', *right]))
  return frozenset(right)


def _own_digest() -> str:
  """Returns a digest of this file: other calls need another trial."""
  return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()[:8]


def _is_right(dtype: str) -> bool:
  """Compares operations on an image of 8 pixels with XLA's own."""
  rng = np.random.default_rng(0)
  # Small integers: every result is exact in bfloat16 too.
  x, g = (jnp.asarray(rng.integers(-2, 3, (1, 2, 4, c)), dtype) for c in (4, 6))
  a, b = x.reshape(8, 4), g.reshape(8, 6)
  products = (
    (matmul(a.T, b, dtype), a.T @ b),
    (matmul(a, b, 'float32', transpose_a=True), a.T @ b),
    (matmul(a, b[:4].T, dtype, transpose_b=True), a @ b[:4]),
  )
  convolutions = []
  for stride, padding, groups, dilation in (
    (1, (1, 1), 1, (1, 1)),
    (2, (0, 1), 2, (1, 1)),
    (1, (1, 0), 1, (1, 2)),
  ):
    shape = 2, 2, 4 // groups, 6
    kernel = jnp.asarray(rng.integers(-2, 3, shape), dtype)
    expected = jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      (padding, padding),
      rhs_dilation=dilation,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )
    bias = jnp.arange(6, dtype='float32')
    for result in {dtype, 'float32'}:
      arguments = x, kernel, stride, padding, groups, dilation, result
      convolutions += [
        (conv2d(*arguments), expected),
        (conv2d(*arguments, bias), expected + bias),
      ]
  return all(
    np.array_equal(found, expected)
    for found, expected in (*products, *convolutions)
  )


def matmul(
  a: jax.Array,
  b: jax.Array,
  dtype: Any,
  *,
  transpose_a: bool = False,
  transpose_b: bool = False,
) -> jax.Array:
  """Computes a matrix product, summed in float32; it has no gradient rule.

  Args:
    a: `[M, K]`, or `[K, M]` with `transpose_a`; float32 or bfloat16.
    b: `[K, N]`, or `[N, K]` with `transpose_b`; the dtype of `a`.
    dtype: of the result, float32 or the dtype of `a`.
    transpose_a: whether to transpose `a`.
    transpose_b: whether to transpose `b`.

  Returns:
    `[M, N]`.
  """
  _check_dtypes(a, b, dtype)
  rows, columns = a.shape[int(transpose_a)], b.shape[int(not transpose_b)]
  assert a.shape[int(not transpose_a)] == b.shape[int(transpose_b)]
  # XLA's OneDnnMatMulConfig (xla/service/cpu/onednn_config.proto).
  config = {'transpose_a': transpose_a, 'transpose_b': transpose_b}
  return _call(
    '__onednn$matmul',
    {'onednn_matmul_config': config},
    jax.ShapeDtypeStruct((rows, columns), dtype),
    a,
    b,
  )


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  padding: tuple[int, int],
  groups: int = 1,
  dilation: tuple[int, int] = (1, 1),
  dtype: Any = None,
  bias: jax.Array | None = None,
) -> jax.Array:
  """Computes a convolution, summed in float32; it has no gradient rule.

  Args:
    x: `[N, H, W, in]`, float32 or bfloat16.
    kernel: `[kh, kw, in / groups, out]`, with the dtype of `x`.
    stride: step in both directions.
    padding: zeros before and after the pixels, in both directions.
    groups: number of parts that inputs and outputs are divided into.
    dilation: steps between the kernel's rows and between its columns.
    dtype: of the result, float32 or the dtype of `x`, which is the default.
    bias: `[out]` float32, added before the result is rounded.

  Returns:
    `[N, H', W', out]`.
  """
  kh, kw, inputs, outputs = kernel.shape
  dtype = dtype or x.dtype
  _check_dtypes(x, kernel, dtype)
  assert bias is None or bias.dtype == jnp.float32, bias
  assert x.shape[-1] == inputs * groups, (x.shape, kernel.shape)
  assert min(padding) >= 0, padding
  size = [
    (n + sum(padding) - (k - 1) * d - 1) // stride + 1
    for n, k, d in zip(x.shape[1:3], (kh, kw), dilation, strict=True)
  ]
  # XLA's OneDnnConvolutionConfig.
  images = {'batch_dim': 0, 'feature_dim': 3, 'spatial_dims': [1, 2]}
  kernels = {
    'input_feature_dim': 2,
    'output_feature_dim': 3,
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
      'window_dilations': list(dilation),
    },
    'feature_groups': groups,
    'fusions': {'ops': [] if bias is None else ['BIAS']},
  }
  return _call(
    '__onednn$convolution',
    {'onednn_conv_config': config},
    jax.ShapeDtypeStruct((x.shape[0], *size, outputs), dtype),
    x,
    kernel,
    *([] if bias is None else [bias]),
  )


def _check_dtypes(a, b, result):
  """Checks what XLA would end the process for."""
  assert a.dtype == b.dtype, (a.dtype, b.dtype)
  assert jnp.dtype(result) in (jnp.float32, a.dtype), (result, a.dtype)


def _call(name, config, result, *operands):
  return jax.ffi.ffi_call(
    name,
    result,
    vmap_method='sequential',
    custom_call_api_version=2,
    legacy_backend_config=json.dumps(config),
  )(*operands)


if __name__ == '__main__':
  print('tried:', flush=True)
  for name in sys.argv[1:]:
    if _is_right(name):
      print(name, flush=True)
