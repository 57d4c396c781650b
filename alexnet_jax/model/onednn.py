"""oneDNN's convolution, which PyTorch and TensorFlow also use on CPU.

jaxlib for Linux on x86 contains oneDNN, and XLA can run it, but the XLA pass
that would use it for convolutions is switched off there. This module calls it
by name, as that pass would. The call is internal to XLA and may change, so it
is made only with the version of jaxlib that it was tested with.
"""

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# Whether this is the tested version and platform.
_known = (
  importlib.metadata.version('jaxlib') == '0.10.2'
  and platform.system() == 'Linux'
  and platform.machine() == 'x86_64'
)


def is_usable(x: jax.Array) -> bool:
  """Returns whether `conv2d` can be called for `x` on a CPU.

  It cannot be called

    with several CPU devices in one process, which is untested;
    for a batch of unknown size, as in exports;
    with a compilation cache: XLA cannot write a program that calls oneDNN to a
      file. Use `with disabled(): ...` before you write one yourself
      (`jax.export`, `serialize_executable`).

  Args:
    x: `[N, H, W, in]`.
  """
  return (
    _known
    and x.dtype == jnp.float32
    and all(isinstance(size, int) for size in x.shape)
    and not jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    and jax.default_backend() == 'cpu'
    and jax.local_device_count() == 1
  )


@contextlib.contextmanager
def disabled() -> Iterator[None]:
  """Uses XLA's convolutions in what is traced within this context."""
  global _known
  before, _known = _known, False
  try:
    yield
  finally:
    _known = before


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
