"""Batch normalization, with statistics that devices share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.model import layer_types


class BatchNorm(nn.Module):
  """Batch normalization and its running averages.

  The running averages are the parameters `mean` and `variance`, so that
  checkpoints and exports hold them. Their gradients are 0: in training, the
  next ones are variables of the collection 'averages', if it is mutable.

    logits, new = model.apply(
      {'params': params}, images, train=True, rngs=..., mutable=['averages']
    )
    params |= new['averages']

  Attributes:
    op: its constants; `layer_types.BatchNorm` has the formulas.
    axis_name: axis of devices over which the statistics are averaged, as in
      `AlexNet`.

  Example:
    >>> norm = BatchNorm(layer_types.BatchNorm())
    >>> x = jnp.array([[1.0], [3.0]])
    >>> variables = {'params': {'mean': jnp.zeros(1), 'variance': jnp.ones(1)}}
    >>> y, new = norm.apply(variables, x, train=True, mutable=['averages'])
    >>> y.round(3).tolist()
    [[-1.0], [1.0]]
    >>> new['averages']['mean'], new['averages']['variance']
    (Array([0.2], dtype=float32), Array([1.1], dtype=float32))
  """

  op: layer_types.BatchNorm
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Normalizes each channel of `[N, ..., channels]`.

    Statistics are float32, also of a bfloat16 `x`; float64 of a float64 one.
    """
    channels = x.shape[-1:]
    mean = self.param('mean', nn.initializers.zeros, channels)
    variance = self.param('variance', nn.initializers.ones, channels)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    exact = x.astype(dtype)
    if train:
      averages = mean, variance
      axes = tuple(range(x.ndim - 1))
      moments = exact.mean(axes), jnp.square(exact).mean(axes)
      count = x.size // x.shape[-1]
      if self.axis_name is not None:
        moments = jax.lax.pmean(moments, self.axis_name)
        count *= jax.lax.axis_size(self.axis_name)
      mean, mean_square = moments
      # Rounding may make it negative where all values are equal.
      variance = jnp.maximum(mean_square - jnp.square(mean), 0)
      unbiased = variance * (count / max(count - 1, 1))
      self._store(averages, (mean, unbiased))
    scale = jax.lax.rsqrt(variance.astype(dtype) + self.op.epsilon)
    return ((exact - mean) * scale).astype(x.dtype)

  def _store(self, averages, statistics):
    """Stores the next running averages."""
    if self.is_initializing() or not self.is_mutable_collection('averages'):
      return
    kept = self.op.momentum
    for name, old, new in zip(
      ('mean', 'variance'), averages, statistics, strict=True
    ):
      self.put_variable('averages', name, kept * old + (1 - kept) * new)
