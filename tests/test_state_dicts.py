"""State dicts as people save them: where they lie, and how they are named."""

import argparse
import collections
import io
import pathlib
import pickle
import struct
import tarfile
import warnings

import pytest

pytest.importorskip('torch', reason='NEEDS PYTORCH: make venv EXTRAS=test')

import numpy as np
import safetensors.torch
import torch
from converting import Malicious, hollow_state_dict, refuse

from alexnet_jax.pretrained import conversion, formats, torchvision

CLASSES = 10
BIAS = torch.arange(64.0)


@pytest.fixture(scope='module')
def hollow():
  """A state dict of the right shapes, whose tensors take no memory."""
  return {**hollow_state_dict(CLASSES), 'features.0.bias': BIAS}


def saved(tmp_path, content, name='in.pth', **options):
  torch.save(content, tmp_path / name, **options)
  return str(tmp_path / name)


def renamed(state, before, inside=''):
  return {
    before + k.replace('features.', f'features.{inside}'): v
    for k, v in state.items()
  }


def check_taken(path, notes, key=None):
  """Checks that the network was found, and what is said of it."""
  weights = torchvision.read(path, formats.kind_of(path), key)
  assert set(weights.tensors) == {
    f'{name}.{kind}'
    for name in torchvision.NAMES.values()
    for kind in ('weight', 'bias')
  }
  found = weights.tensors['features.0.bias'].read()
  np.testing.assert_array_equal(found, BIAS)
  assert weights.notes == notes


@pytest.mark.parametrize(
  ('keys', 'before', 'inside', 'note'),
  [
    ((), '', '', None),
    (('state_dict',), '', '', 'state dict: state_dict'),
    (('model',), '', '', 'state dict: model'),
    (('model_state_dict',), '', '', 'state dict: model_state_dict'),
    (('net',), '', '', 'state dict: net'),
    (('my_own', 7, 'ema'), '', '', 'state dict: my_own.7.ema'),
    ((), 'module.', '', "'module.' removed from the names"),
    ((), '', 'module.', "'module.' removed from the names"),
    ((), 'model.', '', "'model.' removed from the names"),
    ((), '_orig_mod.', '', "'_orig_mod.' removed from the names"),
    ((), 'backbone.net.', '', "'backbone.net.' removed from the names"),
    (
      ('model_ema',),
      '_orig_mod.module.model.',
      '',
      "state dict: model_ema; '_orig_mod.module.model.' removed from the names",
    ),
  ],
)
def test_where_it_lies(tmp_path, hollow, keys, before, inside, note):
  content = renamed(hollow, before, inside)
  for key in reversed(keys):
    content = {'epoch': 90, key: content}
  check_taken(saved(tmp_path, content), (note,) if note else ())


def test_what_lies_beside_it(tmp_path, hollow):
  """Optimizers, counters, other layers, and objects that would need code."""
  optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3, 3))])
  optimizer.param_groups[0]['params'][0].grad = torch.zeros(3, 3)
  optimizer.step()
  state = {
    **renamed(hollow, 'module.model.'),
    'n_averaged': torch.tensor(3),
    'epoch': 90,
    'criterion.weight': torch.ones(4),
  }
  content = {
    'args': argparse.Namespace(lr=0.1, data=pathlib.Path('x')),
    'best_acc1': np.float64(56.5),
    'confusion': np.zeros((2, 2)),
    'optimizer': optimizer.state_dict(),
    'state_dict': collections.OrderedDict(state),
  }
  content['self'] = content
  note = (
    "state dict: state_dict; 'module.model.' removed from the names; "
    'not used: criterion.weight'
  )
  check_taken(saved(tmp_path, content), (note,))


@pytest.mark.parametrize(
  'name', ['a.pt', 'a.ckpt', 'a.bin', 'a.tar', 'a.safetensors', 'a.h5', 'a']
)
@pytest.mark.parametrize('zipped', [True, False])
def test_the_name_of_the_file_does_not_matter(tmp_path, hollow, name, zipped):
  path = saved(tmp_path, hollow, name, _use_new_zipfile_serialization=zipped)
  check_taken(path, ())


def test_safetensors_by_content(tmp_path):
  path = tmp_path / 'in.pth'
  safetensors.torch.save_file({'conv1.weight': torch.zeros(64, 3, 7, 7)}, path)
  refuse(tmp_path, path, match=r'nearest is conv1.weight \(64, 3, 7, 7\)')


def test_pickled_by_python_2(tmp_path, hollow):
  """Strings are bytes there, of any encoding."""
  buffer = io.BytesIO()
  torch.save(
    {'author': 'XXXX', **hollow}, buffer, _use_new_zipfile_serialization=False
  )
  content = buffer.getvalue()
  for word in (*hollow, 'author', 'storage', 'cpu', 'little_endian', 'short'):
    word = word.encode()
    unicode = b'X' + struct.pack('<I', len(word)) + word
    assert unicode in content
    content = content.replace(unicode, b'U' + bytes([len(word)]) + word)
  content = content.replace(b'X\4\0\0\0XXXX', b'U\4caf\xe9')
  (tmp_path / 'in.pth').write_bytes(content)
  check_taken(str(tmp_path / 'in.pth'), ())


def full(hollow, dtype=torch.float32):
  """The same state dict with values of its own."""
  torch.manual_seed(0)
  return {
    name: torch.empty(tensor.shape, dtype=dtype).uniform_(-2, 2)
    for name, tensor in hollow.items()
  }


