"""Batch normalization, and the network that has it, compared with PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from test_alexnet import LETTERS, small

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.config.values import validate
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.learning.optimizer import rates_of
from alexnet_jax.model import ARCHITECTURES, AlexNet
from alexnet_jax.model.batch_norm import BatchNorm
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.model.layer_types import BatchNorm as Op
from alexnet_jax.model.layer_types import Conv
from alexnet_jax.pretrained import conversion
from alexnet_jax.pretrained.exporting import to_stablehlo
from configs import default

CLASSES = 5
NORMS = ('norm1', 'norm2', 'norm3', 'norm4')
needs_torch = functools.partial(
  pytest.importorskip, 'torch', reason='NEEDS PYTORCH: make venv EXTRAS=test'
)


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def narrow(dtype=jnp.float64):
  """A narrow alexnet_bn without dropout, float64 parameters, and a batch."""
  architecture = small('alexnet_bn').with_dropout(rate=0.0)
  model = AlexNet(architecture, CLASSES, dtype)
  rng = np.random.default_rng(0)
  shapes = abstract_params(model, 67)
  params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape), shapes)
  for name in NORMS:
    params[name]['variance'] = rng.uniform(0.5, 2, shapes[name]['mean'].shape)
  images = rng.normal(0, 1, (8, 67, 67, 3))
  return model, params, images, rng.integers(0, CLASSES, 8)


def loss_of(model, params, images, labels):
  """Returns the mean loss, and the logits and new averages."""
  logits, new = model.apply(
    {'params': params}, images, train=True, mutable=['averages']
  )
  log_probs = jax.nn.log_softmax(logits)
  loss = -log_probs[jnp.arange(len(labels)), labels].mean()
  return loss, (logits, new['averages'])


def assert_close(found, expected):
  """Compares the leaves of `expected` with those of the same names."""
  for path, x in jax.tree_util.tree_leaves_with_path(expected):
    y = functools.reduce(lambda tree, key: tree[key.key], path, found)
    scale = max(np.abs(x).max(), 1e-300)  # Gradients of averages are 0.
    error = np.abs(y - x).max() / scale
    assert error < 1e-12, (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize('shape', [(6, 5, 4, 3), (7, 3)])
def test_it_equals_pytorchs(float64, shape):
  torch = needs_torch()
  rng = np.random.default_rng(0)
  norm = BatchNorm(Op())
  make = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
  theirs = make(3, eps=1e-4, momentum=0.1, affine=False).double()
  params = {'mean': jnp.zeros(3), 'variance': jnp.ones(3)}
  for _ in range(3):
    x, cotangent = rng.normal(1, 3, (2, *shape))

    def train(x, params=params):
      return norm.apply({'params': params}, x, True, mutable=['averages'])

    y, vjp, new = jax.vjp(train, jnp.asarray(x), has_aux=True)
    params = new['averages']
    z = torch.tensor(x).movedim(-1, 1).requires_grad_()
    w = theirs(z)
    w.backward(torch.tensor(cotangent).movedim(-1, 1))
    np.testing.assert_allclose(y, w.detach().movedim(1, -1), atol=1e-12)
    (gradient,) = vjp(jnp.asarray(cotangent))
    np.testing.assert_allclose(gradient, z.grad.movedim(1, -1), atol=1e-12)
    np.testing.assert_allclose(params['mean'], theirs.running_mean, rtol=1e-12)
    np.testing.assert_allclose(
      params['variance'], theirs.running_var, rtol=1e-12
    )
  theirs.eval()
  with torch.no_grad():
    expected = theirs(torch.tensor(x).movedim(-1, 1)).movedim(1, -1)
  np.testing.assert_allclose(
    norm.apply({'params': params}, x), expected, atol=1e-12
  )


def in_torch(torch, params, images, train, averages):
  """The file's network, from its sentences: ReLU, pool, then normalization."""
  functional = torch.nn.functional
  x = images.movedim(-1, 1)
  for i, (stride, padding, groups, pooled) in enumerate(
    [(4, 0, 1, 1), (1, 2, 2, 1), (1, 1, 1, 0), (1, 1, 2, 0), (1, 1, 2, 1)], 1
  ):
    layer = params[f'conv{i}']
    x = functional.conv2d(
      x,
      layer['kernel'].permute(3, 2, 0, 1),
      layer['bias'],
      stride,
      padding,
      groups=groups,
    ).relu()
    if pooled:
      x = functional.max_pool2d(x, 3, 2)
    if i < 5:
      mean, variance = averages[f'norm{i}'].values()
      x = functional.batch_norm(
        x, mean, variance, training=train, momentum=0.1, eps=1e-4
      )
  x = x.movedim(1, -1).flatten(1)
  for name in ('fc6', 'fc7', 'fc8'):
    x = x @ params[name]['kernel'] + params[name]['bias']
    x = x if name == 'fc8' else x.relu()
  return x


