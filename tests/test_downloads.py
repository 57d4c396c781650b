"""Downloads from a server on loopback, with everything that can go wrong."""

import contextlib
import errno
import functools
import hashlib
import http.server
import os
import pathlib
import pty
import random
import resource
import signal
import socket
import sys
import termios
import threading
import time
import urllib.request

import pytest
import zygote
from test_homes import without_flock

from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.pretrained import downloads
from alexnet_jax.pretrained.downloads import Digest, cache_folder, fetch

SIZE, HALF = 1_000_000, 500_000
CONTENT = random.Random(0).randbytes(SIZE)
OTHER = random.Random(1).randbytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA1 = hashlib.sha1(CONTENT).hexdigest()
NAME = f'net-{SHA256[:8]}.pth'
REFUSED = errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)
DATE = 'Fri, 30 Nov 2012 00:00:00 GMT'


class Server(http.server.ThreadingHTTPServer):
  """Serves the same file under all paths.

  Attributes:
    content: of the file.
    headers: sent with it.
    ranges: whether a Range is answered by a part.
    faults: of the next requests, one each: a dict with the `status` of the
      answer, its `headers`, the `content` that it is from instead, or the
      position after which the connection is `cut` or `held` until `go` is set.
    log: `(status, first, last + 1)` of each answer.
    paths: of the requests.
  """

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.content = CONTENT
    self.headers = {'ETag': '"1"'}
    self.ranges = True
    self.faults = []
    self.go = threading.Event()
    self.log = []
    self.paths = []

  def url(self, name=NAME):
    return f'http://127.0.0.1:{self.server_port}/{name}'


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    server = self.server
    fault = server.faults.pop(0) if server.faults else {}
    content = fault.get('content', server.content)
    headers = {**server.headers, **fault.get('headers', {})}
    start, status = 0, fault.get('status', 200)
    version = self.headers['If-Range']
    if status == 200 and version in headers.values() and server.ranges:
      start = int(self.headers['Range'].removeprefix('bytes=')[:-1])
      status = 206 if start < SIZE else 416
    end = fault.get('cut', SIZE) if status in (200, 206) else start
    server.paths.append(self.path)
    server.log.append((status, start, end))
    self.send_response(status)
    if status == 206:
      self.send_header('Content-Range', f'bytes {start}-{SIZE - 1}/{SIZE}')
    if headers.get('Transfer-Encoding') != 'chunked':
      length = SIZE - start if status in (200, 206) else 0
      headers.setdefault('Content-Length', str(length))
    for name, value in headers.items():
      self.send_header(name, value)
    self.end_headers()
    held = fault.get('held', end)
    with contextlib.suppress(ConnectionError):  # The client was killed.
      if headers.get('Transfer-Encoding') == 'chunked':
        self.wfile.write(f'{SIZE - start:x}\r\n'.encode())
      self.wfile.write(content[start:held])
      if held < end:
        server.go.wait()
        self.wfile.write(content[held:end])
      if headers.get('Transfer-Encoding') == 'chunked' and end == SIZE:
        self.wfile.write(b'\r\n0\r\n\r\n')

  def log_message(self, *_):
    pass


@pytest.fixture
def server():
  with Server() as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.go.set()
    server.shutdown()
    thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The user's cache; two tries without a pause, and no proxy."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setenv('no_proxy', '127.0.0.1')
  monkeypatch.setattr(downloads, 'PAUSES', (0, 0))
  return tmp_path / 'alexnet_jax'


def names(folder):
  return sorted(path.name for path in folder.rglob('*') if path.is_file())


def main(url):
  """What the other processes run."""
  print(fetch(url))


other_process = functools.partial(zygote.start, module='test_downloads')


def wait_until(condition):
  until = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < until
    time.sleep(0.01)


def test_a_file_is_downloaded_once(server, folder, capsys):
  path = fetch(server.url())
  assert path == folder / NAME
  assert path.read_bytes() == CONTENT
  assert fetch(server.url()) == path
  assert server.log == [(200, 0, SIZE)]
  assert names(folder) == [NAME]
  printed = f'alexnet_jax: downloading {server.url()} (1.00MB) to {path}\n'
  assert capsys.readouterr() == ('', printed)


