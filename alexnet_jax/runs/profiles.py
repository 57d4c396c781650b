"""Profiles some training steps with `jax.profiler` (`config.profile`)."""

import pathlib
import tempfile

import jax
from etils import epath

from alexnet_jax.cli.terminal import say, warn
from alexnet_jax.config.values import profile_steps


class Profile:
  """Traces a range of steps, of which a run may do all, some or none."""

  def __init__(self, text: str, workdir: epath.Path):
    """Parses the range.

    Args:
      text: of `config.profile`, such as '100:110'.
      workdir: the run's; traces are written to its folder `profile`.

    Raises:
      UserError: the text is invalid.
    """
    self._steps = profile_steps(text)
    self._folder = workdir / 'profile'
    self._local: tempfile.TemporaryDirectory | None = None
    self._first: int | None = None

  def before_step(self, done: int) -> None:
    """Starts the trace if it begins after `done` steps."""
    if self._first is None and done in self._steps:
      self._first = done
      # The profiler cannot write to gs://.
      self._local = tempfile.TemporaryDirectory()
      jax.profiler.start_trace(self._local.name)

  def after_step(self, done: int, state: object) -> None:
    """Ends the trace if it ends after `done` steps.

    Args:
      done: steps started.
      state: the result of the last one.
    """
    if self._local and done == self._steps.stop:
      jax.block_until_ready(state)
      self.end(done)

  def end(self, done: int) -> None:
    """Writes the trace, if one was started, and prints how to view it."""
    if not self._local:
      return
    with self._local as local:
      self._local = None
      try:
        jax.profiler.stop_trace()
        self._copy(pathlib.Path(local))
      except Exception as error:  # Libraries for gs:// raise any type.
        # The run is worth more than its trace.
        warn(f'no profile: cannot write {self._folder}: {error}')
        return
    say(
      f'profile of steps {self._first} to {done} in {self._folder}; to view '
      f'it: pip install xprof; xprof --logdir={self._folder}'
    )

  def _copy(self, local: pathlib.Path) -> None:
    """Copies to the workdir; the processes of one host use different names."""
    several = jax.process_count() > 1
    prefix = f'{jax.process_index()}.' if several else ''
    for path in local.rglob('*'):
      if path.is_file():
        folder = self._folder / path.parent.relative_to(local).as_posix()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (prefix + path.name)).write_bytes(path.read_bytes())
