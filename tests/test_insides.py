"""What a network sees in an image: the numbers, the PNG files, the page."""

import dataclasses
import functools
import json
import re

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from PIL import Image
from test_alexnet import small
from test_figures import flags
from test_preprocess import eval_views

from alexnet_jax import figures, pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import preprocess
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.model import ALEXNETS, ARCHITECTURES, AlexNet
from alexnet_jax.model.layer_types import Activation
from alexnet_jax.model.receptive_field import receptive_field
from alexnet_jax.plots import sees as plots
from alexnet_jax.pretrained import conversion, insides, sees
from alexnet_jax.pretrained.loading import Pretrained
from alexnet_jax.pretrained.sees_arguments import find_label, read_view


def random_network(name='paper', size=67, dtype=jnp.float32):
  """A narrow network of random weights, with its preprocessing."""
  model = AlexNet(small(name), num_classes=5, dtype=dtype)
  zeros = jnp.zeros((1, size, size, 3))
  params = jax.jit(model.init)(jax.random.key(0), zeros)['params']
  return Pretrained(
    model, jax.device_get(params), preprocessing(size), 0, 0, 'train'
  )


def preprocessing(size=67, class_names=()):
  return Preprocessing(
    dataset=None,
    class_names=class_names,
    resize='short_side',
    resize_size=size + 5,
    crop_size=size,
    mean=np.random.default_rng(1).uniform(90, 150, (size + 5, size + 5, 3)),
    mean_crop='center',
    std=np.array([50.0, 60.0, 70.0]),
    flip=True,
    lighting='none',
    lighting_std=0.1,
  )


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """A workdir with a narrow network of the tiny dataset's classes."""
  folder = tmp_path_factory.mktemp('network') / 'run'
  model = AlexNet(ARCHITECTURES['narrow'], num_classes=3)
  zeros = jnp.zeros((1, 67, 67, 3))
  params = jax.jit(model.init)(jax.random.key(0), zeros)['params']
  # Otherwise most units of the deeper layers would be nearly 0.
  params = jax.tree.map(lambda x: 5 * x, params)
  conversion.write_workdir(
    epath.Path(folder),
    jax.device_get(params),
    {'model': {'name': 'narrow', 'num_classes': 3}},
    preprocessing(class_names=conftest.CLASS_NAMES),
  )
  return folder


def noise(size=67):
  return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


def test_the_gradient_equals_differences_of_the_logit():
  """Of single grey levels: the preprocessing is part of it."""
  with jax.enable_x64(True):
    net = random_network(dtype=jnp.float64)
    image, label = noise(), 3
    gradient = insides.class_gradient(net, image, label)
    assert gradient.shape == image.shape
    mean = net.preprocessing.mean_of_crops().astype(np.float64)
    params = jax.tree.map(np.float64, net.params)
    logits = jax.jit(lambda x: net.model.apply({'params': params}, x)[:, label])
    rng, step = np.random.default_rng(2), 1e-3
    places = rng.integers(0, (67, 67, 3), (20, 3))
    pixels = np.tile(image.astype(np.float64), (2, 20, 1, 1, 1))
    for i, place in enumerate(places):
      pixels[0, i][*place] -= step
      pixels[1, i][*place] += step
    x = (pixels - mean) / net.preprocessing.std
    low, high = np.asarray(logits(x.reshape(40, 67, 67, 3))).reshape(2, 20)
  found = gradient[*places.T]
  assert (np.abs(found) > 1e-6).sum() > 10
  np.testing.assert_allclose(
    found, (high - low) / (2 * step), rtol=1e-5, atol=1e-9
  )


def test_occlusion_equals_a_loop():
  net = random_network()
  image, label, patch, stride = noise(), 2, 9, 4
  found = insides.occlusion(net, image, label, patch, stride)
  assert found.shape == (17, 17)
  mean = net.preprocessing.mean_of_crops()
  x = (image - mean) / net.preprocessing.std
  places = ((0, 0), (0, 9), (5, 3), (16, 16), (8, 0))
  hidden = np.stack([x] * len(places))
  for n, (row, column) in enumerate(places):
    for i in range(67):
      for j in range(67):
        # Squares are centered on cells of 4 x 4: their middles are 4 i + 2.
        inside = [
          begin <= k < begin + patch
          for k, begin in ((i, 4 * row - 3), (j, 4 * column - 3))
        ]
        if all(inside):
          hidden[n, i, j] = 0
  logits = jax.jit(net.model.apply)({'params': net.params}, hidden)
  expected = jax.nn.softmax(logits)[:, label]
  np.testing.assert_allclose(found[*np.transpose(places)], expected, rtol=1e-4)
  assert np.ptp(found) > 1e-3


