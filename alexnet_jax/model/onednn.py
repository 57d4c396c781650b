"""oneDNN's convolution, which PyTorch and TensorFlow use on CPU too.

JAX's packages for Linux on x86 contain it, and XLA can run it, but XLA's own
rewriter of convolutions to it is off in them. Here it is called by name, as
that rewriter would. What is passed is XLA's own and not promised to last: so it
is used with the version that it was tried with, and only there.
"""

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# Whether JAX is what it was tried with.
_known = (
  importlib.metadata.version('jaxlib') == '0.10.2'
  and platform.system() == 'Linux'
  and platform.machine() == 'x86_64'
)


def is_usable(x: jax.Array) -> bool:
  """Whether `conv2d` can be called for `x`, where CPUs are what computes.

  Not with several CPU devices in one process, which was not tried; nor for a
  batch that has no size yet, as in exports; nor with a compilation cache, since
  XLA cannot write a program that calls oneDNN to a file. For a file of your own
  (`jax.export`, `serialize_executable`): `with disabled(): ...`.

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
  """What is traced within does without oneDNN, and has XLA's convolutions."""
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
  """Convolution of one group, without a rule of differentiation.

  Args:
    x: `[N, H, W, in]` float32.
    kernel: `[kh, kw, in, out]` float32.
    stride: step in both directions.
    padding: zeros before and after, in both directions.
    transposed: the kernel is `[kh, kw, out, in]`.

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
