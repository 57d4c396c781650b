"""Keeps memory from one training step to the next, on CPU.

glibc returns a step's temporary arrays to the system, and the next step faults
them in again, page by page. Where memory is kept, the peak is the same.
"""

import ctypes
import importlib.util
import os

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Makes glibc keep what is freed; returns whether it does.

  Must be called before JAX makes its threads. It does nothing

    without glibc;
    if `MALLOC_*` or `GLIBC_TUNABLES` is set, which are the user's own choice;
    if JAX may use a GPU or TPU, where the host's threads share one arena badly.
  """
  chosen = any(name.startswith('MALLOC_') for name in os.environ)
  if chosen or 'GLIBC_TUNABLES' in os.environ or not _on_cpu():
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
    os.confstr('CS_GNU_LIBC_VERSION')
  except (AttributeError, OSError, TypeError, ValueError):  # Not glibc.
    return False
  # Threads with arenas of their own would use mmap for large arrays.
  options = (_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)
  return all(mallopt(*option) for option in options)


def _on_cpu() -> bool:
  if platforms := os.environ.get('JAX_PLATFORMS'):
    return platforms == 'cpu'
  return not any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))
