import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model import local_response_normalization, lrn
from alexnet_jax.model.lrn import spatial_response_normalization


def reference(x, g, size=5, k=2.0, alpha=1e-4, beta=0.75, groups=1):
  """Computes the paper's formula and its gradient in float64."""
  x, g = np.float64(x), np.float64(g)
  channels = x.shape[-1]
  group = channels // groups
  windows = []
  for i in range(channels):
    first = i // group * group
    low = max(i - size // 2, first)
    high = min(i + (size - 1) // 2, first + group - 1)
    windows.append(range(low, high + 1))
  d = np.stack(
    [k + alpha * sum(x[..., j] ** 2 for j in w) for w in windows], axis=-1
  )
  b = x * d**-beta
  gradient = g * d**-beta
  for i, window in enumerate(windows):
    for j in window:
      gradient[..., j] -= (
        2 * alpha * beta * x[..., j] * g[..., i] * x[..., i]
        * d[..., i] ** (-beta - 1)
      )  # fmt: skip
  return b, gradient


def close(a, b, tolerance=1e-5):
  np.testing.assert_allclose(
    a, b, rtol=tolerance, atol=tolerance * np.abs(b).max()
  )


CASES = [
  {},
  {'size': 4},
  {'size': 1},
  {'size': 2},
  {'size': 31},  # Wider than the channels.
  {'size': 5, 'groups': 2},
  {'size': 9, 'groups': 3, 'beta': 0.5},
  {'size': 3, 'k': 1.0, 'alpha': 0.5, 'beta': 1.0},
  {'size': 24, 'groups': 2},
]


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('scale', [1.0, 100.0])
@pytest.mark.parametrize('jit', [False, True])
def test_value_and_gradient(case, scale, jit):
  rng = np.random.default_rng(1)
  x = rng.normal(size=(2, 3, 4, 12)).astype(np.float32) * scale
  x[0, 0] = 0
  g = rng.normal(size=x.shape).astype(np.float32)

  def value_and_gradient(x, g):
    b, vjp = jax.vjp(lambda x: local_response_normalization(x, **case), x)
    return b, vjp(g)[0]

  if jit:
    value_and_gradient = jax.jit(value_and_gradient)
  b, gradient = value_and_gradient(x, g)
  expected = reference(x, g, **case)
  close(b, expected[0])
  close(gradient, expected[1])
  assert b.dtype == gradient.dtype == np.float32


def test_an_even_window_extends_further_back():
  x = jnp.array([1.0, 10.0, 100.0, 1000.0])
  b = local_response_normalization(x, size=2, k=0.0, alpha=1.0, beta=1.0)
  # i - 1 and i.
  close(b, [1.0, 10 / 101, 100 / 10100, 1000 / 1010000])


@pytest.mark.parametrize('case', CASES, ids=str)
def test_bfloat16_is_one_rounding_from_float64(case):
  rng = np.random.default_rng(2)
  x = jnp.asarray(rng.normal(size=(64, 12)) * 50, jnp.bfloat16)
  g = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)
  b, vjp = jax.vjp(lambda x: local_response_normalization(x, **case), x)
  assert b.dtype == vjp(g)[0].dtype == jnp.bfloat16
  for ours, exact in zip((b, vjp(g)[0]), reference(x, g, **case), strict=True):
    # Half a unit in the last of 8 bits, plus the error of float32.
    error = np.abs(np.float64(ours) - exact)
    bound = np.abs(exact) * 2.0**-8 + 1e-5 * np.abs(exact).max()
    assert (error <= bound).all()


def test_under_vmap_and_pmap():
  rng = np.random.default_rng(3)
  x = rng.normal(size=(8, 3, 10)).astype(np.float32) * 30
  g = rng.normal(size=x.shape).astype(np.float32)

  def gradient(x, g):
    return jax.vjp(local_response_normalization, x)[1](g)[0]

  expected = reference(x, g)
  close(jax.vmap(local_response_normalization)(x), expected[0])
  close(jax.vmap(gradient)(x, g), expected[1])
  close(jax.pmap(local_response_normalization)(x), expected[0])
  close(jax.pmap(gradient)(x, g), expected[1])


def test_invalid_arguments_are_errors():
  x = jnp.ones((2, 6))
  with pytest.raises(ValueError, match='size 0'):
    local_response_normalization(x, size=0)
  with pytest.raises(ValueError, match='4 groups'):
    local_response_normalization(x, groups=4)
  with pytest.raises(TypeError, match='int32'):
    local_response_normalization(jnp.ones((2, 6), jnp.int32))


def test_spatial_normalization():
  rng = np.random.default_rng(4)
  x = rng.normal(size=(1, 6, 7, 2)).astype(np.float32) * 10
  b = spatial_response_normalization(x, size=5, k=1.0, alpha=0.01, beta=0.75)
  expected = np.empty_like(x, np.float64)
  for i in range(6):
    for j in range(7):
      patch = x[:, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
      d = 1 + 0.01 * (np.float64(patch) ** 2).sum(axis=(1, 2))
      expected[:, i, j] = x[:, i, j] * d**-0.75
  close(b, expected)


def test_spatial_gradient():
  rng = np.random.default_rng(5)
  x = rng.normal(size=(1, 5, 6, 2)).astype(np.float32)
  g = rng.normal(size=x.shape).astype(np.float32)
  arguments = {'size': 3, 'k': 1.0, 'alpha': 0.3, 'beta': 0.75}

  def ours(x):
    return (spatial_response_normalization(x, **arguments) * g).sum()

  def exact(x):
    padded = np.pad(x**2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = sum(
      padded[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3)
    )
    return (x * (1 + 0.3 * total) ** -0.75 * g).sum()

  gradient = jax.jit(jax.grad(ours))(x)
  expected = np.zeros(x.shape)
  for index in np.ndindex(*x.shape):
    step = np.zeros(x.shape)
    step[index] = 1e-5
    expected[index] = (exact(x + step) - exact(x - step)) / 2e-5
  close(gradient, expected)


@pytest.mark.parametrize('groups', [1, 3])
@pytest.mark.parametrize('window', [(2, 2), (2, 1), (0, 0), (3, 0)])
def test_the_sums_for_tpu_are_equal(groups, window):
  """Runs the TPU's form on CPU; `make test-tpu` compiles it for a TPU."""
  x = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)
  expected = lrn._sum_by_shifts(x, *window, groups)
  close(lrn._sum_by_product(x, x.dtype, *window, groups), expected)
  rounded = lrn._sum_by_product(x, jnp.bfloat16, *window, groups)
  assert rounded.dtype == np.float32
  np.testing.assert_allclose(
    rounded, expected, atol=2.0**-8 * 5 * np.abs(x).max()
  )
