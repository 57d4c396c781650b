"""Values and gradients of the CPU's operations are those of XLA."""

import contextlib
import importlib.util
import pathlib
import subprocess

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.cli import machine
from alexnet_jax.model import conv, dense, layer_types, onednn, pool

# Height, width, kernel, stride, padding and groups of a convolution.
SHAPES = [
  (31, 27, 11, 4, (0, 0), 1),
  (30, 33, 11, 4, (0, 3), 1),
  (30, 33, 11, 4, (2, 2), 1),
  (9, 8, 5, 1, (2, 2), 2),
  (9, 8, 3, 1, (1, 1), 1),
  (9, 8, 3, 2, (1, 0), 4),
  (3, 3, 3, 1, (0, 0), 2),
  (8, 9, 1, 3, (0, 0), 1),
]


def close(a, b, tolerance=1e-5):
  np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@pytest.fixture(params=[False, True], ids=['XLA', 'oneDNN'])
def by_onednn(request, monkeypatch):
  """Runs a test with oneDNN's convolutions, if possible, and without."""
  if request.param and not onednn.dtypes():
    pytest.skip('this jaxlib has no oneDNN')
  # Tests have several devices; these use one.
  monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
  with contextlib.nullcontext() if request.param else onednn.disabled():
    yield request.param