def test_the_network_equals_one_in_pytorch(float64):
  torch = needs_torch()
  model, params, images, labels = narrow()
  tensors = jax.tree.map(torch.tensor, params)
  # PyTorch changes its averages in place.
  averages = {name: tensors.pop(name) for name in NORMS}
  for leaf in jax.tree.leaves(tensors):
    leaf.requires_grad_()
  x = torch.tensor(images)
  evaluated = in_torch(torch, tensors, x, False, averages).detach().numpy()
  logits = in_torch(torch, tensors, x, True, averages)
  torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
  gradients, (found, new) = jax.jit(
    jax.grad(functools.partial(loss_of, model), has_aux=True)
  )(params, images, labels)
  assert_close({'logits': found}, {'logits': logits.detach().numpy()})
  assert_close(gradients, jax.tree.map(lambda x: x.grad.numpy(), tensors))
  assert_close(new, jax.tree.map(lambda x: x.numpy(), averages))
  for name in NORMS:
    assert not any(np.any(x) for x in jax.tree.leaves(gradients[name]))
  found = jax.jit(model.apply)({'params': params}, images)
  assert_close({'logits': found}, {'logits': evaluated})
  assert np.abs(found - logits.detach().numpy()).max() > 1e-2


def in_pmap(step, params, images, labels):
  shares = [x.reshape(4, 2, *x.shape[1:]) for x in (images, labels)]
  return jax.pmap(
    step,
    axis_name='batch',
    in_axes=(None, 0, 0),
    out_axes=(None, 0),
    devices=jax.devices()[:4],
  )(params, *shares)


def in_shard_map(step, params, images, labels):
  return jax.jit(
    jax.shard_map(
      step,
      mesh=Mesh(np.array(jax.devices()[:4]), ('batch',)),
      in_specs=(P(), P('batch'), P('batch')),
      out_specs=(P(), P('batch')),
      check_vma=False,
    )
  )(params, images, labels)


@pytest.mark.parametrize('run', [in_pmap, in_shard_map])
def test_four_devices_normalize_their_common_batch(float64, run):
  model, params, images, labels = narrow()

  def step(model, *batch):
    gradient = jax.grad(functools.partial(loss_of, model), has_aux=True)
    gradients, (logits, new) = gradient(*batch)
    if model.axis_name:
      gradients = jax.lax.pmean(gradients, model.axis_name)
    return (gradients, new), logits

  batch = params, images, labels
  expected, logits = jax.jit(functools.partial(step, model))(*batch)
  together = model.clone(axis_name='batch')
  found, parts = run(functools.partial(step, together), *batch)
  assert_close(found[0], expected[0])
  assert_close(found[1], expected[1])
  assert_close({'logits': parts.reshape(8, CLASSES)}, {'logits': logits})


def test_without_an_axis_each_device_has_its_own_statistics(float64):
  model, params, images, labels = narrow()
  _, (logits, _) = jax.jit(functools.partial(loss_of, model))(
    params, images, labels
  )

  def own(*batch):
    return 0, loss_of(model, *batch)[1][0]

  _, parts = in_shard_map(own, params, images, labels)
  assert np.abs(parts - logits).max() > 1e-2


def test_statistics_are_float32_in_bfloat16():
  x = np.random.default_rng(0).normal(3, 1, (64, 9, 9, 4))
  norm = BatchNorm(Op())
  variables = norm.init(jax.random.key(0), jnp.zeros((1, 4)))
  y, new = norm.apply(
    variables, jnp.asarray(x, jnp.bfloat16), True, mutable=['averages']
  )
  assert y.dtype == jnp.bfloat16
  assert {v.dtype for v in jax.tree.leaves(new)} == {np.dtype('float32')}
  np.testing.assert_allclose(
    new['averages']['mean'], 0.1 * x.mean((0, 1, 2)), rtol=1e-3
  )


def test_one_value_repeated_is_no_nan():
  norm = BatchNorm(Op())
  variables = norm.init(jax.random.key(0), jnp.zeros((1, 1)))
  for shape in ((1, 1), (50, 1)):
    x = jnp.full(shape, 0.1)
    y, new = norm.apply(variables, x, True, mutable=['averages'])
    assert np.abs(y).max() < 1e-2
    np.testing.assert_allclose(new['averages']['variance'], 0.9, rtol=1e-5)


def test_what_is_stored():
  images = jnp.ones((2, 67, 67, 3))
  for name, norms in (('alexnet_bn', NORMS), ('paper', ())):
    model = AlexNet(small(name).with_dropout(rate=0.0), CLASSES)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert list(variables) == ['params']

    def apply(variables, model=model, **options):
      return model.apply(variables, images, train=True, **options)

    assert jax.eval_shape(apply, variables).shape == (2, CLASSES)
    _, new = jax.eval_shape(
      functools.partial(apply, mutable=['averages']), variables
    )
    params = variables['params']
    assert new.get('averages', {}) == {name: params[name] for name in norms}


