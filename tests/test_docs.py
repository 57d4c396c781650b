"""What the documents tell people to type, typed."""

import doctest
import importlib.util
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import zygote
from conftest import encode

from alexnet_jax.pretrained import torchvision

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md')),
             ROOT / 'launch' / 'README.md', ROOT / 'CONTRIBUTING.md',
             ROOT / 'SECURITY.md']  # fmt: skip
# Their docstrings have commands, too.
SOURCES = sorted([*ROOT.glob('configs/**/*.py'), *ROOT.glob('alexnet_jax/*.py'),
                  *ROOT.glob('alexnet_jax/**/__main__.py')])  # fmt: skip

# What stands for something of the reader's own.
PLACEHOLDERS = {
  'gs://BUCKET': 'bucket',
  '$units': 'relu',
  '$seed': '0',
  ':DATA': ':imagenette',
  '=CONFIG': '=configs/digits.py',
  # Which the reader prepares.
  '=imagenet2010': '=imagenet2012',
}
# Commands that need nothing but this machine.
RUN_HERE = (
  'alexnet_jax.convert torchvision',
  'alexnet_jax.predict photo.jpg',
  'alexnet_jax.export net.',
  '--config=configs/digits.py',
  'alexnet_jax.report results',
)
# The file that stands for the published one.
PUBLISHED = 'alexnet-owt-7be5be79.pth'
HAS_TORCH = importlib.util.find_spec('torch') is not None
# The first three need published weights, which PyTorch saves and reads.
OF_WEIGHTS = RUN_HERE[:3]
NO_TORCH = 'NEEDS PYTORCH: make venv EXTRAS=test'
# ... but for these, which use runs of the reader's.
NEEDS_MORE = ('init_from', '--distributed', '--mode=eval')
# What a command prints if it is wrong whatever files there are.
MISTYPED = ('unknown', 'unrecognized', 'no config file', 'invalid choice',
            'are required', 'unexpected argument', '--help')  # fmt: skip


def commands(path):
  """Yields each command of a document or docstring, as `module arguments`."""
  text = path.read_text().replace('\\\\\n', '\\\n').replace('\\\n', ' ')
  lines = re.findall(r'^\s+(?:\S*/)?python -m (alexnet_jax\..*)', text, re.M)
  lines += re.findall(r'`(?:\S*/)?python -m (alexnet_jax\.[^`]*)`', text)
  for line in lines:
    for name, value in PLACEHOLDERS.items():
      line = line.replace(name, value)
    # Neither `alexnet_jax.convert` alone nor `alexnet_jax.main ...`.
    if re.search(r'\s', line) and not re.search(r'\.\.\.|[\[\]<|]', line):
      yield shlex.join(shlex.split(line, comments=True)), path.name


ALL = dict(c for path in [*DOCUMENTS, *SOURCES] for c in commands(path))


@pytest.fixture(scope='module')
def folder(tmp_path_factory, photographs):
  """Where a reader types, with the files that the documents name."""
  folder = tmp_path_factory.mktemp('reader')
  (folder / 'photo.jpg').write_bytes(encode(photographs[0]))
  if HAS_TORCH:
    import torch
    from torch_alexnets import build

    state = {
      name.replace(layer, torchvision.NAMES[layer]): tensor
      for name, tensor in build('torchvision').state_dict().items()
      for layer in [name.split('.')[0]]
    }
    torch.save(state, folder / PUBLISHED)
    torch.save({'state_dict': state}, folder / 'checkpoint.pth.tar')
    (folder / 'names.txt').write_text('\n'.join(map(str, range(1000))))
  (folder / 'results').symlink_to(ROOT / 'results')
  (folder / 'docs').mkdir()
  for name in ('README.md', 'docs/results.md'):
    shutil.copy(ROOT / name, folder / name)
  return folder


def adapted(command):
  """The command's arguments, for one step and without this machine's data."""
  module, *arguments = shlex.split(command)
  # Nothing is downloaded, which tests/test_published.py does.
  arguments = [
    re.sub(r'^((?:--workdir=|--config\.init_from=)?)torchvision$',
           rf'\1{PUBLISHED}', argument)
    for argument in arguments
  ]  # fmt: skip
  if module == 'alexnet_jax.main' and '--mode=eval' not in command:
    arguments += ['--config.num_train_steps=1']
    if 'digits' in command:
      arguments += ['--config.data.val_split=test[:32]']
    if '--workdir' not in command:
      arguments += [f'--workdir=runs/{list(ALL).index(command)}']
    if 'digits' not in command and 'data_dir' not in command:
      arguments += ['--config.data.data_dir=DIR']
  if module == 'alexnet_jax.figures' and '--image' in command:
    arguments[0] = 'runs/absent'  # tests/test_insides.py draws.
  if module == 'alexnet_jax.data.prepare':
    arguments[0] = 'imagenet2012'  # Whose files are not here: no download.
  if module == 'alexnet_jax.preflight' or '--distributed' in command:
    # Ends it before it compiles, or waits for other processes.
    arguments += ['--config.seed=-1']
  return arguments


