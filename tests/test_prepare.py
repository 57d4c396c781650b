"""Preparing a TFDS dataset: python -m alexnet_jax.data.prepare."""

import contextlib
import importlib
import io
import pathlib
import re
import shlex
import shutil
import tarfile

import numpy as np
import pytest
from conftest import encode

from alexnet_jax.cli import outside
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.data import builders, prepare
from alexnet_jax.data.dataset import open_dataset

ROOT = pathlib.Path(__file__).resolve().parent.parent
SYNSETS = 'n01440764', 'n01443537'


def add(tar, name, data):
  member = tarfile.TarInfo(name)
  member.size = len(data)
  tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope='module')
def manual_dir(tmp_path_factory):
  """ImageNet's two files, with six training and three validation images."""
  folder = tmp_path_factory.mktemp('manual')
  rng = np.random.default_rng(0)
  jpegs = [
    encode(rng.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(9)
  ]
  with tarfile.open(folder / 'ILSVRC2012_img_train.tar', 'w') as train:
    for i, synset in enumerate(SYNSETS):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode='w') as of_class:
        for j in range(3):
          add(of_class, f'{synset}_{j}.JPEG', jpegs[3 * i + j])
      add(train, f'{synset}.tar', inner.getvalue())
  with tarfile.open(folder / 'ILSVRC2012_img_val.tar', 'w') as validation:
    for j in range(3):
      name = f'ILSVRC2012_val_{j + 1:08}.JPEG'
      add(validation, name, jpegs[6 + j])
  return folder


def test_imagenet_from_its_two_files(manual_dir, tmp_path, capsys):
  command = ['imagenet2012', f'--data_dir={tmp_path}']
  prepare.main([*command, f'--manual_dir={manual_dir}'])
  assert 'is prepared' in capsys.readouterr().out
  dataset = open_dataset('imagenet2012', str(tmp_path))
  assert dataset.num_classes == 1000
  assert dataset.num_examples('train') == 6
  assert dataset.num_examples('validation') == 3
  prepare.main(command)  # Needs the files no more.
  assert 'exists already' in capsys.readouterr().out


def test_a_file_of_imagenet_is_missing(manual_dir, tmp_path):
  """TFDS itself would leave out the training split."""
  half = tmp_path / 'downloads' / 'manual'
  half.mkdir(parents=True)
  name = 'ILSVRC2012_img_val.tar'
  (half / name).write_bytes((manual_dir / name).read_bytes())
  with pytest.raises(UserError, match=r'not have ILSVRC2012_img_train\.tar: '):
    prepare.main(['imagenet2012', f'--data_dir={tmp_path}'])
  assert not (tmp_path / 'imagenet2012').exists()


def test_other_files_that_must_be_downloaded_by_hand(tmp_path):
  with pytest.raises(UserError, match=r'cannot prepare .*Manual directory'):
    prepare.main(['imagenet2012_real', f'--data_dir={tmp_path}'])


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    (['imagenett'], 'did you mean imagenette'),
    (['cifar10:9.9.9'], 'cifar10'),
    ([], 'NAME'),
  ],
)
def test_refusals(tmp_path, arguments, match):
  with pytest.raises(UserError, match=match) as error:
    prepare.main([*arguments, f'--data_dir={tmp_path}'])
  assert '\n' not in str(error.value)


def test_no_network(tmp_path, monkeypatch):
  builder = builders.find_builder('cifar10', str(tmp_path))

  def download_and_prepare(**_):
    raise ConnectionError('cannot resolve the host')  # As that of requests.

  monkeypatch.setattr(builder, 'download_and_prepare', download_and_prepare)
  with pytest.raises(ConnectionError) as error:
    builders.prepare(builder)
  assert isinstance(outside.explain(error.value), StorageError)


def type_command(message):
  """Runs the command at the end of a message, without what follows it."""
  found = re.search(
    r'python -m (alexnet_jax[.\w]+) (.*?)(?: \(or .*)?$', message
  )
  module = importlib.import_module(found[1])
  if hasattr(module, '__path__'):
    module = importlib.import_module(f'{found[1]}.__main__')
  module.main(shlex.split(found[2]))


def message_of(call):
  with pytest.raises(UserError) as error:
    call()
  return str(error.value)


def test_commands_of_messages_are_typed(tiny_dir, tmp_path, monkeypatch):
  shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
  folder = str(tmp_path)
  message = message_of(lambda: open_dataset('imagenet2012', folder))
  # It asks for the files that only people can download, and for no other.
  message = message_of(lambda: type_command(message))
  assert f'{folder}/downloads/manual (--manual_dir) does not have' in message
  message = message_of(lambda: open_dataset('cifar10:3.0.2', folder))
  prepared = []
  monkeypatch.setattr(builders, 'prepare', lambda *a: prepared.append(a))
  with contextlib.suppress(UserError):  # It is not there even now.
    type_command(message)
  ((builder, _),) = prepared
  assert str(builder.data_path).startswith(f'{folder}/cifar10/')


def test_commands_of_messages_build_what_is_missing(tiny_dir, tmp_path):
  pytest.importorskip('apache_beam', reason='NEEDS BEAM: make venv EXTRAS=beam')
  shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
  folder = str(tmp_path)
  type_command(message_of(lambda: open_dataset('tiny_256', folder)))
  made = open_dataset('tiny_256', folder)
  made.check_resize('short_side')
  type_command(message_of(lambda: made.check_resize('warp')))
  open_dataset('tiny_256_warp', folder).check_resize('warp')


def texts():
  """All files with commands for people."""
  for pattern in ('alexnet_jax/**/*.py', 'configs/**/*.py', '*.md', 'docs/*.md',
                  'launch/**/*', 'Makefile'):  # fmt: skip
    yield from filter(pathlib.Path.is_file, ROOT.glob(pattern))


def test_every_module_that_a_text_runs_exists():
  modules = set()
  for path in texts():
    text = path.read_text()
    # TFDS's command needs packages that it does not install.
    assert not re.search(r'(^ *|bin/|`)tfds (build|\w+\s--)', text, re.M), path
    # A message may be split over lines of source.
    text = re.sub(r"'\s+f?'", '', text)
    modules |= set(re.findall(r'-m (alexnet_jax[\w.]*\w)', text))
  assert 'alexnet_jax.data.prepare' in modules
  for module in modules:
    path = ROOT / module.replace('.', '/')
    assert path.with_suffix('.py').exists() or (path / '__main__.py').exists()
