"""Published weights, read from and written to files of their own formats."""

import warnings
import zipfile

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import caffe_encoder
import jax
import numpy as np
import safetensors.torch
import torch
import torch_alexnets
from converting import hollow_state_dict, refuse

from alexnet_jax import convert, pretrained
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.model import ALEXNETS, AlexNet
from alexnet_jax.model.ablations import ablated
from alexnet_jax.pretrained import conversion, exporting, torchvision
from alexnet_jax.pretrained.layouts import to_params
from alexnet_jax.runs.params import params_digest

CLASSES = 10


@pytest.fixture(scope='module')
def state_dict():
  """A torchvision state dict of 10 classes, with PyTorch's initial weights."""
  torch.manual_seed(0)
  network = torch_alexnets.build('torchvision', CLASSES)
  return {
    f'{name}.{kind}': getattr(getattr(network, layer), kind).detach()
    for layer, name in torchvision.NAMES.items()
    for kind in ('weight', 'bias')
  }


@pytest.fixture(scope='module')
def caffe_weights():
  """Weights in Caffe's layout, large enough for LRN to matter."""
  rng = np.random.default_rng(0)
  network = torch_alexnets.build('caffe', CLASSES)
  weights = {}
  for layer in torchvision.NAMES:
    shape = tuple(getattr(network, layer).weight.shape)
    std = np.sqrt(2 / np.prod(shape[1:]))
    weight = (std * rng.standard_normal(shape)).astype(np.float32)
    weights[layer] = (weight, rng.standard_normal(shape[0], np.float32))
  return weights


def reference(name, weights):
  """A PyTorch network with these weights, `[out, in, ...]`."""
  network = torch_alexnets.build(name, CLASSES)
  with torch.no_grad():
    for layer, (weight, bias) in weights.items():
      getattr(network, layer).weight.copy_(torch.as_tensor(weight))
      getattr(network, layer).bias.copy_(torch.as_tensor(bias))
  return network


def logits_of(loaded, images):
  return jax.jit(loaded.model.apply)({'params': loaded.params}, images)