def _parameters():
  """`make test-long` has the paper's network on digits, but for one."""
  for command in ALL:
    is_alike = re.search(r'paper/(?!base)\w+\.py:digits', command)
    yield pytest.param(command, marks=[pytest.mark.long] if is_alike else [])


# README's come first, in its order: later commands use what they make.
@pytest.mark.parametrize('command', list(_parameters()))
def test_a_command(command, folder, monkeypatch):
  if not HAS_TORCH and any(words in command for words in OF_WEIGHTS):
    pytest.skip(NO_TORCH)
  monkeypatch.chdir(folder)
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  done = zygote.start(*adapted(command), module=command.split()[0])
  status = done.wait()
  runs_here = any(words in command for words in RUN_HERE)
  if runs_here and not any(words in command for words in NEEDS_MORE):
    assert status == 0, done.output
  else:
    # Datasets, weights, TPUs and buckets are missing here; nothing else is.
    assert status in (0, 2), done.output
    assert not [w for w in MISTYPED if w in done.stderr], done.output


BLOCKS = [
  pytest.param(block, id=f'{path.name}-{i}')
  for path in DOCUMENTS
  for i, block in enumerate(
    re.findall(r'```python\n(.*?)```', path.read_text(), re.S)
  )
]


@pytest.mark.parametrize('block', BLOCKS)
def test_a_python_block_runs_as_it_stands(block, folder):
  if not HAS_TORCH and 'torchvision' in block:
    pytest.skip(NO_TORCH)
  if 'read_linear()' in block:
    torch = pytest.importorskip('torch', reason=NO_TORCH)
    torch.save(
      {f'lin{i}.model.1.weight': torch.ones(1, n, 1, 1)
       for i, n in enumerate((64, 192, 384, 256, 256))},
      folder / 'alex.pth',
    )  # fmt: skip
    block = block.replace('read_linear()', "read_linear('alex.pth')")
  # The commands have converted it, if they ran; PyTorch takes longer.
  converted = folder / 'runs/torchvision'
  source = 'runs/torchvision' if converted.exists() else PUBLISHED
  block = block.replace("load('torchvision')", f"load('{source}')")
  done = subprocess.run(
    [sys.executable, '-c', block], cwd=folder, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


EXAMPLES = sorted(
  '.'.join(path.relative_to(ROOT).with_suffix('').parts)
  for path in (ROOT / 'alexnet_jax').rglob('[!_]*.py')
  if '>>> ' in path.read_text()
)


@pytest.mark.parametrize('name', ['alexnet_jax', *EXAMPLES])
def test_the_examples_of_docstrings(name):
  failed, run = doctest.testmod(importlib.import_module(name))
  assert run
  assert not failed


def test_readme_keeps_its_size():
  text = (ROOT / 'README.md').read_text()
  assert len(text.encode()) <= 7000
  assert text.count('\n') <= 150
  tables = re.findall(r'(?:^\|.*\n)+', text, re.M)
  assert max(table.count('\n') for table in tables) <= 2 + 8


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_and_links_exist(path):
  text = path.read_text()
  found = re.findall(r'(?:^    |[`&] ?)make ([a-z][a-z-]*)', text, re.M)
  for target in set(found):
    done = subprocess.run(
      ['make', '-n', target, f'PYTHON={sys.executable}'],
      cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
  for script in re.findall(r'python ((?:benchmarks|tests)/\w+\.py)', text):
    assert (ROOT / script).exists(), script
  for link in re.findall(r'\]\(([^)#:]+?)(?:#[^)]*)?\)', text):
    assert (path.parent / link).exists(), link


def test_the_threat_model_names_functions_that_exist():
  text = (ROOT / 'SECURITY.md').read_text()
  named = re.findall(r'`([\w/]+\.py):(\w+)`', text)
  assert len(named) > 20
  for path, name in named:
    source = (ROOT / 'alexnet_jax' / path).read_text()
    assert re.search(rf'^\s*def {name}\(', source, re.M), (path, name)
