"""Exports a network with its parameters as ONNX.

The graph is written from the `Architecture`, an operator of ONNX or a few for
each layer and operation; JAX traces nothing. Nodes have the names of layers and
operations: conv1, relu1, lrn1, pool1, ..., fc8. A node's output has its name,
except the last layer's: `logits`. Parameters are called conv1/kernel and
conv1/bias, with ONNX's layouts: `[out, in / groups, kh, kw]` and `[out, in]`.

The maps are `[N, channels, H, W]`. Dropout does nothing at test time and is
left out, unless it scales there.
"""

import itertools
from typing import Any, Literal

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

from alexnet_jax import __version__
from alexnet_jax.cli.errors import UserError
from alexnet_jax.model import layer_types
from alexnet_jax.pretrained.layouts import from_params
from alexnet_jax.pretrained.loading import Pretrained

# Of 2022, so that older runtimes read it, too.
OPSET = 17
# What a Protocol Buffer holds, less some room for the graph.
_MAX_BYTES = 2**31 - 2**20


class Graph:
  """The nodes and constants of an ONNX graph, in order."""

  def __init__(self) -> None:
    self.nodes: list[onnx.NodeProto] = []
    self.constants: list[onnx.TensorProto] = []

  def constant(self, name: str, value: Any) -> str:
    """Adds a float32 constant and returns its name."""
    value = np.ascontiguousarray(value, np.float32)
    self.constants.append(numpy_helper.from_array(value, name))
    return name

  def node(
    self, operator: str, inputs: list[str], name: str, **attributes: Any
  ) -> str:
    """Adds a node with one output, which has its name, and returns the name."""
    node = helper.make_node(operator, inputs, [name], name, **attributes)
    self.nodes.append(node)
    return name

  def unused(self, name: str) -> str:
    """Returns the name, with a number if a node has it already."""
    taken = {node.name for node in self.nodes}
    names = (f'{name}_{i}' if i > 1 else name for i in itertools.count(1))
    return next(name for name in names if name not in taken)

  def model(
    self, name: str, inputs: dict[str, list[int]], outputs: dict[str, list[int]]
  ) -> onnx.ModelProto:
    """Returns the model.

    Args:
      name: of the graph.
      inputs: shapes of the float32 inputs, without the batch.
      outputs: of the outputs.
    """

    def described(shapes):
      return [
        helper.make_tensor_value_info(
          key, onnx.TensorProto.FLOAT, ['batch', *shape]
        )
        for key, shape in shapes.items()
      ]

    opset = helper.make_opsetid('', OPSET)
    return helper.make_model(
      helper.make_graph(
        self.nodes, name, described(inputs), described(outputs), self.constants
      ),
      opset_imports=[opset],
      ir_version=helper.find_min_ir_version_for([opset]),
      producer_name='alexnet_jax',
      producer_version=__version__,
    )


def to_onnx(
  network: Pretrained, layout: Literal['NHWC', 'NCHW'] = 'NHWC'
) -> bytes:
  """Returns a serialized ONNX model, whose batch size is free.

  Its input is `images`: float32 `[batch, H, W, 3]`, or `[batch, 3, H, W]`, of
  the size that the network was trained on. Its outputs are `logits` and
  `probabilities`: float32 `[batch, num_classes]`. Networks that compute in
  bfloat16 are exported in float32, the precision of their parameters.

  Args:
    network: the network.
    layout: of the images, 'NHWC' or 'NCHW'.

  Raises:
    UserError: ONNX Runtime lacks an operation, or ONNX cannot hold as much.

  Example:
    network = to_onnx(load('runs/torchvision'))
    session = onnxruntime.InferenceSession(network)
    images = np.zeros((2, 224, 224, 3), np.float32)
    logits, probabilities = session.run(None, {'images': images})
  """
  _check_bytes(network)
  arch = network.model.architecture
  size = network.preprocessing.crop_size
  sizes = {'NHWC': [size, size, 3], 'NCHW': [3, size, size]}[layout]
  graph, x = Graph(), 'images'
  if layout == 'NHWC':
    x = graph.node('Transpose', [x], 'images/nchw', perm=[0, 3, 1, 2])
  weights = from_params(arch, network.params)
  flat = False
  for name, layer, side, _ in arch.layer_inputs(size):
    if isinstance(layer, layer_types.Dense):
      if not flat:
        x, flat = graph.node('Flatten', [x], 'flatten', axis=1), True
      x = _dense(graph, x, name, weights[name])
    elif layer.shared:
      x = _conv(graph, x, name, layer, weights[name])
    else:
      x = _local_conv(graph, x, name, layer, network.params[name])
    if isinstance(layer, layer_types.Conv):
      side = layer.output_size(side)
    for op in layer.then:
      op_name = graph.unused(_op_name(arch, name, op))
      if isinstance(op, layer_types.BatchNorm):
        x = _batch_norm(graph, x, op_name, op, network.params[op_name])
      else:
        x = _apply(graph, x, op_name, op, arch.activation, side)
      if isinstance(op, layer_types.MaxPool):
        side = op.output_size(side)
  graph.nodes[-1].output[0] = 'logits'
  graph.node('Softmax', ['logits'], 'probabilities', axis=1)
  classes = [network.model.num_classes]
  model = graph.model(
    arch.name, {'images': sizes}, {'logits': classes, 'probabilities': classes}
  )
  return bytes(model.SerializeToString())