def photograph_like(size):
  rng = np.random.default_rng(1)
  return rng.normal(0, 60, (2, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize(
  'suffix', ['.pth', pytest.param('.safetensors', marks=pytest.mark.long)]
)
def test_torchvision_round_trip(tmp_path, state_dict, suffix):
  source, back = tmp_path / f'in{suffix}', tmp_path / f'out{suffix}'
  if suffix == '.pth':
    # As a training script on several GPUs saves it.
    trained = {
      k.replace('features.', 'features.module.'): torch.nn.Parameter(v)
      for k, v in state_dict.items()
    }
    torch.save({'epoch': 90, 'state_dict': trained}, source)
  else:
    safetensors.torch.save_file(state_dict, source)
  workdir = tmp_path / 'converted'
  convert.main([str(source), str(workdir)])
  loaded = pretrained.load(workdir)
  assert loaded.model.architecture.name == 'torchvision'
  assert loaded.model.num_classes == CLASSES
  convert.main([str(workdir), str(back)])
  if suffix == '.pth':
    again = torch.load(back, weights_only=True)
    images = photograph_like(224)
    network = reference(
      'torchvision',
      {
        layer: (state_dict[f'{name}.weight'], state_dict[f'{name}.bias'])
        for layer, name in torchvision.NAMES.items()
      },
    )
    with torch.no_grad():
      expected = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(
      logits_of(loaded, images), expected, rtol=1e-4, atol=1e-5
    )
  else:
    again = safetensors.torch.load_file(back)
  assert list(again) == list(state_dict) or suffix == '.safetensors'
  assert set(again) == set(state_dict)
  for name, tensor in state_dict.items():
    assert torch.equal(again[name], tensor)
  assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize(
  ('network', 'version', 'packed', 'data_layers'),
  [('caffe', 1, True, True), ('caffenet', 2, False, True),
   pytest.param('caffe', 2, True, False, marks=pytest.mark.long)],
)  # fmt: skip
def test_caffe(tmp_path, caffe_weights, network, version, packed, data_layers):
  source = tmp_path / 'net.caffemodel'
  source.write_bytes(
    caffe_encoder.caffemodel(
      network,
      caffe_weights,
      version=version,
      packed=packed,
      include_data_layers=data_layers,
    )
  )
  mean_bgr = np.random.default_rng(2).uniform(90, 140, (3, 256, 256))
  mean = tmp_path / 'mean.binaryproto'
  mean.write_bytes(
    caffe_encoder.binaryproto(mean_bgr.astype(np.float32), legacy=version == 1)
  )
  workdir = tmp_path / 'converted'
  convert.main([str(source), str(workdir), f'--mean={mean}'])
  loaded = pretrained.load(workdir)
  # Detected by the order of the layers, not by the file's name.
  assert loaded.model.architecture.name == network
  p = loaded.preprocessing
  assert (p.resize, p.resize_size, p.crop_size) == ('warp', 256, 227)
  assert p.mean_crop == 'same'
  np.testing.assert_array_equal(
    p.mean, mean_bgr.astype(np.float32).transpose(1, 2, 0)[..., ::-1]
  )
  np.testing.assert_array_equal(p.std, 1)
  # The reference takes blue, green, red, as Caffe does.
  images = photograph_like(227)
  with torch.no_grad():
    expected = reference(network, caffe_weights)(
      torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2)
    )
  np.testing.assert_allclose(
    logits_of(loaded, images),
    expected,
    atol=1e-5 * float(expected.abs().max()),
  )


# ---- Refused files: one line, and nothing is written. ------------------------


def saved(tmp_path, tensors, name='in.pth'):
  torch.save(tensors, tmp_path / name)
  return tmp_path / name


def changed(tensors, **changes):
  """A copy with some tensors replaced, or removed by None."""
  result = {**tensors, **{k.replace('__', '.'): v for k, v in changes.items()}}
  return {k: v for k, v in result.items() if v is not None}


KERNEL = torch.zeros(64, 3, 11, 11)
with warnings.catch_warnings(action='ignore'):  # It is a prototype.
  NESTED = torch.nested.nested_tensor([KERNEL[0], KERNEL[1]])


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    (
      {'features__0__weight': torch.zeros(64, 3, 3, 3)},
      r'features.0.weight: expected \(64, 3, 11, 11\), found \(64, 3, 3, 3\)',
    ),
    (
      {'classifier__6__bias': None},
      r'classifier.6.bias: expected \(10,\), found no such tensor',
    ),
    (
      {'features__1__running_mean': torch.zeros(64)},
      r'features.1.running_mean: expected no such tensor, found \(64,\)',
    ),
    (
      {'classifier__6__weight': torch.zeros(()).expand(0, 4096)},
      r'classifier.6.weight: expected \(1000, 4096\), found \(0, 4096\)',
    ),
    ({'module__classifier__6__bias': torch.zeros(10)}, 'bias twice'),
    ({}, r'features.0.weight claims the shape \(64, 3, 11, 11\)'),
    ({'features__0__weight': KERNEL.long()}, 'int64, expected a dense float'),
    ({'features__0__weight': KERNEL.to_sparse()}, 'dense'),
    ({'features__0__weight': KERNEL.to('meta')}, 'dense'),
    ({'features__0__weight': NESTED}, 'is nested, expected a dense'),
    (
      {'features__0__weight': KERNEL + torch.nan},
      'features.0.weight holds values that are not finite',
    ),
    (
      {'features__0__weight': KERNEL.double() + 1e300},
      'features.0.weight holds values that are not finite',
    ),
  ],
)
def test_wrong_tensors(tmp_path, changes, match):
  """Each tensor of `hollow_state_dict` claims more than the file holds."""
  hollow = hollow_state_dict(CLASSES)
  source = saved(tmp_path, changed(hollow, **changes))
  refuse(tmp_path, source, match=match)


def test_a_zip_bomb(tmp_path):
  with zipfile.ZipFile(tmp_path / 'in.pth', 'w', zipfile.ZIP_DEFLATED) as file:
    file.writestr('in/data/0', b'\0' * 10**7)
  refuse(tmp_path, tmp_path / 'in.pth', match='expand to 10000000 bytes')


