"""Weights by name and URL, from a server on loopback that has such files."""

import dataclasses
import hashlib
import http.server
import io
import json
import pathlib
import tarfile
import threading

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import caffe_encoder
import numpy as np
import torch
from conftest import encode
from etils import epath
from test_downloads import names

import alexnet_jax
from alexnet_jax import convert, figures, predict, pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet
from alexnet_jax.model import ALEXNETS, AlexNet
from alexnet_jax.pretrained import (
  conversion,
  fine_tuning,
  published,
  torchvision,
)
from alexnet_jax.pretrained.layouts import source_shapes
from configs import finetune


def layers_of(name):
  """Weights and biases of a thousand classes: zeros, but for conv1's."""
  rng = np.random.default_rng(0)
  layers = {
    layer: tuple(np.zeros(shape, np.float32) for shape in shapes)
    for layer, shapes in source_shapes(ALEXNETS[name], 1000).items()
  }
  for array in layers['conv1']:
    array[:] = rng.standard_normal(array.shape)
  return layers


def mean_archive(color=imagenet.CAFFE_MEAN):
  """caffe_ilsvrc12.tar.gz, with a mean image of this mean color, RGB."""
  image = np.zeros((3, 256, 256), np.float32)
  image += np.float32(color)[::-1, None, None]
  image[:, ::2] += 10
  image[:, 1::2] -= 10
  content = caffe_encoder.binaryproto(image)
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as tar:
    member = tarfile.TarInfo('imagenet_mean.binaryproto')
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
  return buffer.getvalue()


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The folder that the server serves."""
  folder = tmp_path_factory.mktemp('site')
  torch.save(
    {
      f'{torchvision.NAMES[layer]}.{kind}': torch.from_numpy(array).half()
      for layer, arrays in layers_of('torchvision').items()
      for kind, array in zip(('weight', 'bias'), arrays, strict=True)
    },
    folder / 'alexnet.pth',
  )
  (folder / 'bvlc_alexnet.caffemodel').write_bytes(
    caffe_encoder.caffemodel('caffe', layers_of('caffe'))
  )
  return folder


@pytest.fixture
def server(site, monkeypatch, tmp_path):
  """The published URLs lead to a server, which lists its requests."""
  requests = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=str(site))

    def log_request(self, *_):
      requests.append(self.path.strip('/'))

  (site / 'caffe_ilsvrc12.tar.gz').write_bytes(mean_archive())
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  server.requests = requests
  server.address = f'http://127.0.0.1:{server.server_port}'
  for name, file, algorithm in (
    ('torchvision', 'alexnet.pth', 'sha256'),
    ('caffe', 'bvlc_alexnet.caffemodel', 'sha1'),
  ):
    with (site / file).open('rb') as content:
      digest = hashlib.file_digest(content, algorithm).hexdigest()
    entry = published.Published(
      name,
      f'{server.address}/{file}',
      published.Digest(algorithm, digest[: 8 if algorithm == 'sha256' else 40]),
    )
    monkeypatch.setitem(published.PUBLISHED, name, entry)
  monkeypatch.setattr(
    published, 'CAFFE_MEAN_ARCHIVE', f'{server.address}/caffe_ilsvrc12.tar.gz'
  )
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('no_proxy', '127.0.0.1')
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


def test_load_by_name(server, tmp_path, capsys):
  network = alexnet_jax.load('torchvision')
  assert server.requests == ['alexnet.pth']
  assert network.model.architecture == ALEXNETS['torchvision']
  assert network.model.num_classes == 1000
  p = network.preprocessing
  assert p.class_names == tuple(imagenet.synsets())
  assert (p.crop_size, p.resize_size, p.resize) == (224, 256, 'short_side')
  weight, bias = (
    a.astype(np.float16) for a in layers_of('torchvision')['conv1']
  )
  conv1 = network.params['conv1']
  np.testing.assert_array_equal(conv1['kernel'], weight.transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(conv1['bias'], bias)
  assert conv1['kernel'].dtype == np.float32
  # The second time, it is in the cache.
  server.requests.clear()
  again = published.fetch('torchvision')
  assert pathlib.Path(again.path).name == 'alexnet.pth'
  assert not server.requests
  with pytest.raises(UserError, match="without a step '7'"):
    alexnet_jax.load('torchvision', step='7')
  assert capsys.readouterr().out == ''


@pytest.mark.long
def test_the_commands_take_names(server, tmp_path, photographs, capsys):
  photo = tmp_path / 'photo.jpg'
  photo.write_bytes(encode(photographs[0]))
  predict.main([str(photo), '--workdir=torchvision', '--json'])
  (found,) = json.loads(capsys.readouterr().out)
  assert found['classes'][0]['name'] == 'tench, Tinca tinca'
  with pytest.raises(UserError, match='not a folder: add --out=DIR'):
    figures.main(['torchvision', f'--image={photo}'])
  (tmp_path / 'taken').write_text('mine')
  server.requests.clear()
  with pytest.raises(UserError, match='already exists'):
    convert.main(['caffe', str(tmp_path / 'taken')])
  assert not server.requests  # Refused before the download.
  convert.main(['torchvision', str(tmp_path / 'workdir')])
  assert 'torchvision, 1000 classes' in capsys.readouterr().out
  converted = pretrained.load(tmp_path / 'workdir')
  assert converted.preprocessing.class_names == tuple(imagenet.synsets())


def test_caffes_network_has_its_mean_image(server, site, tmp_path, capsys):
  for wrong in (mean_archive((1, 2, 3)), b'<html>moved</html>'):
    (site / 'caffe_ilsvrc12.tar.gz').write_bytes(wrong)
    with pytest.raises(UserError, match="does not hold Caffe's mean image"):
      published.fetch('caffe')
    # Nothing of it is kept.
    assert names(tmp_path / 'cache') == ['bvlc_alexnet.caffemodel']
  (site / 'caffe_ilsvrc12.tar.gz').write_bytes(mean_archive())
  convert.main(['caffe', str(tmp_path / 'workdir')])
  network = pretrained.load(tmp_path / 'workdir')
  p = network.preprocessing
  assert (p.mean.shape, p.mean_crop, p.resize) == (
    (256, 256, 3),
    'same',
    'warp',
  )
  np.testing.assert_allclose(
    p.mean.mean((0, 1)), imagenet.CAFFE_MEAN, atol=0.01
  )
  assert p.class_names[0] == 'n01440764'
  weight, _ = layers_of('caffe')['conv1']
  np.testing.assert_array_equal(
    network.params['conv1']['kernel'], weight.transpose(2, 3, 1, 0)[:, :, ::-1]
  )
  assert 'mean color' not in capsys.readouterr().out
  server.requests.clear()
  assert published.fetch('caffe').path.endswith('caffemodel')
  assert not server.requests


def test_load_a_url_and_a_file(server, site, capsys):
  """Under another name, it is the same file; changed, it is not."""
  (site / 'mine.bin').write_bytes((site / 'alexnet.pth').read_bytes())
  url = f'{server.address}/mine.bin?download=1'
  found = alexnet_jax.load(url)
  assert (found.params['conv1']['kernel'] != 0).all()
  assert found.preprocessing.class_names == tuple(imagenet.synsets())
  capsys.readouterr()
  state = torch.load(site / 'mine.bin')
  state['features.0.bias'] += 1
  torch.save({'net': state}, site / 'mine.bin')
  other = alexnet_jax.load(str(site / 'mine.bin'))
  assert other.preprocessing.class_names == ()
  printed = capsys.readouterr()
  assert 'state dict: net' in printed.err
  assert 'does not name its classes' in printed.err
  assert printed.out == ''


def test_fine_tune_from_a_name(server, tmp_path, monkeypatch):
  config = finetune.get_config()
  config.init_from = 'torchvision'
  filled = fine_tuning.filled(config, epath.Path(tmp_path / 'run'))
  assert filled.model.name == 'torchvision'
  assert filled.data.crop_size == 224
  np.testing.assert_allclose(filled.data.mean, imagenet.TORCHVISION_MEAN)
  # As Caffe's networks have it, whose files take longer to read.
  p = conversion._preprocessing(ALEXNETS['caffe'], conversion.DEFAULT)
  p = dataclasses.replace(p, mean=np.zeros((256, 256, 3)))
  network = pretrained.Pretrained(
    AlexNet(ALEXNETS['caffe']), {}, p, 0, 0, 'train'
  )
  monkeypatch.setattr(pretrained, 'load', lambda _: network)
  config.init_from = 'caffe'
  with pytest.raises(UserError, match=r'convert caffe runs/weights'):
    fine_tuning.filled(config, epath.Path(tmp_path / 'run'))


@pytest.mark.parametrize('url', ['ftp://h/a.pth', 's3://h/a.pth', 'file:///a'])
def test_urls_that_cannot_be_read(url, tmp_path):
  match = r'expected a local path, gs:// or a URL with http:// or https://'
  with pytest.raises(UserError, match=match):
    alexnet_jax.load(url)
  with pytest.raises(UserError, match=match):
    convert.main([url, str(tmp_path / 'new')])


def test_a_page_in_place_of_a_file(server, site, tmp_path):
  (site / 'page.bin').write_text('<html>log in</html>')
  url = f'{server.address.replace("http", "HTTP")}/page.bin'
  with pytest.raises(UserError, match=r'again, delete .*page\.bin$'):
    alexnet_jax.load(url)
  with pytest.raises(UserError, match=r'again, delete .*page\.bin$'):
    convert.main([url, str(tmp_path / 'new')])


def test_a_corrupt_archive_is_removed(server, tmp_path):
  published._mean_image()
  (archive,) = (tmp_path / 'cache').rglob('*.tar.gz')
  image = archive.with_name('imagenet_mean.binaryproto')
  content = bytearray(archive.read_bytes())
  for position in range(20, len(content), len(content) // 12):
    content[position] ^= 0x55
    archive.write_bytes(content)
    image.unlink(missing_ok=True)
    with pytest.raises(UserError, match="does not hold Caffe's mean image"):
      published._mean_image()
    assert not archive.exists()
    assert not image.exists()


def test_names_that_are_not_published(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  called = 'called torchvision, caffe, caffenet'
  with pytest.raises(UserError, match=called):
    alexnet_jax.load('resnet50')
  with pytest.raises(UserError, match=called):
    convert.main(['resnet50', 'runs'])
  pathlib.Path('torchvision').mkdir()
  with pytest.raises(UserError, match=r'no checkpoint in .*vision: train'):
    alexnet_jax.load('./torchvision')
