"""The wheel: built, checked, installed and used outside the clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def run(*command, **options):
  return subprocess.run(
    [*map(str, command)], capture_output=True, text=True, **options
  )


@pytest.fixture(scope='module')
def dist(tmp_path_factory):
  """A folder with the wheel and the source distribution it is built from."""
  folder = tmp_path_factory.mktemp('dist')
  # A copy: the build writes into its source.
  source = tmp_path_factory.mktemp('source')
  for name in ('alexnet_jax', 'configs'):
    shutil.copytree(ROOT / name, source / name, symlinks=True)
  for name in ('setup.cfg', 'pyproject.toml', 'requirements.txt', 'README.md',
               'LICENSE'):  # fmt: skip
    shutil.copy(ROOT / name, source)
  done = run(
    sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, source
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return folder


@pytest.fixture(scope='module')
def python(dist, tmp_path_factory):
  """The Python of a fresh environment with the wheel.

  The dependencies are those of the environment that runs the tests.
  """
  folder = tmp_path_factory.mktemp('venv')
  venv.create(folder, with_pip=False, symlinks=True)
  site = pathlib.Path(
    sysconfig.get_path('purelib', 'venv', {'base': folder, 'platbase': folder})
  )
  (wheel,) = dist.glob('*.whl')
  run(
    sys.executable, '-m', 'pip', '--quiet', 'install', '--no-deps',
    '--target', site, wheel, check=True,
  )  # fmt: skip
  # A plain path: the .pth files there, such as the clone's, are not read.
  (site / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
  return folder / 'bin' / 'python'


def test_the_distributions_are_well_formed(dist):
  files = sorted(dist.iterdir())
  assert [path.suffix for path in files] == ['.whl', '.gz']
  done = run(sys.executable, '-m', 'twine', 'check', '--strict', *files)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_packaged_config_trains_outside_the_clone(python, tmp_path):
  where = run(
    python, '-c', 'import alexnet_jax; print(alexnet_jax.__file__)',
    cwd=tmp_path, check=True,
  )  # fmt: skip
  assert where.stdout.startswith(str(python.parent.parent))
  command = python, '-m', 'alexnet_jax.main', '--config=configs/digits.py'
  done = run(
    *command, '--config.num_train_steps=2', '--config.data.val_split=test[:32]',
    cwd=tmp_path,
    env={**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'},
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  assert (tmp_path / 'runs' / 'digits' / 'results.json').exists()


def test_the_user_s_own_config_wins(python, tmp_path):
  """It may import the packaged ones, and others of its folder."""
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'mine.py').write_text('SEED = -7\n')
  (tmp_path / 'configs' / 'digits.py').write_text(
    'from configs import default, mine\n'
    'def get_config():\n'
    '  config = default.get_config()\n'
    '  config.seed = mine.SEED\n'
    '  return config\n'
  )
  command = python, '-m', 'alexnet_jax.main', '--config=configs/digits.py'
  done = run(*command, cwd=tmp_path)
  assert done.returncode == 2
  assert 'seed is -7' in done.stderr


def test_the_workflow_has_the_form_that_github_expects():
  workflow = ROOT / '.github' / 'workflows' / 'ci.yml'
  done = run(
    pathlib.Path(sys.executable).with_name('check-jsonschema'),
    '--builtin-schema', 'vendor.github-workflows', workflow,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  assert '.ci/run' in workflow.read_text()
