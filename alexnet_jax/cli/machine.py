"""What the machine's CPU and memory can do for a command."""

import ctypes
import functools
import importlib.util
import os
import pathlib

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@functools.cache
def cpu_flags() -> frozenset[str]:
  """Returns the words of /proc/cpuinfo, such as 'amx_bf16'; none elsewhere."""
  try:
    return frozenset(pathlib.Path('/proc/cpuinfo').read_text().split())
  except OSError:  # Not Linux.
    return frozenset()


def has_bfloat16() -> bool:
  """Returns whether the CPU multiplies in bfloat16 (AMX or AVX512-BF16)."""
  return not cpu_flags().isdisjoint({'amx_bf16', 'avx512_bf16'})


def fast_dtype() -> str:
  """Returns the dtype in which the CPU trains faster, for `model.dtype`."""
  return 'bfloat16' if has_bfloat16() else 'float32'


def keep_freed_memory() -> bool:
  """Makes glibc keep what is freed; returns whether it does.

  Otherwise glibc returns a step's temporary arrays to the system, and the next
  step faults them in again, page by page.

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