def test_a_workdir_and_an_export_hold_the_averages(tmp_path, monkeypatch):
  model, params, images, _ = narrow(jnp.float32)
  params = jax.tree.map(np.float32, params)
  images = images.astype(np.float32)
  monkeypatch.setitem(ARCHITECTURES, 'alexnet_bn', model.architecture)
  conversion.write_workdir(
    epath.Path(tmp_path),
    params,
    {'model': {'name': 'alexnet_bn', 'num_classes': CLASSES}},
    Preprocessing(
      dataset=None,
      class_names=(),
      resize='warp',
      resize_size=70,
      crop_size=67,
      mean=np.zeros(3),
      mean_crop='same',
      std=np.full(3, 256.0),
      flip=True,
      lighting='none',
      lighting_std=0.1,
    ),
  )
  network = pretrained.load(str(tmp_path))
  expected = jax.jit(model.apply)({'params': params}, images)
  logits = jax.jit(network.model.apply)({'params': network.params}, images)
  np.testing.assert_array_equal(logits, expected)
  exported = jax.export.deserialize(bytearray(to_stablehlo(network)))
  np.testing.assert_allclose(
    exported.call(images), expected, atol=1e-5 * np.abs(expected).max()
  )
  network.params['norm1']['mean'][:] += 1
  others = jax.jit(network.model.apply)({'params': network.params}, images)
  assert np.abs(others - expected).max() > 1e-2


# From train_val2.prototxt, conv1..fc8.
KERNELS = [(11, 11, 3, 96), (5, 5, 48, 256), (3, 3, 256, 384), (3, 3, 192, 384),
           (3, 3, 192, 256), (9216, 4096), (4096, 4096),
           (4096, 1000)]  # fmt: skip
STDS = [0.01] * 5 + [0.005, 0.005, 0.01]
BIASES = [0.01] * 5 + [0.1, 0.1, 0.01]


def test_the_network_is_that_of_its_file():
  architecture = ARCHITECTURES['alexnet_bn']
  assert architecture.input_size == 227
  model = AlexNet(architecture)
  params = abstract_params(model, 227)
  layers = architecture.named_layers
  assert [params[name]['kernel'].shape for name, _ in layers] == KERNELS
  assert [layer.weight_std for _, layer in layers] == STDS
  assert [layer.bias for _, layer in layers] == BIASES
  convs = [layer for _, layer in layers if isinstance(layer, Conv)]
  assert [conv.stride for conv in convs] == [4, 1, 1, 1, 1]
  assert [conv.padding[0] for conv in convs] == [0, 2, 1, 1, 1]
  letters = {**LETTERS, Op: 'B'}
  assert [
    ''.join(letters[type(op)] for op in layer.then) for _, layer in layers
  ] == ['APB', 'APB', 'AB', 'AB', 'AP', 'AD', 'AD', '']
  sizes = {name: params[name]['mean'].shape for name in NORMS}
  assert sizes == {
    'norm1': (96,),
    'norm2': (256,),
    'norm3': (384,),
    'norm4': (384,),
  }
  assert set(params) == {*architecture.layer_names, *NORMS}


def test_a_normalized_batch_is_not_cut():
  assert build_model({'name': 'paper', 'num_classes': 2}, 'tpu').conv_batch
  model = build_model({'name': 'alexnet_bn', 'num_classes': 2}, 'tpu')
  assert model.conv_batch is None
  with pytest.raises(ValueError, match='conv_batch is 1'):
    abstract_params(model.clone(conv_batch=1), 227)
  with pytest.raises(ValueError, match='one BatchNorm'):
    ARCHITECTURES['caffe'].with_ops(lambda _: Op())


def test_no_rule_trains_the_averages():
  config = default.get_config().optimizer
  config.rules = ({'params': '*', 'learning_rate': 0.3, 'weight_decay': 0.1},)
  params = abstract_params(AlexNet(small('alexnet_bn'), CLASSES), 67)
  rates, decays = rates_of(config, 10, 100)(params, 3)
  for name, kinds in params.items():
    for kind in kinds:
      trained = name not in NORMS
      assert rates[name][kind] == (0.3 if trained else 0)
      assert decays[name][kind] == (0.1 if trained else 0)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('optimizer.rules', ({'params': 'norm1/*', 'multiplier': 2.0},)),
    ('optimizer.frozen_layers', ('norm1',)),
  ],
)
def test_a_rule_of_the_averages_alone_is_refused(field, value):
  config = default.get_config()
  config.model.name = 'alexnet_bn'
  validate(config)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=field):
    validate(config)
