"""Traces of some training steps, by `jax.profiler` (`config.profile`)."""

import pathlib
import tempfile

import jax
from etils import epath

from alexnet_jax.cli.terminal import say, warn
from alexnet_jax.config.values import profile_steps


class Profile:
  """Traces the steps of a range, of which a run may do all, some or none."""

  def __init__(self, text: str, workdir: epath.Path):
    self._steps = profile_steps(text)
    self._folder = workdir / 'profile'
    self._local: tempfile.TemporaryDirectory | None = None
    self._first: int | None = None

  def before_step(self, done: int) -> None:
    """Called when so many steps are done, before the next is begun."""
    if self._first is None and done in self._steps:
      self._first = done
      # A bucket is not what a profiler writes to.
      self._local = tempfile.TemporaryDirectory()
      jax.profiler.start_trace(self._local.name)

  def after_step(self, done: int, state: object) -> None:
    """Called when so many steps are begun, with what the last makes."""
    if self._local and done == self._steps.stop:
      jax.block_until_ready(state)
      self.end(done)

  def end(self, done: int) -> None:
    """Writes what there is, and says how to look at it."""
    if not self._local:
      return
    with self._local as local:
      self._local = None
      try:
        jax.profiler.stop_trace()
        self._copy(pathlib.Path(local))
      except Exception as error:  # Of whatever library talks to a bucket.
        # A trace is not worth a run.
        warn(f'no profile: cannot write {self._folder}: {error}')
        return
    say(
      f'profile of steps {self._first} to {done} in {self._folder}; to look at '
      f'it: pip install xprof; xprof --logdir={self._folder}'
    )

  def _copy(self, local: pathlib.Path) -> None:
    """To the workdir; several processes of one host do not share a name."""
    several = jax.process_count() > 1
    prefix = f'{jax.process_index()}.' if several else ''
    for path in local.rglob('*'):
      if path.is_file():
        folder = self._folder / path.parent.relative_to(local).as_posix()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (prefix + path.name)).write_bytes(path.read_bytes())
