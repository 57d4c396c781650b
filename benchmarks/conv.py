"""Single convolutions on CPU, forward and gradients: the bound of a step.

  python benchmarks/conv.py [--network=torchvision] [--batch_size=64]
    [--rounds=5]

Times each convolution of a network in float32 with this project, with plain XLA
(`lax.conv_general_dilated`, its gradients and default flags) and with PyTorch,
and a matrix product of 4096 x 4096. The unit is GFLOP/s. The gradient of conv1
is that of its weights only. The forms take turns. The last line is a JSON
object.
"""

import argparse
import functools
import statistics

import numpy as np
import turns

from alexnet_jax.model import ARCHITECTURES
from alexnet_jax.model.layer_types import Conv
from alexnet_jax.model.summary import layer_counts

FORMS = 'ours', 'XLA', 'PyTorch'
PRODUCT = 4096


def arrays(
  layer: Conv, size: int, inputs: int, batch_size: int
) -> list[np.ndarray]:
  """Returns float32 input `[N, H, W, in]`, kernel, and output gradient."""
  rng = np.random.default_rng(0)
  out = layer.output_size(size)
  kernel = (layer.kernel, layer.kernel, inputs // layer.groups, layer.features)
  shapes = (
    (batch_size, size, size, inputs),
    kernel,
    (batch_size, out, out, layer.features),
  )
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def by_jax(
  layer: Conv, size: int, inputs: int, batch_size: int, what: str, plain: bool
) -> turns.Once:
  """Returns forward pass or gradients in JAX: this project's or plain XLA's."""
  if plain:
    turns.xla_defaults()
  import jax
  import jax.numpy as jnp

  from alexnet_jax.model.conv import conv2d

  def conv(x, kernel):
    if not plain:
      return conv2d(x, kernel, layer.stride, layer.padding, layer.groups)
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (layer.stride,) * 2,
      (layer.padding,) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=layer.groups,
    )

  def gradients(x, kernel, g):
    dx, dkernel = jax.vjp(conv, x, kernel)[1](g)
    return (dx, dkernel) if inputs > 3 else dkernel

  x, kernel, g = map(jnp.asarray, arrays(layer, size, inputs, batch_size))
  if what == 'forward':
    forward = jax.jit(conv)
    return lambda: jax.block_until_ready(forward(x, kernel))
  backward = jax.jit(gradients)
  return lambda: jax.block_until_ready(backward(x, kernel, g))


def by_pytorch(
  layer: Conv, size: int, inputs: int, batch_size: int, what: str
) -> turns.Once:
  """Returns forward pass or gradients in PyTorch.

  The layout is channels last, which is faster here.
  """
  import torch

  torch.set_num_threads(turns.cores())
  x, kernel, g = arrays(layer, size, inputs, batch_size)
  layout = torch.channels_last
  x, g = (
    torch.from_numpy(a.transpose(0, 3, 1, 2)).contiguous(memory_format=layout)
    for a in (x, g)
  )
  kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1)).contiguous(
    memory_format=layout
  )
  steps, padding = [layer.stride] * 2, [layer.padding[0]] * 2
  if what == 'forward':
    return lambda: torch.nn.functional.conv2d(
      x, kernel, None, steps, padding, groups=layer.groups
    )
  return lambda: torch.ops.aten.convolution_backward(
    g, x, kernel, None, steps, padding, [1, 1], False, [0, 0], layer.groups,
    [inputs > 3, True, False],
  )  # fmt: skip


def main() -> None:
  """Prints a table and the JSON line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--network', default='torchvision')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=5)
  arguments = parser.parse_args()
  architecture = ARCHITECTURES[arguments.network]
  print(f'{architecture.name}, GFLOP/s, forward / gradients')
  print(f'{"":<8}' + ''.join(f'{f:>12}' for f in (*FORMS, 'product')))
  ratios = {}
  for name, layer, size, inputs in architecture.layer_inputs(
    architecture.input_size
  ):
    if not isinstance(layer, Conv):
      break
    shape = (layer, size, inputs, arguments.batch_size)
    forms = {}
    for what in ('forward', 'gradients'):
      forms |= {
        ('ours', what): functools.partial(by_jax, *shape, what, plain=False),
        ('XLA', what): functools.partial(by_jax, *shape, what, plain=True),
        ('PyTorch', what): functools.partial(by_pytorch, *shape, what),
      }
    forms['product', ''] = functools.partial(turns.matrix_product, PRODUCT)
    seconds = turns.take_turns(forms, arguments.rounds)
    flops = 2 * layer_counts(layer, size, inputs)[1]
    flops *= arguments.batch_size / 1e9

    def speed(form, what, flops=flops, seconds=seconds):
      return flops / statistics.median(seconds[form, what])

    both = 1 if inputs == 3 else 2
    cells = [
      f'{speed(f, "forward"):.0f} / {both * speed(f, "gradients"):.0f}'
      for f in FORMS
    ]
    cells.append(f'{speed("product", "", 2 * PRODUCT**3 / 1e9):.0f}')
    print(f'{name:<8}' + ''.join(f'{c:>12}' for c in cells), flush=True)
    for form, key in (('XLA', 'xla'), ('PyTorch', 'pytorch')):
      ratios[f'{name}_vs_{key}'] = turns.ratio(*(
        [a + b for a, b in zip(seconds[f, 'forward'], seconds[f, 'gradients'],
                               strict=True)]
        for f in (form, 'ours')
      ))  # fmt: skip
  turns.print_result(ratios, {}, **turns.machine('jax', 'torch'))


if __name__ == '__main__':
  main()
