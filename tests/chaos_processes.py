"""What may befall one of two processes of a run: part of `make chaos-long`.

Real processes on this machine; tests/chaos.py and tests/chaos_long.py kill and
signal them. Prints rows of docs/survival.md's table.
"""

import argparse
import errno
import pathlib
import signal
import socket
import sys
import tempfile
import time
from typing import Any

import chaos
import zygote

LOST = (4, -signal.SIGABRT)  # JAX may notice first.
STEPS = 12


class Pair:
  """Runs of two processes.

  Args:
    folder: of the runs.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    zygote.preload_failing_calls(folder)
    self._expected: tuple | None = None

  def start(self, name: str, *more: str, **options: Any) -> list[Any]:
    return zygote.start_together(
      2,
      '--config=tests/narrow.py',
      '--config.batch_size=16',
      '--config.log_every_steps=1',
      '--config.checkpoint.every_steps=2',
      '--config.data.val_split=test[:60]',
      f'--config.num_train_steps={STEPS}',
      f'--workdir={self.folder / name}',
      *more,
      **options,
    )

  def finishes(self, name: str, runs: list[Any] | None = None) -> None:
    """Checks that a run ends, or resumes to its end, with the same result."""
    if self._expected is None:
      for run in self.start('undisturbed'):
        assert run.wait() == 0, run.output
      self._expected = chaos.outcome(self.folder / 'undisturbed')
    for run in runs or self.start(name):
      assert run.wait() == 0, run.output
    assert chaos.outcome(self.folder / name) == self._expected

  def paused_briefly(self) -> str:
    runs = self.start('brief')
    runs[0].wait_for('step      4/')
    runs[1].send_signal(signal.SIGSTOP)
    time.sleep(20)
    runs[1].send_signal(signal.SIGCONT)
    self.finishes('brief', runs)
    return 'both continue'

  def paused_for_long(self) -> str:
    """The other one leaves long before five minutes are over."""
    first, second = self.start('long')
    first.wait_for('step      4/')
    second.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert first.wait(120) in LOST, first.output
    seconds = time.monotonic() - began
    second.send_signal(signal.SIGCONT)
    assert second.wait(120) in LOST, second.output
    self.finishes('long')
    return f'the other leaves after {seconds:.0f} s; resumes'

  def clock(self) -> str:
    for days in (1, -1):
      name = f'clock{days}'
      fast = {'FAIL_CLOCK': str(days * 86_400)}
      self.finishes(name, self.start(name, odd=1, env_of_odd=fast))
    return 'no effect'

  def full_disk(self) -> str:
    for odd in (0, 1):
      name = f'full{odd}'
      fails = {
        'FAIL_UNDER': f'{self.folder}/',
        'FAIL_CALL': 'write',
        'FAIL_NUMBER': '3+',
        'FAIL_ERRNO': str(errno.ENOSPC),
      }
      runs = self.start(name, odd=odd, env_of_odd=fails)
      assert runs[odd].wait(120) == 3, runs[odd].output
      assert runs[1 - odd].wait(120) in LOST, runs[1 - odd].output
      said = runs[odd].stderr.lower()
      assert 'no space left' in said, said
      self.finishes(name)
    return 'it exits with status 3, the other leaves; resumes'

  def other_config(self) -> str:
    for field in ('seed=1', 'data.train_split=train[:500]'):
      runs = self.start(
        'config', odd=1, arguments_of_odd=(f'--config.{field}',)
      )
      for run in runs:
        assert run.wait(120) == 2, run.output
        assert f'config.{field.split("=")[0]}' in run.stderr
    return 'both refuse, status 2'

  def other_data(self) -> str:
    """Each has digits of its own, of which one lacks an image."""
    from alexnet_jax.data import builders

    folders = [self.folder / f'data{i}' for i in range(2)]
    for folder in folders:
      builders.prepare(builders.find_builder('digits', str(folder)))
    path = folders[1] / 'digits' / '1.0.0' / 'dataset_info.json'
    text = path.read_text()
    path.write_text(text.replace('"1442"', '"1441"'))
    runs = self.start(
      'data',
      f'--config.data.data_dir={folders[0]}',
      odd=1,
      arguments_of_odd=(f'--config.data.data_dir={folders[1]}',),
    )
    for run in runs:
      assert run.wait(120) == 2, run.output
      assert 'let all read the same files' in run.stderr
    return 'both refuse, status 2'

  def port_taken(self) -> str:
    with socket.socket() as taken:
      taken.bind(('', 0))
      taken.listen()
      run = zygote.start(
        '--config=tests/narrow.py',
        f'--workdir={self.folder}/port',
        '--distributed',
        f'--coordinator_address=localhost:{taken.getsockname()[1]}',
        '--num_processes=2',
        '--process_id=0',
      )
      assert run.wait(120) == 2, run.output
      assert 'cannot listen at port' in run.stderr
    return 'the first refuses, status 2'


ROWS = {
  'one of two processes is paused for 20 s': Pair.paused_briefly,
  'the same for good': Pair.paused_for_long,
  "one process's clock is a day fast, or slow": Pair.clock,
  "one process's disk is full": Pair.full_disk,
  'one process has another config': Pair.other_config,
  'one process sees other data': Pair.other_data,
  "the coordinator's port is taken": Pair.port_taken,
}


def main() -> None:
  """Injects the faults; stops at the first that has another end."""
  argparse.ArgumentParser(description=__doc__).parse_args()
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    pair = Pair(pathlib.Path(folder))
    for fault, inject in ROWS.items():
      chaos.say(fault)
      rows.append(f'| {fault} | {inject(pair)} |')
  print('\n'.join(['| fault | the run |', '|---|---|', *rows]))


if __name__ == '__main__':
  sys.exit(main())
