"""The packages of alexnet_jax: a lower one never imports an upper one.

`python tests/test_packages.py` prints the tree of docs/architecture.md.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent / 'alexnet_jax'

# From the lowest up. A package may import those before it.
PACKAGES = (
  'cli', 'plots', 'model', 'config', 'data', 'learning', 'runs', 'pretrained',
  'evaluate', 'train',
)  # fmt: skip
# What one can type.
COMMANDS = {
  'main', 'predict', 'convert', 'export', 'figures', 'learning_rates',
  'preflight', 'report',
}  # fmt: skip


def imports(path):
  """What a file of the package imports of it, such as 'data.dataset'.

  Imports inside functions count, and names of the package that are imported
  when they are used, such as `alexnet_jax.load`.
  """
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: a relative import'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      names = [f'{node.value.id}.{node.attr}']
    else:
      continue
    for name in names:
      package, _, rest = name.partition('.')
      if package == 'alexnet_jax' and rest:
        yield rest


def phrase(path):
  """The first line of a file's docstring."""
  doc = ast.get_docstring(ast.parse(path.read_text()))
  return doc.splitlines()[0].rstrip('.')


def tree():
  """All files of the package, from the lowest up, each with its phrase."""
  lines = []
  for package in (*PACKAGES[:-2], 'preflight', 'report', ''):
    folder = ROOT / package
    heading = f'`{package}/`' if package else 'The top'
    lines += [f'**{heading}**: {phrase(folder / "__init__.py")}', '']
    for path in sorted(folder.glob('**/*.py' if package else '*.py')):
      if path != folder / '__init__.py':
        name = path.relative_to(folder)
        link = f'../{path.relative_to(ROOT.parent)}'
        lines.append(f'- [{name}]({link}): {phrase(path)}')
    lines.append('')
  return '\n'.join(lines)


def test_the_documents_tree_has_every_file():
  document = (ROOT.parent / 'docs/architecture.md').read_text()
  assert tree() in document, 'paste what `python tests/test_packages.py` prints'


def package_of(path):
  return path.relative_to(ROOT).with_suffix('').parts[0]


@pytest.mark.parametrize('package', PACKAGES)
def test_a_lower_package_imports_no_upper_one(package):
  below = {*PACKAGES[: PACKAGES.index(package) + 1], '__version__'}
  paths = [p for p in ROOT.rglob('*.py') if package_of(p) == package]
  assert paths
  for path in paths:
    for name in imports(path):
      assert name.split('.')[0] in below, f'{path} imports {name}'


def test_the_top_holds_commands_and_the_two_programs():
  there = {path.stem for path in ROOT.glob('*.py')} - {'__init__'}
  packages = {path.parent.name for path in ROOT.glob('*/*.py')}
  programs = {'train', 'evaluate'}
  assert there | packages == COMMANDS | programs | set(PACKAGES)
  assert there <= COMMANDS | programs
  for command in COMMANDS:
    path = ROOT / f'{command}.py'
    if not path.exists():
      path = ROOT / command / '__main__.py'
    assert "if __name__ == '__main__':" in path.read_text()


@pytest.mark.parametrize(
  ('package', 'forbidden'),
  [
    ('model', ('tensorflow', 'orbax')),
    ('learning', ('tensorflow', 'orbax')),
    ('cli', ('tensorflow', 'orbax', 'jax', 'flax')),
  ],
)
def test_what_a_package_does_without(package, forbidden):
  modules = [
    '.'.join(('alexnet_jax', *path.relative_to(ROOT).with_suffix('').parts))
    for path in (ROOT / package).glob('*.py')
  ]
  subprocess.run(
    [
      sys.executable,
      '-c',
      f'import sys, {", ".join(modules)}\n'
      f'found = {set(forbidden)!r} & set(sys.modules)\n'
      'assert not found, found',
    ],
    check=True,
  )


if __name__ == '__main__':
  print(tree())
