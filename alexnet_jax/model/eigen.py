"""Leaves XLA's float32 convolutions on CPU to Eigen, as XLA did before.

XLA gives them to YNNPACK now, which takes up to twice as long for this network
(docs/speed.md). A flag of XLA changes that.
"""

import importlib.util
import mmap
import os
import pathlib

_FLAG = 'xla_cpu_experimental_ynn_fusion_type'
_VALUE = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
# Packages that contain XLA, and its file in them.
_LIBRARIES = (
  ('jaxlib', '*jax_common.*'),
  ('jax_plugins', '*/*plugin*.so'),
  ('libtpu', 'libtpu.so'),
)


def prefer() -> None:
  """Adds the flag to `XLA_FLAGS`, unless it is set or XLA does not know it.

  XLA reads `XLA_FLAGS` when it first compiles something; for programs that have
  done so before, nothing changes. XLA ends the process at a flag that it does
  not know, and the compilers for TPU and GPU are XLAs of their own.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if _FLAG not in flags and _is_known():
    os.environ['XLA_FLAGS'] = f'{flags} --{_FLAG}=-{_VALUE}'.strip()


def _is_known() -> bool:
  """Returns whether each installed XLA contains the names of flag and value."""
  found = {
    package: [
      path
      for folder in getattr(
        importlib.util.find_spec(package), 'submodule_search_locations', ()
      )
      for path in pathlib.Path(folder).glob(pattern)
    ]
    for package, pattern in _LIBRARIES
  }
  return bool(found['jaxlib']) and all(
    _contains(path) for paths in found.values() for path in paths
  )


def _contains(library: pathlib.Path) -> bool:
  with (
    library.open('rb') as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
  ):
    return all(content.find(name.encode()) >= 0 for name in (_FLAG, _VALUE))