@pytest.mark.parametrize('patch', [1, 4, 5, 8])
def test_every_square_is_centered_on_its_cell(patch):
  begins = insides.square_begins(24, patch, 4)
  middles = begins + (patch - 1) / 2
  cells = np.arange(0, 24, 4) + 1.5
  assert np.abs(middles - cells).max() <= 0.5


def changed(architecture, layers, height, width):
  """Which rows of an image change each row of some layers, by changing them.

  Returns booleans `[rows of the layer, height]` by layer.
  """
  model = AlexNet(architecture, num_classes=2, dtype=jnp.float64)
  rng = np.random.default_rng(0)
  rows = np.arange(height)
  # Image i has another row i, and the last one is unchanged.
  images = np.tile(rng.normal(0, 50, (height, width, 3)), (height + 1, 1, 1, 1))
  images[rows, rows] = rng.normal(0, 200, (height, width, 3))
  functions = {'method': 'features', 'layers': layers}
  shapes = jax.eval_shape(
    functools.partial(model.init, **functions), jax.random.key(0), images[:1]
  )
  variables = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape), shapes)
  for leaves in variables['params'].values():
    if 'variance' in leaves:
      leaves['variance'] **= 2
  found = jax.jit(functools.partial(model.apply, **functions))(
    variables, images
  )
  return {
    layer: (np.abs(x[:-1] - x[-1]).max(axis=(2, 3)) > 1e-9).T
    for layer, x in found.items()
  }


@pytest.mark.parametrize(
  'name', [*ALEXNETS, 'alexnet_bn', 'cifar10_relu', 'cifar10_local']
)
def test_receptive_fields_are_the_pixels_that_count(name):
  architecture = small(name)
  # No ReLU, which would hide changes.
  architecture = dataclasses.replace(architecture, activation='tanh').with_ops(
    lambda op: None if isinstance(op, Activation) else op
  )
  size = min(ARCHITECTURES[name].input_size, 195)
  layers = tuple(
    layer
    for layer in architecture.scope_names
    if re.match('(conv|lrn|norm|pool)', layer)
  )
  with jax.enable_x64(True):
    found = changed(architecture, layers, size, min(size, 67))
  assert len(found) >= 6
  for layer, rows in found.items():
    field = receptive_field(architecture, layer, size)
    spans = np.array([field.span(i) for i in range(len(rows))])
    expected = (spans[:, :1] <= np.arange(size)) & (
      np.arange(size) < spans[:, 1:]
    )
    np.testing.assert_array_equal(rows, expected, layer)


def test_all_of_the_image():
  net = ARCHITECTURES['torchvision']
  at_224 = receptive_field(net, 'avgpool5', 224)
  assert at_224 == receptive_field(net, 'pool5', 224) == (-66, 32, 195, 224)
  # Here the average is of several positions, or of one for all.
  assert receptive_field(net, 'avgpool5', 300) == (0, 0, 300, 297)
  assert receptive_field(net, 'fc7', 224).span(3000) == (0, 224)


def test_the_strongest_images_are_those_of_a_loop(network, tiny_dir):
  net = pretrained.load(network)
  dataset = open_dataset('tiny', str(tiny_dir))
  apply = jax.jit(
    lambda x: net.model.apply(
      {'params': net.params}, x, method='features', layers=('conv3',)
    )['conv3']
  )
  maps, views = [], []
  for example in dataset.read('train').as_numpy_iterator():
    maps.append(apply(eval_views(example['image'], net.preprocessing, 1))[0])
    view = preprocess.eval_views(example['image'], net.preprocessing, 1)
    views.append(view['image'][0].numpy())
  for unit in (0, 7):
    of_unit = np.stack(maps)[..., unit]
    maxima = of_unit.max(axis=(1, 2))
    order = np.argsort(-maxima, kind='stable')[:9]
    found = insides.strongest(net, dataset, 'train', 'conv3', unit)
    assert [one.position for one in found] == order.tolist()
    np.testing.assert_allclose(
      [one.activation for one in found], maxima[order], rtol=1e-4
    )
    for one in found:
      value = of_unit[one.position][one.place]
      np.testing.assert_allclose(value, maxima[one.position], rtol=1e-4)
      np.testing.assert_array_equal(one.image, views[one.position])


