"""Tells failures of storage, network and memory from bugs.

Each library has its own errors for the same event. They are recognized by
name, so that none of these libraries has to be imported.
"""

import errno
import re

from alexnet_jax.cli.errors import StorageError, UserError

_FULL = 'no space is left there; make room, then run the command again'
_DENIED = 'access is denied; check the permissions, and for gs:// the login'
_MISSING = 'it does not exist; check the name'
_UNREACHABLE = 'the storage does not answer; run the command again later'
_FAILED = 'it cannot be read or written'
_CORRUPT = 'a file there is corrupt; copy it again'
_NO_MEMORY = (
  "the host's memory is full; lower data.shuffle_buffer or the batch size, or "
  'run fewer programs beside it'
)

# What happened, by the class names of TensorFlow, google-cloud-storage,
# google-auth and requests.
_NAMES = {
  _MISSING: ('NotFoundError', 'NotFound'),
  _DENIED: (
    'PermissionDeniedError', 'UnauthenticatedError', 'Forbidden',
    'PermissionDenied', 'Unauthorized', 'Unauthenticated',
    'DefaultCredentialsError', 'RefreshError',
  ),
  _UNREACHABLE: (
    'UnavailableError', 'DeadlineExceededError', 'AbortedError',
    'ServiceUnavailable', 'TooManyRequests',
    'InternalServerError', 'BadGateway', 'GatewayTimeout', 'DeadlineExceeded',
    'Unavailable', 'RetryError', 'TransportError',
  ),
  _CORRUPT: ('DataLossError',),
  _FULL: ('ResourceExhaustedError', 'ResourceExhausted'),
}  # fmt: skip
_REASONS = {name: why for why, names in _NAMES.items() for name in names}
_LIBRARIES = ('tensorflow.', 'google.')
# tensorstore and ArrayRecord raise Python's own types with a code in the text.
_CODE = re.compile(
  r'\b(NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|'
  r'DEADLINE_EXCEEDED)\b'
)


def explain(error: BaseException) -> Exception | None:
  """Returns the error of a command for a failure that is not a bug.

  Args:
    error: of any library.

  Returns:
    A UserError for a name that does not exist and for too little memory on the
    host; a StorageError for what cannot be reached, read or written; None for
    anything else.

  Example:
    >>> explain(PermissionError(13, 'Permission denied', 'data'))
    StorageError("data: access is denied; check the permissions, and for gs:// \
the login (PermissionError: [Errno 13] Permission denied: 'data')")
    >>> explain(KeyError('data')) is None
    True
  """
  reason = _reason(error)
  if reason is None:
    return None
  path = getattr(error, 'filename', None)
  where = f'{path}: ' if isinstance(path, str) else ''
  text = ' '.join(str(error).split())[:300]
  kind = UserError if reason in (_MISSING, _NO_MEMORY) else StorageError
  return kind(f'{where}{reason} ({type(error).__name__}: {text})')


def _reason(error: BaseException) -> str | None:
  if isinstance(error, MemoryError):
    return _NO_MEMORY
  if type(error).__module__.startswith(_LIBRARIES):
    return _REASONS.get(type(error).__name__)
  if isinstance(error, OSError):
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      return _FULL
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
      return _DENIED
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
      return _MISSING
    if error.errno == errno.ENOMEM:
      return _NO_MEMORY
    # The errors of requests have no number.
    is_network = isinstance(error, ConnectionError | TimeoutError)
    return _UNREACHABLE if is_network or error.errno is None else _FAILED
  if type(error) in (ValueError, RuntimeError):
    code = _CODE.search(str(error))
    return code and _REASONS[code[1].title().replace('_', '')]
  return None