def _check_bytes(network):
  size = sum(x.nbytes for x in jax.tree.leaves(network.params))
  if size > _MAX_BYTES:
    raise UserError(
      f'the parameters take {size / 1e9:.1f} GB, but an ONNX file holds 2 GB: '
      'export a .stablehlo'
    )


def _op_name(arch, layer_name, op):
  if isinstance(op, layer_types.Activation):
    number = layer_name.removeprefix('conv').removeprefix('fc')
    return f'{arch.activation}{number}'
  return layer_types.scope_name(layer_name, op)


def _conv(graph, x, name, layer, weights):
  return graph.node(
    'Conv',
    [x, *_parameters(graph, name, *weights)],
    name,
    kernel_shape=[layer.kernel] * 2,
    strides=[layer.stride] * 2,
    pads=_around(*layer.padding),
    group=layer.groups,
  )


def _parameters(graph, name, weight, bias):
  return [
    graph.constant(f'{name}/kernel', weight),
    graph.constant(f'{name}/bias', bias),
  ]


def _around(before, after):
  """Returns ONNX's `pads` of rows and columns: both starts, then both ends."""
  return [before, before, after, after]


def _local_conv(graph, x, name, layer, params):
  """Adds a locally connected layer: a matrix product at each position."""
  kernel = np.asarray(params['kernel'])
  height, width, inputs, features = kernel.shape
  area = layer.kernel**2
  channels = inputs // area
  # A kernel for each value of a window, which copies it. They are ordered by
  # channel, ours by row, then column, then channel.
  copies = np.eye(area).reshape(area, 1, layer.kernel, layer.kernel)
  windows = graph.node(
    'Conv',
    [x, graph.constant(f'{name}/copies', np.tile(copies, (channels, 1, 1, 1)))],
    f'{name}/windows',
    kernel_shape=[layer.kernel] * 2,
    pads=_around(*layer.padding),
    group=channels,
  )
  kernel = kernel.reshape(height, width, area, channels, features)
  kernel = kernel.swapaxes(2, 3).reshape(height, width, inputs, features)
  bias = np.asarray(params['bias'])[:, :, None]
  # [H, W, N, in] x [H, W, in, out] + [H, W, 1, out]
  x = graph.node('Transpose', [windows], f'{name}/hwn', perm=[2, 3, 0, 1])
  kernel, bias = _parameters(graph, name, kernel, bias)
  x = graph.node('MatMul', [x, kernel], f'{name}/product')
  x = graph.node('Add', [x, bias], f'{name}/sum')
  return graph.node('Transpose', [x], name, perm=[2, 3, 0, 1])


def _dense(graph, x, name, weights):
  return graph.node(
    'Gemm',
    [x, *_parameters(graph, name, *weights)],
    name,
    transB=1,
  )


