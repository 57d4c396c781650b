"""What kind of file a file of weights is, by its content."""

import os

from alexnet_jax.cli.errors import UserError

# What PyTorch writes first where it does not write a zip archive.
_TORCH_MAGIC = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_LARGEST_HEADER = 2**40


def kind_of(path: str) -> str:
  """Returns the kind of a file; its name does not matter.

  Args:
    path: the file's.

  Returns:
    'torch', 'safetensors', 'hdf5', 'numpy', 'pickle', or 'protobuf' if it is
    none of these: protobuf has no mark of its own.

  Raises:
    UserError: the file cannot be read, or is in PyTorch's oldest format.

  Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'weights')
    >>> _ = path.write_bytes(bytes([16, 0, 0, 0, 0, 0, 0, 0]) + b'{"w": {}}')
    >>> kind_of(str(path))
    'safetensors'
  """
  try:
    with open(path, 'rb') as file:
      start = file.read(512)
      file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
      last = file.read()
  except OSError as error:
    raise UserError(f'cannot read {path}: {error}') from error
  if start[257:262] == b'ustar':
    raise UserError(
      f'{path} is a tar archive, also the format of PyTorch 0.1: give a file '
      'from inside it, or save the state dict with a later PyTorch'
    )
  if start.startswith(b'PK\x03\x04') or _TORCH_MAGIC in start[:32]:
    return 'torch'
  if start.startswith(b'\x89HDF\r\n\x1a\n'):
    return 'hdf5'
  if start.startswith(b'\x93NUMPY'):
    return 'numpy'
  is_binary = start.startswith(b'\x80') and start[1:2] <= b'\x05'
  # Protocols 0 and 1, Python 2's default, have no mark but their first opcode.
  if is_binary or (start[:1] in (b'(', b'c', b']', b'}') and last == b'.'):
    return 'pickle'
  header = int.from_bytes(start[:8], 'little')
  if start[8:9] == b'{' and header < _LARGEST_HEADER:
    return 'safetensors'
  return 'protobuf'