def test_two_that_fit(tmp_path, hollow):
  state = full(hollow, torch.float16)
  ema = {**state, 'features.0.bias': torch.ones(64, dtype=torch.float16)}
  path = saved(tmp_path, {'model': state, 'model_ema': ema, 'net': {**state}})
  refuse(
    tmp_path,
    path,
    match='several networks that differ: add --key=model or --key=model_ema',
  )
  refuse(
    tmp_path,
    path,
    '--key=ema',
    match="no state dict 'ema' .--key.: found model, model_ema, net",
  )
  converted = conversion.read(path, conversion.Options(key='model_ema'))
  assert converted.notes[0] == 'state dict: model_ema'
  np.testing.assert_array_equal(converted.params['conv1']['bias'], 1)
  # Half precision, read as the same values in float32.
  kernel = converted.params['fc7']['kernel']
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, state['classifier.4.weight'].T.float())

  path = saved(tmp_path, {'model': state, 'net': {**state}})
  assert torchvision.read(path, 'torch').notes == (
    'state dict: model; the same values as net',
  )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path, dtype):
  values = torch.tensor([1.5, -2.0, 3e-3]).to(dtype)
  path = saved(tmp_path, {'features.0.weight': values})
  found = torchvision.read(path, 'torch').tensors['features.0.weight'].read()
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, values.float())


def resnet():
  """Names and shapes of a ResNet's first and last tensors."""
  shapes = {
    'conv1.weight': (64, 3, 7, 7),
    'bn1.weight': (64,),
    'bn1.running_mean': (64,),
    'layer1.0.conv1.weight': (64, 64, 1, 1),
    'layer1.0.conv2.weight': (64, 64, 3, 3),
    'fc.weight': (1000, 2048),
    'fc.bias': (1000,),
  }
  state = {k: torch.zeros(()).expand(shape) for k, shape in shapes.items()}
  return {**state, 'bn1.num_batches_tracked': torch.tensor(0)}


def test_another_network(tmp_path, hollow):
  missing = (
    r"the network 'torchvision': features.0.weight: expected "
    r'\(64, 3, 11, 11\), found no such tensor; the nearest is conv1.weight '
    r'\(64, 3, 7, 7\)$'
  )
  refuse(tmp_path, saved(tmp_path, resnet()), match=missing)
  path = saved(tmp_path, {'state_dict': renamed(resnet(), 'module.model.')})
  refuse(tmp_path, path, match=rf'\(state_dict.model\) does not fit {missing}')
  # Of several that do not fit, the nearest.
  less = {k: v for k, v in hollow.items() if k != 'classifier.6.bias'}
  path = saved(tmp_path, {'teacher': resnet(), 'student': less})
  refuse(
    tmp_path,
    path,
    match=r'\(student\).*classifier.6.bias: expected \(10,\), found no such',
  )


@pytest.mark.parametrize('content', [torch.zeros(3), [], {}, {'epoch': 1}])
def test_no_state_dict(tmp_path, content):
  refuse(tmp_path, saved(tmp_path, content), match='expected a state dict')


# ---- Code, which is never run. -----------------------------------------------


@pytest.mark.parametrize('zipped', [True, False])
def test_a_pickled_module(tmp_path, zipped):
  path = saved(
    tmp_path,
    torch.nn.Linear(2, 2),
    _use_new_zipfile_serialization=zipped,
  )
  refuse(
    tmp_path,
    path,
    match='holds code, which is never run: torch.nn.modules.linear.Linear. '
    r'Save model.state_dict\(\)',
  )


def test_code_is_named(tmp_path, monkeypatch, hollow):
  monkeypatch.chdir(tmp_path)
  saved(tmp_path, {**hollow, 'x': Malicious()}, 'zip.pth')
  saved(tmp_path, {'x': Malicious()}, 'old.pth',
        _use_new_zipfile_serialization=False)  # fmt: skip
  names = ['zip.pth', 'old.pth']
  for protocol in range(5):
    names.append(f'bare{protocol}.pth')
    pathlib.Path(names[-1]).write_bytes(pickle.dumps(Malicious(), protocol))
  for name in names:
    refuse(
      tmp_path, tmp_path / name, match='code, which is never run:.*getattr'
    )
  for system in (
    b'\x80\x02cposix\nsystem\nU\x02lsR.', b"cposix\nsystem\n(S'ls'\ntR."
  ):  # fmt: skip
    pathlib.Path('os.pth').write_bytes(system)
    refuse(tmp_path, tmp_path / 'os.pth', match=r'never run: posix.system')


def test_torchscript(tmp_path):
  with warnings.catch_warnings(action='ignore'):  # It is deprecated.
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(module, tmp_path / 'in.pt')
  refuse(tmp_path, tmp_path / 'in.pt', match='never run: TorchScript')


def test_the_oldest_format(tmp_path):
  """PyTorch 0.1 wrote tar archives."""
  with tarfile.open(tmp_path / 'in.pth', 'w') as tar:
    for name in ('storages', 'tensors', 'pickle'):
      tar.addfile(tarfile.TarInfo(name))
  refuse(tmp_path, tmp_path / 'in.pth', match='tar archive.*PyTorch 0.1')


def test_options_of_other_formats(tmp_path, hollow):
  path = saved(tmp_path, hollow)
  refuse(tmp_path, path, '--architecture=caffe', match='not caffe')
  refuse(tmp_path, path, '--mean=mean.npy', match='a state dict takes R,G,B')