@pytest.mark.parametrize(
  'headers',
  [
    {'ETag': '"1"'},
    {'Last-Modified': DATE},
    {'ETag': 'W/"1"', 'Last-Modified': DATE},
    {'ETag': '"1"', 'Transfer-Encoding': 'chunked'},
  ],
)
def test_a_cut_download_is_resumed(server, folder, headers, capsys):
  server.headers = headers
  server.faults = [{'cut': HALF}]
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log == [(200, 0, HALF), (206, HALF, SIZE)]
  assert names(folder) == [NAME]
  printed = capsys.readouterr().err
  assert '(1.00MB) from 500kB on to' in printed
  assert '127.0.0.1: ' in printed
  assert 'next try in 0 s' in printed


@pytest.mark.parametrize(
  ('headers', 'ranges'),
  [({'ETag': '"1"'}, False), ({}, True), ({'ETag': 'W/"1"'}, True)],
  ids=['ignores Range', 'no version', 'weak ETag'],
)
def test_a_server_that_cannot_resume(server, folder, headers, ranges):
  server.headers, server.ranges = headers, ranges
  server.faults = [{'cut': HALF}]
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log == [(200, 0, HALF), (200, 0, SIZE)]


@pytest.mark.parametrize(
  'fault',
  [
    {'status': 416},
    {'status': 206, 'headers': {'Content-Range': f'bytes 7-{SIZE}/{SIZE}'}},
    {'status': 206, 'headers': {'Content-Range': 'bytes'}},
  ],
)
def test_a_wrong_answer_to_a_range(server, folder, fault):
  server.faults = [{'cut': HALF}, fault]
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log[2:] == [(200, 0, SIZE)]


def test_a_file_that_changes_between_tries(server, folder):
  old = {'content': OTHER, 'headers': {'ETag': '"0"'}}
  server.faults = [{'cut': HALF, **old}]
  assert fetch(server.url('net.bin')).read_bytes() == CONTENT
  assert server.log == [(200, 0, HALF), (200, 0, SIZE)]


@pytest.mark.parametrize(
  ('name', 'digest', 'kind', 'start'),
  [
    (NAME, None, 'SHA-256', SHA256[:8]),
    ('net.bin', Digest('sha1', SHA1), 'SHA-1', SHA1),
  ],
)
def test_wrong_bytes(server, folder, name, digest, kind, start):
  server.content = OTHER
  found = hashlib.new(kind.replace('-', ''), OTHER).hexdigest()
  with pytest.raises(UserError) as error:
    fetch(server.url(name), digest)
  expected = f'{server.url(name)} has the {kind} {found}, expected {start}. '
  assert str(error.value).startswith(expected)
  assert names(folder) == []
  assert server.log == [(200, 0, SIZE)]
  server.content = CONTENT
  assert fetch(server.url(name), digest).read_bytes() == CONTENT


def test_a_resumed_file_that_is_wrong_is_downloaded_from_zero(server, folder):
  server.faults = [{'cut': HALF, 'content': OTHER}]
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log == [(200, 0, HALF), (206, HALF, SIZE), (200, 0, SIZE)]


def test_wrong_bytes_from_zero_after_a_resumed_file(server, folder):
  server.content = OTHER
  server.faults = [{'cut': HALF}]
  with pytest.raises(UserError, match='expected'):
    fetch(server.url())
  assert len(server.log) == 3
  assert names(folder) == []


@pytest.mark.parametrize('content', [CONTENT[:HALF], OTHER, b''])
def test_a_corrupt_file_in_the_cache(server, folder, content, capsys):
  folder.mkdir()
  (folder / NAME).write_bytes(content)
  assert fetch(server.url()).read_bytes() == CONTENT
  assert f'{folder / NAME} is corrupt' in capsys.readouterr().err


@pytest.mark.parametrize('status', [404, 403, 410, 204])
def test_a_status_that_is_an_error(server, folder, status):
  server.faults = [{'status': status}] * 9
  with pytest.raises(UserError, match=f'answered {status} .*save it as') as e:
    fetch(server.url())
  assert server.url() in str(e.value)
  assert str(folder / NAME) in str(e.value)
  assert len(server.log) == 1
  assert names(folder) == []


def test_a_server_that_is_overloaded(server, folder):
  server.faults = [{'status': 503}, {'status': 429}]
  assert fetch(server.url()).read_bytes() == CONTENT
  server.faults = [{'status': 503}] * 3
  with pytest.raises(UserError, match='failed 3 times: 503 Service Unavail'):
    fetch(server.url('net.bin'))


