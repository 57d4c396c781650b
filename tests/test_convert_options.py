"""What a file of weights does not say: classes, normalization, input size."""

import hashlib
import pathlib

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import numpy as np
import torch
from converting import hollow_state_dict, refuse
from etils import epath

from alexnet_jax import convert
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet
from alexnet_jax.data.preprocessing import read_preprocessing
from alexnet_jax.model import ALEXNETS
from alexnet_jax.pretrained import conversion, published

CLASSES = 10


def zeros(path, num_classes):
  """Writes a state dict in half precision."""
  hollow = hollow_state_dict(num_classes)
  state = {name: t.contiguous().half() for name, t in hollow.items()}
  torch.save({'net': state}, path)
  return str(path)


@pytest.fixture(scope='module')
def thousand(tmp_path_factory):
  """A state dict of 1000 classes."""
  return zeros(tmp_path_factory.mktemp('thousand') / 'in.pth', 1000)


def test_a_thousand_classes_are_imagenets_if_published(thousand, monkeypatch):
  unknown = conversion.read(thousand)
  assert unknown.preprocessing.class_names == ()
  assert unknown.notes == (
    'state dict: net',
    'the file does not name its classes: convert it with --class_names=FILE',
  )
  digest = hashlib.sha256(pathlib.Path(thousand).read_bytes()).hexdigest()
  ours = published.PUBLISHED['torchvision']._replace(
    digest=published.Digest('sha256', digest[:8])
  )
  monkeypatch.setitem(published.PUBLISHED, 'torchvision', ours)
  known = conversion.read(thousand)
  names = known.preprocessing.class_names
  assert (names[0], len(set(names))) == ('n01440764', 1000)
  assert imagenet.words('n01440764') == 'tench, Tinca tinca'
  np.testing.assert_allclose(
    known.preprocessing.mean, [123.675, 116.28, 103.53]
  )
  assert known.notes == ('state dict: net',)


def test_what_a_file_does_not_say(tmp_path, capsys):
  source = zeros(tmp_path / 'in.pth', CLASSES)
  names = tmp_path / 'names.txt'
  names.write_text('\n'.join(f'n{i}, a name' for i in range(CLASSES)) + '\n')
  options = [
    f'--class_names={names}', '--mean=127.5,127.5,127.5', '--std=1,2,3',
    '--crop_size=299',
  ]  # fmt: skip
  convert.main([str(source), str(tmp_path / 'converted'), *options])
  printed = capsys.readouterr().out
  assert printed.startswith('state dict: net\ntorchvision, 10 classes')
  p = read_preprocessing(epath.Path(tmp_path / 'converted'))
  assert p.class_names == tuple(f'n{i}, a name' for i in range(CLASSES))
  np.testing.assert_array_equal(p.mean, 127.5)
  np.testing.assert_array_equal(p.std, [1, 2, 3])
  assert (p.crop_size, p.resize_size) == (299, 342)


def test_imagenets_names_on_request():
  assert convert._names('imagenet') == list(imagenet.synsets())


@pytest.mark.parametrize(
  ('network', 'crop_size', 'resize_size'),
  [
    ('torchvision', 63, 72), ('torchvision', 224, 256),
    ('torchvision', 227, 256), ('torchvision', 448, 512),
    ('caffe', 227, 256), ('caffe', 230, 256),
  ],
)  # fmt: skip
def test_crop_sizes(network, crop_size, resize_size):
  p = conversion._preprocessing(
    ALEXNETS[network], conversion.Options(crop_size=crop_size)
  )
  assert (p.crop_size, p.resize_size) == (crop_size, resize_size)


@pytest.mark.parametrize(
  ('network', 'crop_size', 'match'),
  [
    ('torchvision', 62, 'takes at least 63 pixels'),
    ('torchvision', -1, 'takes at least 63 pixels'),
    ('torchvision', 0, 'takes at least 63 pixels'),
    ('torchvision', 10**7, 'must be at most 4096'),
    ('caffe', 257, 'fit its fc6 at 227 pixels'),
    ('caffe', 224, 'fit its fc6 at 227 pixels'),
    ('caffenet', 300, 'fit its fc6 at 227 pixels'),
  ],
)
def test_crop_sizes_that_do_not_fit(network, crop_size, match):
  with pytest.raises(UserError, match=match):
    conversion._preprocessing(
      ALEXNETS[network], conversion.Options(crop_size=crop_size)
    )


@pytest.mark.parametrize(
  ('option', 'match'),
  [
    ('--std=1,2', "'1,2' is not R,G,B"),
    ('--std=0,1,1', 'must be positive'),
    ('--std=.229,.224,.225', 'must be in grey levels, 0 to 255: multiply it'),
    ('--mean=.485,.456,.406', 'must be in grey levels, 0 to 255: multiply it'),
    ('--mean=absent', 'a state dict takes R,G,B'),
    ('--crop_size=big', 'invalid int value'),
    ('--class_names=absent', 'cannot read absent'),
  ],
)
def test_wrong_options(tmp_path, option, match):
  source = tmp_path / 'in.pth'
  torch.save(hollow_state_dict(CLASSES), source)
  refuse(tmp_path, source, option, match=match)


@pytest.mark.parametrize(
  ('lines', 'match'),
  [
    (['a', 'b'], '2 class names .* has 10 outputs'),
    ([*'abcdefgha', 'i'], "'a' .* is empty or there twice"),
    ([*'abcd', '', *'efghi'], "'' .* is empty or there twice"),
  ],
)
def test_wrong_class_names(lines, match):
  with pytest.raises(UserError, match=match):
    conversion._class_names(
      'in.pth', CLASSES, conversion.Options(class_names=lines)
    )