def test_a_failure_leaves_no_files(tmp_path, monkeypatch, state_dict):
  def full(*_):
    raise OSError('no space left')

  source = saved(tmp_path, state_dict)
  monkeypatch.setattr(conversion, 'save_params', full)
  with pytest.raises(StorageError, match='no space left'):
    convert.main([str(source), str(tmp_path / 'converted')])
  assert list(tmp_path.iterdir()) == [source]
  (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='already exists'):
    convert.main([str(source), str(tmp_path / 'link')])


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.caffemodel'])
def test_truncated_files(tmp_path, suffix):
  small = {'features.0.weight': torch.zeros(64, 3, 11, 11)}
  source = tmp_path / f'in{suffix}'
  if suffix == '.pth':
    torch.save(small, source)
  elif suffix == '.safetensors':
    safetensors.torch.save_file(small, source)
  else:
    weights = {
      layer: (np.zeros((2, 2), np.float32), np.zeros(2, np.float32))
      for layer in ('fc6', 'fc7', 'fc8')
    } | {
      f'conv{i}': (np.zeros((2, 2, 3, 3), np.float32), np.zeros(2, np.float32))
      for i in range(1, 6)
    }
    source.write_bytes(caffe_encoder.caffemodel('caffe', weights))
  content = source.read_bytes()
  for size in (len(content) - 1, len(content) // 2, 9, 0):
    source.write_bytes(content[:size])
    refuse(tmp_path, source, match='truncated|no layers')
  source.write_bytes(b'\xff' * 1000)
  refuse(tmp_path, source, match='truncated')


def test_wrong_arguments(tmp_path, state_dict):
  source = saved(tmp_path, {'a': torch.zeros(1)})
  refuse(tmp_path, tmp_path / 'absent.pth', match='no file or folder')
  refuse(tmp_path, source, '--architecture=caffe', match='not caffe')
  refuse(tmp_path, source, '--architecture=vgg', match='invalid choice')
  (tmp_path / 'a.h5').write_bytes(b'')
  refuse(tmp_path, tmp_path / 'a.h5', match='not a file of weights')
  (tmp_path / 'converted').mkdir()
  (tmp_path / 'converted' / 'mine').write_text('kept')
  refuse(tmp_path, source, match='already exists')


def test_wrong_arguments_for_a_workdir(small_network, tmp_path):
  with pytest.raises(UserError, match='--mean is for files'):
    convert.main(
      [str(small_network), str(tmp_path / 'out.pth'), '--mean=mean.npy']
    )
  with pytest.raises(UserError, match='no folder for'):
    convert.main([str(small_network), str(tmp_path / 'absent/out.pth')])


def test_a_changed_network_cannot_become_a_state_dict(tmp_path):
  architecture = ALEXNETS['torchvision']
  for changed, scaling, match in (
    (architecture, 'test', 'scales at test time'),
    (ablated(architecture, ['tanh']), 'train', 'with parts changed'),
    (ablated(architecture, ['no_overlap']), 'train', 'with parts changed'),
  ):
    network = pretrained.Pretrained(AlexNet(changed), {}, None, 0, 0, scaling)
    with pytest.raises(UserError, match=match):
      exporting.write_state_dict(str(tmp_path / 'out.pth'), network)
  assert not list(tmp_path.iterdir())


def test_only_torchvision_becomes_a_state_dict(tmp_path, caffe_weights):
  workdir = tmp_path / 'run'
  (workdir / 'checkpoints').mkdir(parents=True)
  with pytest.raises(UserError, match=r'no config\.json'):
    convert.main([str(workdir), str(tmp_path / 'out.pth')])
  with pytest.raises(UserError, match='must end in one of'):
    convert.main([str(workdir), str(tmp_path / 'out.h5')])
  source = tmp_path / 'net.caffemodel'
  source.write_bytes(caffe_encoder.caffemodel('caffe', caffe_weights))
  convert.main([str(source), str(tmp_path / 'caffe')])
  params = to_params(ALEXNETS['caffe'], caffe_weights, bgr=True)
  loaded = pretrained.load(tmp_path / 'caffe')
  assert params_digest(loaded.params) == params_digest(params)
  with pytest.raises(UserError, match='only torchvision can'):
    convert.main([str(tmp_path / 'caffe'), str(tmp_path / 'out.pth')])
  assert not (tmp_path / 'out.pth').exists()
