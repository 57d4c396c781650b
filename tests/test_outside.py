"""Failures of storage, network and memory end with a status of their own."""

import dataclasses
import errno
import importlib
import subprocess
import sys
import time
import warnings

import jax
import narrow
import pytest
import requests
import tensorflow as tf

from alexnet_jax.cli import outside
from alexnet_jax.cli.errors import StorageError, UserError
from alexnet_jax.cli.terminal import patient
from alexnet_jax.data import cache
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.preflight import fitting, topologies


def of_google(module, name):
  """Returns an error of google-cloud-storage, which is only needed for gs://."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ImportWarning)  # Of grpcio-status.
    try:
      return getattr(importlib.import_module(f'google.{module}'), name)('a')
    except ImportError:
      return type(name, (Exception,), {'__module__': f'google.{module}'})('a')


def of_tensorflow(name):
  return getattr(tf.errors, name)(None, None, 'text')


@pytest.mark.parametrize(
  ('error', 'kind', 'reason'),
  [
    (of_tensorflow('NotFoundError'), UserError, 'does not exist'),
    (of_tensorflow('PermissionDeniedError'), StorageError, 'denied'),
    (of_tensorflow('UnavailableError'), StorageError, 'does not answer'),
    (of_tensorflow('DataLossError'), StorageError, 'corrupt'),
    (of_google('api_core.exceptions', 'NotFound'), UserError, 'does not exist'),
    (of_google('api_core.exceptions', 'Forbidden'), StorageError, 'denied'),
    (
      of_google('api_core.exceptions', 'TooManyRequests'),
      StorageError,
      'answer',
    ),
    (of_google('auth.exceptions', 'RefreshError'), StorageError, 'denied'),
    (requests.ConnectionError('a'), StorageError, 'does not answer'),
    (ValueError('NOT_FOUND: a'), UserError, 'does not exist'),
    (RuntimeError('a: UNAUTHENTICATED'), StorageError, 'denied'),
    (OSError(errno.ENOSPC, 'a'), StorageError, 'space'),
    (
      OSError(errno.EACCES, 'a', 'data'),
      StorageError,
      'data: access is denied',
    ),
    (FileNotFoundError(errno.ENOENT, 'a', 'x'), UserError, 'x: it does not'),
    (ConnectionResetError(errno.ECONNRESET, 'a'), StorageError, 'answer'),
    (
      IsADirectoryError(errno.EISDIR, 'a', 'x'),
      StorageError,
      'x: it cannot be',
    ),
    (MemoryError(), UserError, 'memory is full'),
  ],
)
def test_a_failure_from_outside_says_what_to_do(error, kind, reason):
  explained = outside.explain(error)
  assert type(explained) is kind
  assert reason in str(explained)


@pytest.mark.parametrize(
  'error',
  [
    ValueError('shapes (2,) and (3,) do not match'),
    KeyError('NOT_FOUND'),
    AssertionError('a'),
    of_tensorflow('InvalidArgumentError'),
    jax.errors.JaxRuntimeError('INTERNAL: a'),
  ],
)
def test_a_bug_keeps_its_traceback(error):
  assert outside.explain(error) is None


def test_a_command_ends_with_the_status_and_one_line():
  code = (
    'from alexnet_jax.cli import command\n'
    'def main(): open("/no/such/file")\n'
    'command.run(main)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.returncode == 2
  [line] = done.stderr.splitlines()
  assert line.startswith('alexnet_jax: /no/such/file: it does not exist')


def test_what_takes_long_says_so_once(capsys):
  with patient('images from gs://b', seconds=0.05):
    time.sleep(0.2)
  with patient('nothing', seconds=5):
    pass
  assert capsys.readouterr().err.splitlines() == [
    'alexnet_jax: WARNING: waiting for images from gs://b for over 0.05 s'
  ]


def test_a_cache_must_be_local(tiny_dir):
  dataset = open_dataset('tiny', str(tiny_dir))
  with pytest.raises(UserError, match='must be a local folder'):
    cache.cached(dataset, ['train'], 'gs://bucket/cache')


def test_a_full_device_says_which_batch_fits(monkeypatch):
  config = narrow.get_config()
  config.eval.batch_size = 512
  local = topologies.find('local')
  small = dataclasses.replace(local, memory_bytes=2**22)
  monkeypatch.setattr(topologies, 'find', lambda name: small)
  error = jax.errors.JaxRuntimeError(
    'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 137438953472 '
    'bytes.'
  )
  text = str(fitting.explain(config, 'eval', error))
  assert 'cannot allocate 137438953472 bytes' in text
  fits = int(text.partition('--config.eval.batch_size=')[2].split(',')[0])
  assert 0 < fits < 512
  # With all of the memory, something else has taken it.
  monkeypatch.setattr(topologies, 'find', lambda name: local)
  text = str(fitting.explain(config, 'eval', error))
  assert 'end the other programs' in text