def test_no_network(folder):
  with socket.socket() as unused:
    unused.bind(('127.0.0.1', 0))
    url = f'http://127.0.0.1:{unused.getsockname()[1]}/{NAME}'
    with pytest.raises(UserError) as error:
      fetch(url)
    assert str(error.value) == (
      f'cannot reach 127.0.0.1: {ConnectionRefusedError(*REFUSED)}. '
      f'Download {url} elsewhere and save it as {folder / NAME}'
    )
    assert names(folder) == []
    (folder / NAME).write_bytes(CONTENT)  # What the message says.
    assert fetch(url) == folder / NAME


def test_a_name_that_cannot_be_resolved(folder):
  with pytest.raises(UserError, match=r'^cannot reach nowhere\.invalid: '):
    fetch(f'http://nowhere.invalid/{NAME}')


def test_a_connection_that_keeps_breaking(server, folder):
  server.faults = [{'cut': 100_000}, {'cut': 300_000}, {'cut': 400_000}]
  with pytest.raises(
    UserError, match=r'3 times: 400kB of 1\.00MB arrived\. Ru'
  ):
    fetch(server.url())
  assert names(folder) == [f'{NAME}.part', f'{NAME}.part.version']
  assert fetch(server.url()).read_bytes() == CONTENT
  assert [start for _, start, _ in server.log] == [0, 100_000, 300_000, 400_000]
  assert names(folder) == [NAME]


@pytest.mark.parametrize('held', [0, HALF])
def test_a_server_that_stalls(server, folder, held, monkeypatch):
  monkeypatch.setattr(downloads, 'TIMEOUT', 0.2)
  server.faults = [{'held': held}]
  assert fetch(server.url()).read_bytes() == CONTENT
  server.faults = [{'held': held}] * 3
  with pytest.raises(UserError, match=r'failed 3 times: .*timed out'):
    fetch(server.url('net.bin'))


def test_two_processes_at_once(server, folder):
  server.faults = [{'held': HALF}]
  processes = [other_process(server.url()) for _ in range(2)]
  wait_until(lambda: any('waiting for' in p.stderr for p in processes))
  server.go.set()
  for process in processes:
    assert process.wait() == 0, process.output
    assert process.stdout == f'{folder / NAME}\n'
  assert server.log == [(200, 0, SIZE)]
  assert (folder / NAME).read_bytes() == CONTENT
  assert names(folder) == [NAME]


def test_a_killed_process_is_resumed(server, folder):
  server.faults = [{'held': HALF}]
  process = other_process(server.url())
  part = folder / f'{NAME}.part'
  wait_until(lambda: part.exists() and part.stat().st_size == HALF)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log[1] == (206, HALF, SIZE)
  assert names(folder) == [NAME]


@pytest.mark.parametrize('content', [CONTENT, CONTENT + b'more'])
def test_a_part_that_was_complete(server, folder, content):
  folder.mkdir()
  (folder / f'{NAME}.part').write_bytes(content)
  (folder / f'{NAME}.part.version').write_text('"1"')
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log == [(416, len(content), len(content)), (200, 0, SIZE)]


def test_a_process_that_waits_for_a_killed_one(server, folder):
  server.faults = [{'held': HALF}]
  first = other_process(server.url())
  part = folder / f'{NAME}.part'
  wait_until(lambda: part.exists() and part.stat().st_size == HALF)
  second = other_process(server.url())
  second.wait_for('waiting for')
  first.send_signal(signal.SIGKILL)
  first.wait()
  assert second.wait() == 0, second.output
  assert server.log[1:] == [(206, HALF, SIZE)]


def test_a_process_that_waits_for_one_with_wrong_bytes(server, folder):
  server.faults = [{'held': HALF, 'content': OTHER}]
  first = other_process(server.url())
  wait_until((folder / f'{NAME}.part').exists)
  second = other_process(server.url())
  second.wait_for('waiting for')
  server.go.set()
  assert first.wait() == 1
  assert 'UserError' in first.stderr
  assert second.wait() == 0, second.output
  assert server.log == [(200, 0, SIZE), (200, 0, SIZE)]
  assert names(folder) == [NAME]


def test_a_file_system_without_locks(server, folder, monkeypatch):
  without_flock('ENOLCK', monkeypatch.setattr)
  server.faults = [{'cut': HALF}]
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log[1] == (206, HALF, SIZE)
  assert names(folder) == [NAME]
  server.faults = [{'cut': HALF}] * 3
  with pytest.raises(UserError):
    fetch(server.url('net.bin'))
  assert names(folder) == [NAME]


def test_a_folder_that_cannot_be_written(server, folder):
  folder.write_text('')
  with pytest.raises(StorageError, match='set XDG_CACHE_HOME') as error:
    fetch(server.url())
  assert f'cannot use {folder}: ' in str(error.value)
  assert not server.log


