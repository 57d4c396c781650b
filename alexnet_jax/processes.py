"""What several processes of one run agree on."""

import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.errors import StorageError, UserError


def on_first(function: Callable[[], int]) -> int:
  """What the first process alone finds, for all of them.

  Args:
    function: called in the first process.

  Raises:
    UserError, StorageError: of `function`, in all processes.
  """
  result, error = 0, None
  if jax.process_index() == 0:
    try:
      result = function()
    except (UserError, StorageError) as e:
      error = e
  if jax.process_count() > 1:
    told = np.array([result, error is not None])
    result, failed = map(int, multihost_utils.broadcast_one_to_all(told))
    if failed and error is None:
      error = StorageError('the first process stopped: see what it says')
  if error:
    if jax.process_count() > 1 and jax.process_index() == 0:
      # With it goes what holds them together: the others should leave first.
      time.sleep(2)
    raise error
  return result