def test_a_padded_batch_adds_no_images(network, tiny_dir):
  """19 images, and a unit that no image drives: ties go to the earlier."""
  net = pretrained.load(network)
  dataset = open_dataset('tiny', str(tiny_dir))
  params = jax.tree.map(np.zeros_like, net.params)
  net = net._replace(params=params)
  found = insides.strongest(net, dataset, 'validation', 'conv1', 0, number=30)
  assert [one.position for one in found] == list(range(19))
  assert {one.place for one in found} == {(0, 0)}


@pytest.fixture(scope='module')
def photo(tmp_path_factory, photographs):
  path = tmp_path_factory.mktemp('photo') / 'china & $x_1$.png'
  path.write_bytes(conftest.encode(photographs[0], form='PNG'))
  return path


PNGS = ('sees_maps.png', 'sees_gradient.png', 'sees_occlusion.png',
        'sees_patches.png')  # fmt: skip


def test_the_page_of_an_image(network, tiny_dir, tmp_path, photo, capsys):
  out = tmp_path / 'made/here'
  figures.main(flags(network, tiny_dir, out, f'--image={photo}'))
  printed = capsys.readouterr()
  assert 'sees.html' in printed.out
  assert printed.err == ''
  assert {path.name for path in out.iterdir()} == {
    *PNGS, 'sees.html', 'sees.json'
  }  # fmt: skip
  page = (out / 'sees.html').read_text()
  assert 'china &amp; $x_1$.png' in page
  for name in PNGS:
    assert f'src="{name}"' in page
    with Image.open(out / name) as image:
      assert image.width >= 700
      assert image.height >= 400
  content = json.loads((out / 'sees.json').read_text())
  net = pretrained.load(network)
  x = eval_views(photo.read_bytes(), net.preprocessing, 1)
  apply = jax.jit(net.model.apply, static_argnames=('method', 'layers'))
  variables = {'params': net.params}
  logits = apply(variables, x)[0]
  one = content['class']
  assert one['label'] == logits.argmax()
  np.testing.assert_allclose(one['logit'], logits.max(), rtol=1e-3)
  probability = jax.nn.softmax(logits).max()
  np.testing.assert_allclose(one['probability'], probability, rtol=1e-3)
  maps = apply(variables, x, method='features', layers='conv5')['conv5'][0]
  maxima = maps.max((0, 1))
  np.testing.assert_allclose(
    content['maps']['maxima'], maxima, rtol=1e-3, atol=1e-5
  )
  unit = int(maxima.argmax())
  assert content['maps']['unit'] == content['patches']['unit'] == unit
  grid = np.array(content['occlusion']['probabilities'])
  assert grid.shape == (34, 34)  # 67 pixels, every 2.
  row, column = np.argwhere(maps[..., unit] == maxima.max())[0]
  field = receptive_field(net.model.architecture, 'conv5', 67)
  left, top, width, height = content['maps']['box']
  assert (top, top + height) == field.span(int(row))
  assert (left, left + width) == field.span(int(column))
  assert grid.min() == content['occlusion']['lowest']
  dataset = open_dataset('tiny', str(tiny_dir))
  strongest = insides.strongest(net, dataset, 'validation', 'conv5', unit)
  patches = content['patches']['images']
  assert [p['position'] for p in patches] == [s.position for s in strongest]
  for words in ('19 images', "'validation'", 'tiny/1.0.0', 'step 0',
                '9 x 9 pixels', '34 x 34 places', f'unit {unit} of conv5',
                f'{one["probability"]:.1%}'):  # fmt: skip
    assert words.replace("'", '&#39;') in page, words


def test_a_chosen_layer_class_and_unit(network, tmp_path, photo, capsys):
  """Converted weights without a dataset; an earlier page had patches."""
  (tmp_path / 'sees_patches.png').write_bytes(b'of an earlier page')
  figures.main(
    [str(network), f'--out={tmp_path}', f'--image={photo}', '--unit=3',
     '--layer=conv2/linear', '--class=Texture']
  )  # fmt: skip
  error = capsys.readouterr().err
  assert error.count('WARNING') == 1
  assert 'no sees_patches.png (--data' in error
  assert 'give --data and --val_split' in error
  assert {path.name for path in tmp_path.iterdir()} == {
    *PNGS[:3], 'sees.html', 'sees.json'
  }  # fmt: skip
  assert 'patches' not in (tmp_path / 'sees.html').read_text()
  content = json.loads((tmp_path / 'sees.json').read_text())
  assert content['class']['label'] == 2
  assert content['class']['name'] == 'texture'
  maps = content['maps']
  assert (maps['layer'], maps['unit'], maps['signed']) == (
    'conv2/linear', 3, True
  )  # fmt: skip


