"""Downloads published weights once, into the user's cache.

A file appears under its name when it is complete and its digest is right. A
broken connection or a killed process leaves NAME.part, which the next try
resumes (`parts.py`).
"""

import errno
import hashlib
import http.client
import os
import pathlib
import re
import shutil
import time
import urllib.error
import urllib.request
from typing import Literal, NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

from tqdm import tqdm

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.terminal import note, warn
from alexnet_jax.pretrained.parts import Part, open_part

# Seconds without an answer or a byte until a connection counts as broken.
TIMEOUT = 30
# Seconds before each further try.
PAUSES = (1, 2, 4, 8)

_BLOCK = 1 << 18  # Bytes.
# torch.hub's names, such as alexnet-owt-7be5be79.pth. Digits alone are a date
# or a number of steps.
_NAMED_DIGEST = re.compile(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.[\w.]+$')


class Digest(NamedTuple):
  """What a file's digest must be.

  Attributes:
    algorithm: of the digest.
    start: its first hexadecimal digits, or all of them.
  """

  algorithm: Literal['sha256', 'sha1']
  start: str


class _BrokenError(Exception):
  """A connection ended early; the message says how."""


class _UnreachableError(_BrokenError):
  """There was no connection."""


def cache_folder() -> pathlib.Path:
  """Returns the folder of downloads, which may not exist yet.

  It is `$XDG_CACHE_HOME/alexnet_jax`, or `~/.cache/alexnet_jax` without this
  variable or if it is a relative path (XDG Base Directory Specification).

  Example:
    >>> cache_folder().name
    'alexnet_jax'
  """
  base = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(base):
    base = os.path.expanduser('~/.cache')
  return pathlib.Path(base, 'alexnet_jax')


def fetch(
  url: str,
  digest: Digest | None = None,
  folder: pathlib.Path | None = None,
) -> pathlib.Path:
  """Returns the local path of a URL's file, downloaded if it is not there.

  A file that is there is read once to compare its digest, and downloaded again
  if it is corrupt. A file without a digest is used as it is.

  Args:
    url: http:// or https://. Proxies are those of the environment.
    digest: what the file's digest must be. Default: the SHA-256 in a name such
      as `alexnet-owt-7be5be79.pth`, if there is one.
    folder: default: `cache_folder()`. A file without a digest in its name is in
      a subfolder for its URL.

  Raises:
    UserError: the URL is not valid, cannot be reached, has no file, or has one
      with another digest.
    StorageError: the folder cannot be written or has too little space.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   cached = pathlib.Path(folder, 'nothing-e3b0c442.pth')
    ...   cached.touch()
    ...   url = 'https://example.org/nothing-e3b0c442.pth'
    ...   fetch(url, folder=pathlib.Path(folder)) == cached
    True
  """
  url = _checked(urldefrag(url).url)
  name = _file_name(url)
  folder = folder or cache_folder()
  if found := _NAMED_DIGEST.search(name):
    digest = digest or Digest('sha256', found[1])
  else:
    folder = folder / hashlib.sha256(url.encode()).hexdigest()[:8]
  path = folder / name
  try:
    # Before the lock, so that a folder of others' is of use.
    if _is_intact(path, digest):
      return path
    folder.mkdir(parents=True, exist_ok=True)
    with open_part(path) as part:
      # Another process may have downloaded it in the meantime.
      if not _is_intact(path, digest):
        if path.exists():
          warn(f'{path} is corrupt: it is downloaded again')
        _download(url, path, part, digest)
  except OSError as error:
    raise StorageError(
      f'cannot use {folder}: {error}. Make it writable, with enough free '
      'space, or set XDG_CACHE_HOME to another folder'
    ) from error
  return path


def _checked(url: str) -> str:
  try:
    parts = urlsplit(url)
    is_valid = parts.scheme in ('http', 'https') and bool(parts.hostname)
  except ValueError:
    is_valid = False
  if not is_valid:
    raise UserError(f'{url} is not a URL with http:// or https://')
  return url


def _file_name(url: str) -> str:
  """Returns the last part of a URL's path as a safe file name.

  Example:
    >>> _file_name('https://example.org/models/my%20net.pth?raw=1')
    'my_net.pth'
  """
  name = unquote(urlsplit(url).path.rpartition('/')[2])
  safe = re.sub(r'[^A-Za-z0-9._+-]', '_', name)[-100:]
  return safe.lstrip('.') or 'download'


def _digest_of(path: pathlib.Path, algorithm: str) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, algorithm).hexdigest()


def _is_intact(path: pathlib.Path, digest: Digest | None) -> bool:
  """Whether a file is there, with the right digest if there is one."""
  if not path.is_file() or digest is None:
    return path.is_file()
  return _digest_of(path, digest.algorithm).startswith(digest.start.lower())