def _apply(graph, x, name, op, activation, side):
  match op:
    case layer_types.Activation():
      return graph.node({'relu': 'Relu', 'tanh': 'Tanh'}[activation], [x], name)
    case layer_types.LRN():
      return _lrn(graph, x, name, op)
    case layer_types.SpatialLRN():
      return _spatial_lrn(graph, x, name, op)
    case layer_types.MaxPool(window=window, stride=stride):
      return graph.node(
        'MaxPool',
        [x],
        name,
        kernel_shape=[window] * 2,
        strides=[stride] * 2,
      )
    case layer_types.AvgPool():
      return x if side == op.size else average_pool(graph, x, name, op, side)
    case layer_types.Dropout(rate=rate, scale_at=scale_at):
      if scale_at == 'train':
        return x
      kept = graph.constant(f'{name}/kept', 1 - rate)
      return graph.node('Mul', [x, kept], name)
  raise TypeError(f'unknown operation {op!r}')


def _batch_norm(graph, x, name, op, averages):
  """Adds batch normalization by the running averages."""
  mean, variance = (np.asarray(averages[k]) for k in ('mean', 'variance'))
  values = {
    'scale': np.ones_like(mean),
    'shift': np.zeros_like(mean),
    'mean': mean,
    'variance': variance,
  }
  constants = [graph.constant(f'{name}/{k}', v) for k, v in values.items()]
  return graph.node(
    'BatchNormalization', [x, *constants], name, epsilon=op.epsilon
  )


def _lrn(graph, x, name, op):
  """Adds LRN; ONNX's divides alpha by the window's size."""
  if op.size % 2 == 0:
    raise UserError(
      f'{name} is over {op.size} channels, but ONNX Runtime needs an odd '
      'number: export a .stablehlo'
    )
  attributes = {
    'size': op.size,
    'bias': op.k,
    'alpha': op.alpha * op.size,
    'beta': op.beta,
  }
  if op.groups == 1:
    return graph.node('LRN', [x], name, **attributes)
  columns = [f'{name}/column{i}' for i in range(1, op.groups + 1)]
  graph.node('Split', [x], f'{name}/split', axis=1)
  graph.nodes[-1].output[:] = columns
  columns = [
    graph.node('LRN', [column], f'{column}/lrn', **attributes)
    for column in columns
  ]
  return graph.node('Concat', columns, name, axis=1)


def _spatial_lrn(graph, x, name, op):
  """Adds x / (k + alpha * sum of squares) ^ beta; the sum is a mean's."""
  squares = graph.node('Mul', [x, x], f'{name}/squares')
  mean = graph.node(
    'AveragePool',
    [squares],
    f'{name}/mean',
    kernel_shape=[op.size] * 2,
    pads=_around(op.size // 2, (op.size - 1) // 2),
    count_include_pad=1,
  )
  alpha = graph.constant(f'{name}/alpha', op.alpha * op.size**2)
  k = graph.constant(f'{name}/k', op.k)
  beta = graph.constant(f'{name}/beta', op.beta)
  scaled = graph.node('Mul', [mean, alpha], f'{name}/scaled')
  base = graph.node('Add', [scaled, k], f'{name}/base')
  norm = graph.node('Pow', [base, beta], f'{name}/norm')
  return graph.node('Div', [x, norm], name)


def average_pool(
  graph: Graph, x: str, name: str, op: layer_types.AvgPool, side: int
) -> str:
  """Adds averages of square maps, two products with matrices.

  Args:
    graph: the graph.
    x: the maps, `[N, channels, side, side]`.
    name: of the pooling.
    op: the pooling.
    side: height and width of the maps, in pixels.

  Returns:
    The name of its output, `[N, channels, op.size, op.size]`.

  Example:
    >>> average_pool(Graph(), 'maps', 'avgpool5', layer_types.AvgPool(6), 9)
    'avgpool5'
  """
  matrix = np.zeros((op.size, side))
  for row, (start, end) in zip(matrix, op.bins(side), strict=True):
    row[start:end] = 1 / (end - start)
  rows = graph.constant(f'{name}/rows', matrix)
  columns = graph.constant(f'{name}/columns', matrix.T)
  pooled = graph.node('MatMul', [rows, x], f'{name}/pooled_rows')
  return graph.node('MatMul', [pooled, columns], name)