def test_a_small_image_is_enlarged(network, tmp_path, photographs, capsys):
  path = tmp_path / 'small.png'
  path.write_bytes(conftest.encode(photographs[0][:20, :30], form='PNG'))
  view = read_view(str(path), pretrained.load(network).preprocessing)
  assert view.image.shape == (67, 67, 3)
  error = capsys.readouterr().err
  assert error.count('WARNING') == 1
  assert 'enlarged from 30x20 to 108x72 pixels' in error


@pytest.mark.parametrize(
  ('more', 'match'),
  [
    (('--layer=conv9',), r'--layer=conv9: .*give one of conv1, lrn1, pool1'),
    (('--layer=fc6',), 'fully connected, without maps; give one of conv1'),
    (('--unit=32',), '--unit=32: conv5 has 32 units, 0 to 31'),
    (('--unit=-1',), 'has 32 units'),
    (('--class=dog',), r'--class=dog: .*0 to 2, or a name: china, flower'),
    (('--class=3',), '--class=3: there is no such class'),
    (('--class=',), '--class=: there is no such class'),
    (('--image=missing.jpg',), r'cannot read missing.jpg \(--image\): No such'),
    (('--image=/',), r'cannot read / \(--image\): Is a directory'),
    (('--image=',), r'cannot read  \(--image\)'),
    ((f'--image={__file__}',), r'test_insides.py \(--image\): not an image'),
    (('--mistakes',), 'not allowed with'),
    (('--data=tinny',), 'tinny'),
    (('--val_split=test',), "unknown split 'test'"),
  ],
)
def test_refusals(network, tiny_dir, tmp_path, photo, more, match):
  out = tmp_path / 'out'
  arguments = flags(network, tiny_dir, out, f'--image={photo}', *more)
  with pytest.raises(UserError, match=match):
    figures.main(arguments)
  assert not out.exists()


def test_a_network_that_is_not_finite_is_refused(network, tmp_path, photo):
  net = pretrained.load(network)
  net = net._replace(params=jax.tree.map(lambda x: x * np.nan, net.params))
  with pytest.raises(UserError, match='values that are not finite'):
    sees.make(net, str(photo), epath.Path(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_a_damaged_image_is_refused(network, tmp_path, photographs):
  path = tmp_path / 'cut.jpg'
  encoded = conftest.encode(photographs[0])
  path.write_bytes(encoded[: len(encoded) // 2])
  with pytest.raises(UserError, match=r'cannot decode .*cut.jpg \(--image\)'):
    read_view(str(path), pretrained.load(network).preprocessing)


def test_options_of_an_image_need_one(network):
  with pytest.raises(UserError, match='--layer needs --image=FILE'):
    figures.main([str(network), '--layer=conv1'])


@pytest.mark.parametrize(
  ('text', 'label'),
  [
    ('n02102040', 0),
    ('english springer', 0),
    ('English Springer Spaniel', 0),
    ('7', 1),  # A name comes before a number.
    ('0', 0),
    ('4', 4),
  ],
)
def test_the_names_of_classes(text, label):
  names = ('n02102040', '7', 'n02012849', 'n03126707')
  assert find_label(text, names, 5) == label


def test_a_name_of_two_classes_is_refused():
  names = ('n02012849', 'n03126707')  # The bird, and the machine.
  with pytest.raises(UserError, match='crane: that is 0 and 1; give the num'):
    find_label('crane', names, 2)


@pytest.mark.parametrize('channels', [1, 2, 64, 384])
def test_every_map_is_drawn(channels):
  """In its own scale: the darkest map has a white pixel, too."""
  maps = np.zeros((3, 3, channels))
  maps[1, 1] = 10.0 ** -np.arange(channels).clip(0, 20)
  image = np.zeros((20, 20, 3), np.uint8)
  png = plots.draw_maps(image, maps, channels - 1, (2, 2, 9, 9), 'title')
  pixels = tf.io.decode_png(png, 3).numpy().astype(int)
  grid = pixels[300:]
  orange = np.abs(grid - [230, 159, 0]).max(axis=-1) < 30
  assert orange.sum() > 100
  black = (grid == 0).all(axis=-1).sum()
  # Eight of nine pixels of each map, but for the frame and the numbers.
  assert black > 0.8 * channels * 8 * 13**2


def test_saturation():
  values = np.zeros((100, 100))
  assert plots.saturation(values) == 1
  values[0, :60] = -2
  assert plots.saturation(values) == 2