@pytest.mark.usefixtures('by_onednn')
@pytest.mark.parametrize(
  ('height', 'width', 'kernel', 'stride', 'padding', 'groups'), SHAPES
)
def test_conv2d(height, width, kernel, stride, padding, groups):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, height, width, 8)).astype(np.float32)
  w = rng.normal(size=(kernel, kernel, 8 // groups, 12)).astype(np.float32)
  b = rng.normal(size=12).astype(np.float32)

  def ours(x, w, b):
    return conv.conv2d(x, w, stride, padding, groups, b)

  def xla(x, w, b):
    y = jax.lax.conv_general_dilated(
      x,
      w,
      (stride, stride),
      (padding, padding),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )
    return y + b

  y, vjp = jax.vjp(jax.jit(ours), x, w, b)
  expected, expected_vjp = jax.vjp(xla, x, w, b)
  close(y, expected)
  g = rng.normal(size=y.shape).astype(np.float32)
  for gradient, expected in zip(vjp(g), expected_vjp(g), strict=True):
    close(gradient, expected)


def is_within_two_roundings(found, expected):
  """Whether bfloat16 values are close to float64 ones.

  bfloat16 has eight significant bits, so a rounding is off by up to 2^-8 of the
  value. The sums are float32's.
  """
  assert found.dtype == jnp.bfloat16
  error = np.abs(np.asarray(found, np.float64) - expected)
  allowed = 2 * 2.0**-8 * np.abs(expected) + 1e-6 * np.abs(expected).max()
  return (error <= allowed).all()


def in_float64(x, w, g, stride, padding, groups):
  """Returns a convolution and both gradients, by NumPy."""
  x, w, g = (np.asarray(a, np.float64) for a in (x, w, g))
  n, height, width = g.shape[:3]
  sides = (0, 0), padding, padding, (0, 0)
  padded = np.pad(x, sides).reshape(
    n, x.shape[1] + sum(padding), x.shape[2] + sum(padding), groups, -1
  )
  y = np.zeros((n, height, width, groups, g.shape[3] // groups))
  w = w.reshape(*w.shape[:3], groups, -1)
  g = g.reshape(y.shape)
  dx, dw = np.zeros_like(padded), np.zeros_like(w)
  for i, j in np.ndindex(w.shape[:2]):
    seen = (
      slice(None),
      slice(i, i + (height - 1) * stride + 1, stride),
      slice(j, j + (width - 1) * stride + 1, stride),
    )
    y += np.einsum('nhwgc,cgo->nhwgo', padded[seen], w[i, j])
    dx[seen] += np.einsum('nhwgo,cgo->nhwgc', g, w[i, j])
    dw[i, j] = np.einsum('nhwgc,nhwgo->cgo', padded[seen], g)
  rows, columns = (slice(padding[0], padding[0] + m) for m in x.shape[1:3])
  dx = dx[:, rows, columns].reshape(x.shape)
  return y.reshape(n, height, width, -1), dx, dw.reshape(*dw.shape[:3], -1)


@pytest.mark.parametrize(
  ('height', 'width', 'kernel', 'stride', 'padding', 'groups'), SHAPES
)
def test_conv2d_in_bfloat16(
  by_onednn, height, width, kernel, stride, padding, groups
):
  if by_onednn and 'bfloat16' not in onednn.dtypes():
    pytest.skip('this CPU has no bfloat16')
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, height, width, 8)), jnp.bfloat16)
  shape = kernel, kernel, 8 // groups, 12
  w = jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
  b = jnp.asarray(rng.normal(size=12), jnp.float32)
  y, vjp = jax.vjp(
    jax.jit(lambda x, w, b: conv.conv2d(x, w, stride, padding, groups, b)),
    x,
    w,
    b,
  )
  g = jnp.asarray(rng.normal(size=y.shape), jnp.bfloat16)
  product, *expected = in_float64(x, w, g, stride, padding, groups)
  *gradients, db = vjp(g)
  expected = product + np.asarray(b, np.float64), *expected
  for found, value in zip((y, *gradients), expected, strict=True):
    assert is_within_two_roundings(found, value)
  close(db, np.asarray(g, np.float64).sum((0, 1, 2)))


def test_a_weight_gradient_in_parts(by_onednn, monkeypatch):
  """A gradient that is computed by rows, as many as fit a cache."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 9, 8, 4)).astype(np.float32)
  w = rng.normal(size=(3, 3, 4, 6)).astype(np.float32)

  def gradient():
    loss = lambda w: (conv.conv2d(x, w, 1, (1, 1), 1) ** 2).sum()  # noqa: E731
    lowered = jax.jit(jax.grad(loss)).lower(w)
    return lowered.compile()(w), lowered.as_text().count('onednn$convolution')

  expected, once = gradient()
  monkeypatch.setattr(conv, '_CACHE', 2 * 8 * 2 * 6 * 4)  # Two rows.
  found, calls = gradient()
  close(found, expected)
  assert calls == (once + 4 if by_onednn else 0)


@pytest.mark.parametrize('parts', [1, 3])
def test_product_and_bias_in_bfloat16(by_onednn, monkeypatch, parts):
  monkeypatch.setattr(dense, '_PART', 30 * 5 // parts)
  if by_onednn and 'bfloat16' not in onednn.dtypes():
    pytest.skip('this CPU has no bfloat16')
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(7, 30)), jnp.bfloat16)
  # The gradients of the parameters keep float32.
  w = jnp.asarray(rng.normal(size=(30, 5)), jnp.bfloat16).astype(jnp.float32)
  b = jnp.asarray(rng.normal(size=5), jnp.float32)
  layer = jax.jit(lambda x, w, b: dense.add_bias(dense.product(x, w), b))
  y, vjp = jax.vjp(layer, x, w, b)
  loops = layer.lower(x, w, b).as_text().count('stablehlo.while')
  assert loops == (by_onednn and parts > 1)
  g = jnp.asarray(rng.normal(size=y.shape), jnp.bfloat16)
  x, w, b, g64 = (np.asarray(a, np.float64) for a in (x, w, b, g))
  # The product is rounded before the bias is added.
  np.testing.assert_allclose(
    np.asarray(y, np.float64), x @ w + b, atol=2 * 2.0**-8 * np.abs(x @ w).max()
  )
  dx, dw, db = vjp(g)
  assert is_within_two_roundings(dx, g64 @ w.T)
  assert dw.dtype == db.dtype == jnp.float32
  np.testing.assert_allclose(dw, x.T @ g64, atol=1e-5)
  np.testing.assert_allclose(db, g64.sum(0), atol=1e-5)


def test_parameters_of_other_dtypes_and_empty_batches(by_onednn):
  del by_onednn

  def loss(x, kernel, bias, weights):
    y = conv.conv2d(x, kernel.astype(x.dtype), 1, (1, 1), 1, bias)
    y = pool.max_pool(y, 3, 2)
    return dense.product(y.reshape(y.shape[0], 64), weights).sum()

  shapes = (3, 3, 8, 4), (4,), (64, 5)
  for dtype in (jnp.float32, jnp.bfloat16):
    parameters = [jnp.ones(shape, dtype) for shape in shapes]
    for images in (2, 0):
      x = jnp.ones((images, 9, 9, 8), jnp.float32)
      gradients = jax.grad(loss, (1, 2, 3))(x, *parameters)
      for gradient, parameter in zip(gradients, parameters, strict=True):
        assert gradient.dtype == parameter.dtype
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
        assert (gradient != 0).any() == (images > 0)


def test_switched_off_after_a_trace(monkeypatch):
  monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
  x, w = jnp.ones((2, 9, 9, 8)), jnp.ones((3, 3, 8, 4))

  def calls():
    loss = lambda x, w: conv.conv2d(x, w, 1, (1, 1), 1).sum()  # noqa: E731
    return (
      jax.jit(jax.grad(loss, (0, 1))).lower(x, w).as_text().count('onednn$')
    )

  used = calls()
  with onednn.disabled():
    assert calls() == 0
  assert calls() == used == (2 if onednn.dtypes() else 0)


def test_onednn_is_compiled_in(by_onednn):
  x, w = jnp.ones((2, 9, 9, 8)), jnp.ones((3, 3, 8, 4))

  def loss(x, w):
    return conv.conv2d(x, w, 1, (1, 1), 1).sum()

  compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, w).compile()
  assert ('__onednn$convolution' in compiled.as_text()) == by_onednn


def test_onednn_is_not_used(monkeypatch):
  """Not where it is untested or XLA could not write the program to a file."""
  monkeypatch.setattr(jax, 'local_device_count', lambda: 1)
  monkeypatch.setattr(onednn, 'dtypes', lambda: {'float32'})
  x = jnp.ones((2, 9, 9, 8))
  assert onednn.is_usable(x)
  with onednn.disabled():
    assert not onednn.is_usable(x)
    assert onednn.bfloat16_is_slow()
  short = x.astype(jnp.bfloat16)
  assert not onednn.is_usable(short)
  # It is computed in float32, by oneDNN.
  once = jax.jit(lambda x, w: conv.conv2d(x, w, 1, (1, 1), 1))
  text = once.lower(short, jnp.ones((3, 3, 8, 4), jnp.bfloat16)).as_text()
  assert '__onednn$convolution' in text
  with monkeypatch.context() as context:
    context.setattr(jax, 'local_device_count', lambda: 2)
    assert not onednn.is_usable(x)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', '/nowhere')
  try:
    assert not onednn.is_usable(x)
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  (batch,) = jax.export.symbolic_shape('batch')
  exported = jax.export.export(
    jax.jit(
      jax.grad(
        lambda x: pool.max_pool(conv.conv2d(x, w, 1, (1, 1), 1), 3, 2).sum()
      )
    )
  )
  w = jnp.ones((3, 3, 8, 4))
  exported(jax.ShapeDtypeStruct((batch, 9, 9, 8), jnp.float32)).serialize()


@pytest.mark.parametrize(
  ('old', 'new', 'works'),
  [
    ('', '', True),
    ("'__onednn$convolution'", "'__onednn$gone'", False),  # An exception.
    ("'onednn_conv_config'", "'gone'", False),  # Ends the process.
    # Other numbers.
    (')(*operands)', ')(operands[0], *(2 * b for b in operands[1:]))', False),
  ],
)
def test_onednn_is_tried_in_a_process_of_its_own(
  tmp_path, monkeypatch, old, new, works
):
  if works and not onednn.dtypes():
    pytest.skip('this jaxlib has no oneDNN')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  text = pathlib.Path(onednn.__file__).read_text()
  assert old in text
  path = tmp_path / 'copy.py'
  path.write_text(text.replace(old, new))
  spec = importlib.util.spec_from_file_location('copy', path)
  copy = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(copy)
  names = ['float32', *['bfloat16'] * machine.has_bfloat16()]
  expected = set(names) if works else set()
  assert copy.dtypes() == expected
  copy.dtypes.cache_clear()
  monkeypatch.setattr(subprocess, 'run', None)  # The answer was kept.
  assert copy.dtypes() == expected


def test_vmap_over_images(by_onednn):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 2, 9, 9, 8)).astype(np.float32)
  w = rng.normal(size=(3, 3, 8, 4)).astype(np.float32)

  def loss(w, x):
    return (conv.conv2d(x, w, 1, (1, 1), 1) ** 2).sum()

  each = jax.vmap(jax.grad(loss), (None, 0))(w, x)
  for gradient, part in zip(each, x, strict=True):
    close(gradient, jax.grad(loss)(w, part))


@pytest.mark.parametrize('size', [31, 34])
@pytest.mark.parametrize('padding', [(0, 0), (2, 2), (0, 3)])
@pytest.mark.parametrize(('kernel', 'stride'), [(11, 4), (3, 2), (2, 3)])
def test_conv2d_of_blocks(size, padding, kernel, stride):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, size, size, 3)).astype(np.float32)
  w = rng.normal(size=(kernel, kernel, 3, 8)).astype(np.float32)
  layer = layer_types.Conv(8, kernel, stride, padding)
  blocks = conv.to_blocks(x, layer.blocks(size))
  y, vjp = jax.vjp(lambda w: conv.conv2d(x, w, stride, padding, 1), w)
  ours, ours_vjp = jax.vjp(
    lambda w: conv.conv2d_of_blocks(blocks, w, stride), w
  )
  close(ours, y)
  g = rng.normal(size=y.shape).astype(np.float32)
  close(ours_vjp(g)[0], vjp(g)[0])


@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (2, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize('ties', [False, True])
def test_max_pool(window, stride, ties):
  rng = np.random.default_rng(1)
  x = rng.normal(size=(2, 13, 10, 5)).astype(np.float32)
  if ties:  # With few values, as after a ReLU, most windows have a tie.
    x = np.round(x)
  y, vjp = jax.vjp(lambda x: pool.max_pool(x, window, stride), x)
  reference = lambda x: pool._by_reduce_window(x, window, stride)  # noqa: E731
  expected, expected_vjp = jax.vjp(reference, x)
  np.testing.assert_array_equal(y, expected)
  g = rng.normal(size=y.shape).astype(np.float32)
  dx = expected_vjp(g)[0]
  close(vjp(g)[0], dx)
  # In bfloat16 the maxima are the same if the values are.
  x, g = (jnp.asarray(a, jnp.bfloat16) for a in (np.round(x), g))
  y, vjp = jax.vjp(lambda x: pool.max_pool(x, window, stride), x)
  expected, expected_vjp = jax.vjp(reference, x.astype(jnp.float32))
  np.testing.assert_array_equal(y, expected)
  dx = expected_vjp(g.astype(jnp.float32))[0]
  assert is_within_two_roundings(vjp(g)[0], np.asarray(dx, np.float64))


def test_max_pool_keeps_nan():
  x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
  y = np.asarray(pool.max_pool(x, 2, 2))[0, :, :, 0]
  np.testing.assert_array_equal(np.isnan(y), [[False, True], [False, False]])