def _download(
  url: str, path: pathlib.Path, part: Part, digest: Digest | None
) -> None:
  was_resumed = _receive(url, path, part)
  if digest is not None:
    found = _digest_of(part.path, digest.algorithm)
    if was_resumed and not found.startswith(digest.start.lower()):
      warn(
        f'the resumed {path.name} is corrupt: it is downloaded from the start'
      )
      part.restart()
      _receive(url, path, part)
      found = _digest_of(part.path, digest.algorithm)
    if not found.startswith(digest.start.lower()):
      part.remove()
      path.unlink(missing_ok=True)
      raise UserError(
        f'{url} has the SHA-{digest.algorithm[3:]} {found}, expected '
        f'{digest.start}. Find an intact file elsewhere and save it as {path}'
      )
  part.move(path)


def _receive(url: str, path: pathlib.Path, part: Part) -> bool:
  """Completes a part, over several connections if they break.

  Returns:
    Whether the last connection resumed it.
  """
  host = urlsplit(url).hostname
  for number, pause in enumerate((*PAUSES, None)):
    try:
      return _receive_once(url, path, part)
    except _BrokenError as error:
      # Without a network, there is nothing to wait for.
      if number == 0 and isinstance(error, _UnreachableError):
        raise UserError(
          f'cannot reach {host}: {error}. Download {url} elsewhere and save it '
          f'as {path}'
        ) from error
      if pause is None:
        raise UserError(
          f'{host} failed {number + 1} times: {error}. Run the command again, '
          f'or download {url} elsewhere and save it as {path}'
        ) from error
      warn(f'{host}: {error}; next try in {pause:g} s')
    time.sleep(pause)
  raise AssertionError('the last pause is None')


def _receive_once(url: str, path: pathlib.Path, part: Part) -> bool:
  with _opened(url, path, part) as response:
    is_resumed, total = _start(response, part)
    missing = 0 if total is None else total - part.size
    free = shutil.disk_usage(path.parent).free
    if missing > free:
      raise OSError(
        errno.ENOSPC, f'{_bytes(missing)} needed, {_bytes(free)} free'
      )
    with tqdm(
      desc=path.name,
      initial=part.size,
      total=total,
      unit='B',
      unit_scale=True,
      disable=None,
    ) as bar:
      if bar.disable:  # Not on a terminal.
        size = '' if total is None else f' ({_bytes(total)})'
        start = f' from {_bytes(part.size)} on' if is_resumed else ''
        note(f'downloading {url}{size}{start} to {path}')
      while data := _read(response):
        part.append(data)
        bar.update(len(data))
  if total is not None and part.size != total:
    raise _BrokenError(f'{_bytes(part.size)} of {_bytes(total)} arrived')
  return is_resumed


def _opened(
  url: str, path: pathlib.Path, part: Part
) -> http.client.HTTPResponse:
  """Returns the server's answer to the request for what is missing.

  Raises:
    UserError: it is an error, or the URL is not valid.
    _BrokenError: there is none, or another try may help.
  """
  try:
    response = urllib.request.urlopen(part.request(url), timeout=TIMEOUT)
  except urllib.error.HTTPError as error:
    response = error
  except urllib.error.URLError as error:
    raise _UnreachableError(error.reason) from error
  except (http.client.InvalidURL, ValueError) as error:
    raise UserError(f'{url} is not a valid URL: {error}') from error
  except (http.client.HTTPException, OSError) as error:
    raise _BrokenError(str(error) or repr(error)) from error
  try:
    _checked(response.url)  # urllib follows redirects to ftp://, too.
  except UserError:
    response.close()
    raise
  if response.status in (200, 206):
    return response
  response.close()
  answer = f'{response.status} {response.reason}'
  if response.status == 416 and part.size:
    part.restart()
  elif response.status not in (429, 500, 502, 503, 504):
    raise UserError(
      f'{url} answered {answer}. Find the file elsewhere and save it as {path}'
    )
  raise _BrokenError(answer)


def _start(
  response: http.client.HTTPResponse, part: Part
) -> tuple[bool, int | None]:
  """Prepares a part for the bytes of an answer.

  Returns:
    Whether they follow those of the part, and the file's size in bytes if the
    server names it.
  """
  if response.status == 200:
    etag = response.headers.get('ETag', 'W/')
    # A weak ETag cannot resume (RFC 9110, section 13.1.5).
    date = response.headers.get('Last-Modified', '')
    part.restart(date if etag.startswith('W/') else etag)
    return False, response.length
  found = re.fullmatch(
    rf'bytes {part.size}-\d+/(\d+)', response.headers.get('Content-Range', '')
  )
  if not found:
    part.restart()
    raise _BrokenError('206 without the bytes that were asked for')
  return True, int(found[1])


def _read(response: http.client.HTTPResponse) -> bytes:
  try:
    return response.read1(_BLOCK)
  except (http.client.HTTPException, OSError) as error:
    raise _BrokenError(str(error) or repr(error)) from error


def _bytes(number: int) -> str:
  """Formats a size.

  Example:
    >>> _bytes(244_408_911)
    '244MB'
  """
  return tqdm.format_sizeof(number, 'B')
