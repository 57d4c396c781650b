"""Pages of the site that are made of files outside docs/ (`make docs`).

Documents link to source files, such as ../alexnet_jax/model/lrn.py. On the site
such a link leads to a page with that file. Each package has a page with the
docstrings of its public names, whose formulas and examples are set as code.
"""

import os
import pathlib
import posixpath
import re
import textwrap

import griffe
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent
DOCS = ROOT / 'docs'
LINK = re.compile(r'(\]\()([^)#:\s]+)')


def on_config(config):
  """Adds the packages' pages to the navigation."""
  pages = [
    {name: f'reference/{name}.md'} for name in ('alexnet_jax', *packages())
  ]
  config.nav.insert(-1, {'Reference': pages})
  return config


def on_files(files, config):
  """Adds a page for each linked file outside docs/, and the reference."""
  made = {f'reference/{name}.md': reference(name) for name in packages()}
  made['reference/alexnet_jax.md'] = '# alexnet_jax\n\n::: alexnet_jax\n'
  waiting = sorted(DOCS.glob('*.md'))
  while waiting:
    document = waiting.pop()
    for _, link in LINK.findall(document.read_text()):
      path = target(document.parent, link)
      outside = path.exists() and not (DOCS / uri(path)).exists()
      if outside and uri(path) not in made:
        made[uri(path)] = content(path)
        waiting += [path] if path.suffix == '.md' else []
  for name, text in made.items():
    files.append(File.generated(config, name, content=text))
  return files


def on_page_markdown(markdown, page, **unused):
  """Points links to files at their pages."""
  name = page.file.src_uri
  origin = ROOT / name if page.file.generated_by else DOCS / name
  if name.endswith('.py.md') or name.startswith('reference/'):
    return markdown

  def on_site(match):
    path = target(origin.parent, match[2])
    if not path.exists():
      return match[0]
    return match[1] + posixpath.relpath(uri(path), posixpath.dirname(name))

  return LINK.sub(on_site, markdown)


def on_post_page(output, page, **unused):
  """The same for notebooks, which are HTML by now."""
  if not page.file.src_uri.endswith('.ipynb'):
    return output

  def on_site(match):
    path = target(ROOT / 'examples', match[2])
    if ':' in match[2] or not path.is_file():
      return match[0]
    return match[1] + re.sub(r'\.md$', '.html', uri(path))

  output = re.sub(r'(<a href=")([^"#]+)', on_site, output)
  # Tables of text scroll, as in a terminal.
  wide = 'white-space: pre !important; overflow-x: auto'
  style = f'<style>.jp-OutputArea-output pre {{{wide}}}</style>'
  return output.replace('</head>', f'{style}</head>')


def target(folder, link):
  """Returns the file that a link in a document of a folder names."""
  return pathlib.Path(os.path.normpath(folder / link))


def is_within(path, folder):
  """Returns whether a path is in a folder."""
  return folder in path.parents


def uri(path):
  """Returns the page of a file of the repository."""
  if is_within(path, DOCS):
    return path.relative_to(DOCS).as_posix()
  if path.suffix == '.ipynb':
    return path.name
  name = path.relative_to(ROOT).as_posix()
  if path.is_dir():
    return f'{name}/files.md'
  # README.md would be the site's first page.
  return {'README.md': 'readme.md'}.get(
    name, name if path.suffix == '.md' else f'{name}.md'
  )


def content(path):
  """Returns the Markdown of the page of a file or a folder."""
  name = path.relative_to(ROOT).as_posix()
  if path.is_dir():
    names = sorted(each.name for each in path.iterdir())
    return f'# {name}/\n\n' + ''.join(f'- {each}\n' for each in names)
  if path.suffix == '.md':
    return path.read_text()
  return f'# {name}\n\n````python linenums="1"\n{path.read_text()}````\n'


def packages():
  """Returns the names of the packages in alexnet_jax/."""
  return sorted(
    path.parent.name for path in ROOT.glob('alexnet_jax/*/__init__.py')
  )


def reference(package):
  """Returns the Markdown of the reference of a package."""
  modules = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in ROOT.glob(f'alexnet_jax/{package}/**/*.py')
    if not path.stem.startswith('_')
  )
  return f'# alexnet_jax.{package}\n\n' + ''.join(
    f'::: {m}\n\n' for m in modules
  )


class Fences(griffe.Extension):
  """Sets indented paragraphs of docstrings as code, which Markdown does not."""

  def on_instance(self, *, obj, **unused):
    """Changes the docstring of a module, class, function or attribute."""
    if obj.docstring:
      obj.docstring.value = fenced(obj.docstring.value)


# Their entries are indented, too.
SECTIONS = re.compile(r'(Args|Attributes|Raises|Returns|Yields):\n')
BULLET = re.compile(r'[-*] |\d+\. ')


def fenced(docstring):
  """Returns a docstring with fences around its formulas and examples."""
  docstring = re.sub(r'(?<=[^\n])\n(?=\s*- )', _blank_before, docstring)
  blocks = re.split(r'\n(?=\S)', docstring)
  return '\n'.join(map(_fenced, blocks))


def _blank_before(match):
  """Separates a list from the paragraph before it, as Markdown needs."""
  before = match.string[: match.start()].rsplit('\n', 1)[-1]
  in_list = BULLET.match(before.strip()) or before.startswith(' ' * 6)
  return '\n' if in_list else '\n\n'


def _fenced(block):
  """Fences what is indented in a line of text and all that follows it."""
  first, _, rest = block.partition('\n')
  code = textwrap.dedent(rest).strip('\n')
  if not code or SECTIONS.match(block):
    return block
  if BULLET.match(first):  # A line of the list, continued.
    return f'{first}\n{textwrap.indent(code, "    ")}'
  language = 'pycon' if '>>>' in code else 'text'
  return f'{first}\n\n```{language}\n{code}\n```\n'