def test_a_disk_that_is_full(server, folder):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, limits[1]))
  try:
    with pytest.raises(StorageError, match='File too large'):
      fetch(server.url())
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert names(folder) == []


def test_a_file_larger_than_the_free_space(server, folder):
  server.headers['Content-Length'] = str(10**18)
  with pytest.raises(StorageError, match=r'1\.00EB needed, '):
    fetch(server.url())
  assert names(folder) == []


@pytest.mark.parametrize(
  ('path', 'name'),
  [
    ('net.bin?raw=1&x=/y.z#top', 'net.bin'),
    ('a/my%20net%2F..%2f%00.bin', 'my_net_..__.bin'),
    ('a\\..\\b.bin', 'a_.._b.bin'),
    ('..', 'download'),
    ('', 'download'),
    ('%2e%2e', 'download'),
    ('x' * 300 + '.bin', 'x' * 96 + '.bin'),
  ],
)
def test_names_in_the_cache(server, folder, path, name):
  found = fetch(server.url(path))
  assert found.name == name
  assert found.parent.parent == folder
  assert found.read_bytes() == CONTENT


def test_urls_with_the_same_name(server, folder):
  urls = [server.url(path) for path in ('a/x.bin', 'b/x.bin', 'b/x.bin?v=1')]
  assert len({fetch(url) for url in urls}) == 3
  assert fetch(urls[0] + '#top') == fetch(urls[0])
  assert server.paths == ['/a/x.bin', '/b/x.bin', '/b/x.bin?v=1']


@pytest.mark.parametrize(
  'url',
  ['file:///etc/passwd', 'ftp://a/b', '/etc/passwd', 'http:///x', 'http://[1/',
   'http://a:b/c', 'http://127.0.0.1/a b', 'http://127.0.0.1/\u00e9'],
)  # fmt: skip
def test_a_url_that_is_refused(folder, url):
  with pytest.raises(UserError, match='is not a'):
    fetch(url)
  assert names(folder) == []


def test_redirects(server, folder, tmp_path):
  (tmp_path / 'secret').write_text('secret')
  there = {'status': 302, 'headers': {'Location': '/there'}}
  server.faults = [there, {'cut': HALF}, there]
  assert fetch(server.url()).read_bytes() == CONTENT
  assert server.log[-1] == (206, HALF, SIZE)
  for target in (f'file://{tmp_path}/secret', 'ftp://127.0.0.1:1/secret'):
    server.faults = [{'status': 302, 'headers': {'Location': target}}]
    with pytest.raises(UserError):
      fetch(server.url('secret'))
  assert names(folder) == [NAME]


def test_a_proxy(server, folder, monkeypatch):
  monkeypatch.setattr(urllib.request, '_opener', None)  # It keeps proxies.
  monkeypatch.setenv('http_proxy', server.url(''))
  assert fetch(f'http://nowhere.invalid/{NAME}').read_bytes() == CONTENT
  assert server.paths == [f'http://nowhere.invalid/{NAME}']


def test_the_progress_on_a_terminal(server, folder, monkeypatch):
  server.faults = [{'cut': HALF}]
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(theirs, (24, 100))
  with os.fdopen(theirs, 'w') as terminal, monkeypatch.context() as patch:
    patch.setattr(sys, 'stderr', terminal)
    fetch(server.url())
    terminal.flush()
    shown = os.read(ours, 100_000).decode()
  os.close(ours)
  assert f'{NAME}:  50%' in shown
  assert f'{NAME}: 100%' in shown
  assert '1.00M/1.00M' in shown


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    ('/somewhere', '/somewhere/alexnet_jax'),
    ('relative', '/home/user/.cache/alexnet_jax'),
    ('', '/home/user/.cache/alexnet_jax'),
    (None, '/home/user/.cache/alexnet_jax'),
  ],
)
def test_the_folder_of_the_cache(value, expected, monkeypatch):
  monkeypatch.setenv('HOME', '/home/user')
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  if value is not None:
    monkeypatch.setenv('XDG_CACHE_HOME', value)
  assert cache_folder() == pathlib.Path(expected)


def test_another_folder_and_digests_in_capitals(server, folder, tmp_path):
  digest = Digest('sha256', SHA256.upper())
  path = fetch(server.url(), digest, tmp_path / 'here')
  assert path == tmp_path / 'here' / NAME
  assert not folder.exists()


if __name__ == '__main__':
  main(*sys.argv[1:])
