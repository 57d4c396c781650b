"""Injects faults into runs on gs://: `make chaos-gcs`.

A real Cloud Storage server on loopback (`gcs.py`) and real processes. Each run
must end with exactly the results of an undisturbed local one or, where the
fault does not pass, with a one-line error within two minutes; then the same
command must finish it. Prints a table for docs/survival.md like `make chaos`.
tests/test_gcs.py is the short form.
"""

import argparse
import contextlib
import pathlib
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import chaos
import gcs
import sklearn.datasets
import zygote
from PIL import Image

from alexnet_jax.pretrained import torchvision

Faults = dict[str, Callable[[chaos.Row], None]]

# Seconds within which a run ends that cannot go on.
LIMIT = 120
# Seconds within which a run ends that can.
PATIENCE = 300

# Requests of a save, in their order, in the words of the server's log.
SAVE = {
  'before its first file': r'POST .*checkpoints/STEP/$',
  'after its folder': r'POST .*checkpoints/STEP/_CHECKPOINT_METADATA$',
  'among its arrays': r'POST .*checkpoints/STEP/default/ocdbt\S*/d/',
  'before its metadata': r'POST .*checkpoints/STEP/default/_METADATA',
  'as its arrays are merged': r'POST .*checkpoints/STEP/default/manifest',
  'before its digests': r'(POST|PUT) .*checkpoints/STEP/digests.json',
  'before its commit_success.txt': r'PUT .*checkpoints/STEP/commit_success',
}
AFTER = {
  'after its commit_success.txt': r'GET .*checkpoints/8$',
  'as it is deleted': r'DELETE .*checkpoints/STEP/default/d/',
}


class Bucket(chaos.Chaos):
  """Injects faults into runs on gs://bucket, whose local folder is `folder`.

  Args:
    storage: the running server.
    **options: of `chaos.Chaos`.

  Methods take local paths, and commands see the same places as gs://.
  """

  def __init__(self, storage: gcs.CloudStorage, **options: Any):
    super().__init__(storage.objects, start=self.start_there, **options)
    self.storage = storage

  def start_there(self, *arguments: str, **options: Any) -> zygote.Process:
    """Like `zygote.start`, with gs:// instead of the bucket's folder."""
    there = f'gs://{gcs.BUCKET}'
    return self.storage.start(
      *(each.replace(str(self.folder), there) for each in arguments), **options
    )

  def finish(
    self, workdir: pathlib.Path, reference: pathlib.Path
  ) -> zygote.Process:
    """Runs or resumes a run, and compares its end with the reference's."""
    run = self.start(*self.arguments, f'--workdir={workdir}')
    assert run.wait(PATIENCE) == 0, run.output
    assert chaos.outcome(workdir) == chaos.outcome(reference), workdir
    return run

  def killed_in_save(
    self,
    row: chaos.Row,
    reference: pathlib.Path,
    phase: str,
    step: int = 4,
    burst: float = 0,
  ) -> pathlib.Path:
    """Kills a run within the save of a step, and finishes it.

    Args:
      row: of the table.
      reference: the workdir of the undisturbed run.
      phase: of `SAVE` or `AFTER`.
      step: of the checkpoint.
      burst: seconds for which the server answers 503 to the resumed run.

    Returns:
      The local folder of the workdir.
    """
    workdir = self.folder / f'killed_{row.times}'
    match = {**SAVE, **AFTER}[phase].replace('STEP', str(step))
    run = self._stopped_at(match, workdir)
    run.send_signal(signal.SIGKILL)
    run.wait()
    if phase in SAVE:
      folder = workdir / 'checkpoints' / str(step)
      assert not (folder / 'commit_success.txt').exists()
    row.times += 1
    done = chaos._steps(run.output)
    if burst:
      self.storage.fault('503', seconds=burst)
    else:
      self.storage.clear()
    again = self.finish(workdir, reference)
    row.survived += 1
    row.lost.append(chaos._lost(again.output, done))
    chaos.say(f'  {phase}: {row.lost[-1]} steps lost')
    return workdir

  def _stopped_at(self, match: str, workdir: pathlib.Path) -> zygote.Process:
    """Starts a run, and waits until its first such request hangs."""
    self.storage.fault('hang', match=match, times=1)
    run = self.start(*self.arguments, f'--workdir={workdir}')
    self._wait(run, lambda: self.storage.log(' hang '))
    return run

  def passing(
    self, row: chaos.Row, reference: pathlib.Path, kind: str, **fault: Any
  ) -> None:
    """Injects a fault that passes, after a run's second step."""
    workdir = self.folder / f'passing_{kind}'
    run = self.start(*self.arguments, f'--workdir={workdir}')
    self._wait(run, lambda: chaos._steps(run.output) >= 2)
    self.storage.fault(kind, **fault)
    began = time.monotonic()
    row.times += 1
    try:
      assert run.wait(PATIENCE) == 0, run.output
    finally:
      self.storage.clear()
    assert chaos.outcome(workdir) == chaos.outcome(reference), workdir
    row.survived += 1
    row.note = f'{time.monotonic() - began:.0f} s to the end'

  def lasting(
    self, row: chaos.Row, reference: pathlib.Path, kind: str, after: int
  ) -> None:
    """Injects a fault for good, after some steps; 0: from the start."""
    workdir = self.folder / f'lasting_{kind}_{after}'
    if not after:
      self.storage.fault(kind)
    run = self.start(*self.arguments, f'--workdir={workdir}')
    if after:
      self._wait(run, lambda: chaos._steps(run.output) >= after)
      self.storage.fault(kind)
    row.times += 1
    try:
      seconds = check_refused(run)
    finally:
      self.storage.clear()
    again = self.finish(workdir, reference)
    row.survived += 1
    row.lost.append(chaos._lost(again.output, chaos._steps(run.output)))
    row.note = ', '.join(filter(None, [row.note, f'{seconds:.0f} s']))

  def absent(self, row: chaos.Row) -> None:
    """Names a bucket that is not there, wherever one can be named."""
    absent = 'gs://absent/folder'
    here = f'--workdir={self.folder}/absent'
    runs = [
      self.start(*self.arguments, *arguments)
      for arguments in (
        (f'--workdir={absent}',),
        (f'--workdir={absent}', '--mode=eval'),
        (here, f'--config.data.data_dir={absent}'),
        (here, '--config.data.name=tiny', f'--config.data.data_dir={absent}'),
        (here, f'--config.init_from={absent}'),
      )
    ]
    for run in runs:
      row.times += 1
      check_refused(run)
      assert 'absent' in run.output
      row.survived += 1

  def two_processes(self, row: chaos.Row, local: chaos.Chaos) -> None:
    """Kills one of two processes of a run, then resumes with both."""

    def start(suite, workdir):
      with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
      return [
        suite.start(
          *suite.arguments,
          f'--workdir={workdir}',
          '--distributed',
          f'--coordinator_address=localhost:{port}',
          '--num_processes=2',
          f'--process_id={i}',
        )
        for i in range(2)
      ]

    def finish(suite, workdir):
      runs = start(suite, workdir)
      statuses = [run.wait(PATIENCE) for run in runs]
      assert statuses == [0, 0], runs[0].output + runs[1].output
      return runs[0]

    expected = local.folder / 'two_processes'
    finish(local, expected)
    for chosen in range(2):
      workdir = self.folder / f'two_processes_{chosen}'
      runs = start(self, workdir)
      step = self.rng.randrange(5, self.steps - 2)
      self._wait(runs[0], lambda: chaos._steps(runs[0].output) >= step)  # noqa: B023
      runs[chosen].send_signal(signal.SIGKILL)
      ends = [run.wait(PATIENCE) for run in runs]
      assert ends[chosen] == -signal.SIGKILL
      assert ends[1 - chosen] in (4, 134, -6), runs[1 - chosen].output
      row.times += 1
      done = chaos._steps(runs[0].output)
      again = finish(self, workdir)
      assert chaos.outcome(workdir) == chaos.outcome(expected)
      row.lost.append(chaos._lost(again.output, done))
      row.survived += 1

  def _wait(self, run: zygote.Process, condition: Callable[[], Any]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
      assert run.poll() is None, run.output
      assert time.monotonic() < until, run.output
      time.sleep(0.01)


def check_refused(run: zygote.Process) -> float:
  """Checks that a command ends by itself, by status 2 or 3 and one line.

  Returns:
    The seconds that it took.
  """
  began = time.monotonic()
  assert run.wait(LIMIT) in (2, 3), f'status {run.returncode}: {run.output}'
  assert 'Traceback' not in run.output, run.output
  assert run.output.splitlines()[-1].startswith('alexnet_jax: '), run.output
  return time.monotonic() - began


class Commands:
  """Runs each command with local paths and with gs://, and compares.

  Args:
    local: where the local ones run.
    bucket: where the others run.
  """

  def __init__(self, local: chaos.Chaos, bucket: Bucket):
    self._places = (local, bucket)
    self.train = (*local.arguments, '--config.num_train_steps=8')

  def same(
    self,
    row: chaos.Row,
    module: str,
    *arguments: str,
    files: tuple[str, ...] = (),
    runs: tuple[str, ...] = (),
  ) -> None:
    """Runs a command in both places.

    Args:
      row: of the table.
      module: within alexnet_jax.
      *arguments: with '@' for the place, and LOCAL for a local folder.
      files: that must be the same but for the place; '*' allowed.
      runs: workdirs that must have the same end. Without `files` and `runs`,
        stdout must be the same.
    """
    outputs = []
    for i, place in enumerate(self._places):
      folder = str(place.folder)
      local = f'{self._places[0].folder}_{i}'
      run = place.start(
        *(x.replace('@', folder).replace('LOCAL', local) for x in arguments),
        module=f'alexnet_jax.{module}',
      )
      assert run.wait(PATIENCE) == 0, run.output
      output = _comparable(run.stdout.encode(), place)
      outputs.append(output.decode())
    row.times += 1
    here, there = (place.folder for place in self._places)
    for name in runs:
      assert chaos.outcome(there / name) == chaos.outcome(here / name), name
    for pattern in files:
      found = sorted(here.glob(pattern))
      assert found, pattern
      for path in found:
        name = path.relative_to(here)
        contents = [
          _comparable((place.folder / name).read_bytes(), place)
          for place in self._places
        ]
        assert contents[0] == contents[1], name
    if not (runs or files):
      assert outputs[0] == outputs[1], ''.join(outputs)
    row.survived += 1
    chaos.say(f'  {module} {" ".join(arguments[-2:])}')


def _comparable(content: bytes, place: chaos.Chaos) -> bytes:
  """Returns an output without its place, and without how long it took."""
  for name in (f'gs://{gcs.BUCKET}', str(place.folder)):
    content = content.replace(name.encode(), b'@')
  content = re.sub(rb'took [\d.]+ ?s', b'', content)
  # Images/s, in the last column but one of the report's table.
  return re.sub(rb'\| [\d,]+ (\| [^|]*\|\n)', rb'\1', content)


def _commands(commands: Commands, weights: pathlib.Path) -> Faults:
  """Returns a row for each command that takes gs://, in the order to run."""
  found: Faults = {}

  def add(name, *arguments, **outputs):
    found[f'command: {name}'] = lambda row: commands.same(
      row, *arguments, **outputs
    )

  evaluate = '--mode=eval', '--config=tests/narrow.py'
  train = commands.train
  data = (
    '--config.data.name=poisoned_256', '--config.data.data_dir=@/resized',
    '--config.data.val_split=train',
  )  # fmt: skip
  for seed in range(2):
    add(
      f'main, seed {seed}', 'main', *train, f'--config.seed={seed}',
      f'--workdir=@/runs/{seed}', runs=(f'runs/{seed}',),
    )  # fmt: skip
  add('main --mode=eval', 'main', *evaluate, '--workdir=@/runs/0')
  add(
    'ten crops', 'main', *evaluate, '--workdir=@/runs/0',
    '--config.eval.crops=10',
  )  # fmt: skip
  add(
    'ensemble of two', 'main', *evaluate, '--workdir=@/runs/0,@/runs/1',
    '--out=@/ensemble',
  )  # fmt: skip
  add(
    'init_from', 'main', *train, '--config.init_from=@/runs/0',
    '--workdir=@/tuned', runs=('tuned',),
  )  # fmt: skip
  add(
    'compilation_cache', 'main', *train, '--config.compilation_cache=@/xla',
    '--workdir=@/cached', runs=('cached',),
  )  # fmt: skip
  add(
    'preflight', 'preflight', *train, '--workdir=@/runs/0', '--topology=local',
    runs=('runs/0',),
  )  # fmt: skip
  add(
    'report', 'report', '@/runs', '--out=@/report', files=('report/results.md',)
  )
  add(
    'convert', 'convert', str(weights), '@/converted',
    files=('converted/*.json',),
  )  # fmt: skip
  add(
    'figures', 'figures', '@/converted', '--out=@/figures', '--data=digits',
    '--train_split=train[:32]', '--val_split=test[:32]',
    files=('figures/figure*.png',),
  )  # fmt: skip
  add('predict', 'predict', '@/images', '--workdir=@/converted')
  add(
    'data.resized', 'data.resized', '--source=poisoned', '--data_dir=@/data',
    '--out_dir=@/resized', files=('resized/*/*/*.tfrecord*',),
  )  # fmt: skip
  add(
    'data_dir', 'main', *train, *data, '--workdir=@/on_data', runs=('on_data',)
  )
  add(
    'data.cache_dir', 'main', *train, *data, '--config.data.cache_dir=LOCAL',
    '--workdir=@/from_cache', runs=('from_cache',),
  )  # fmt: skip
  return found


def _write_inputs(folder: pathlib.Path) -> None:
  """Writes weights, images and a dataset for the commands."""
  import safetensors.torch
  import torch
  import torch_alexnets

  torch.manual_seed(0)
  network = torch_alexnets.build('torchvision', 10)
  weights = {
    f'{name}.{kind}': getattr(getattr(network, layer), kind).detach()
    for layer, name in torchvision.NAMES.items()
    for kind in ('weight', 'bias')
  }
  safetensors.torch.save_file(weights, folder / 'weights.safetensors')
  (folder / 'images').mkdir()
  for i, image in enumerate(sklearn.datasets.load_sample_images().images):
    Image.fromarray(image).save(folder / f'images/{i}.jpg')
  chaos._store_poisoned(folder / 'data')


def _faults(local: chaos.Chaos, bucket: Bucket, reference: Any) -> Faults:
  """Returns the rows of the table: what happens, and what makes it happen."""

  def kills(row):
    for phase in (*SAVE, *AFTER):
      bucket.killed_in_save(row, reference, phase)

  def lasting(kind):
    def inject(row):
      for after in (0, 5):
        bucket.lasting(row, reference, kind, after)

    return inject

  def signalled(number, times):
    return lambda row: bucket.signalled(row, times, number, reference)

  def passing(kind, **fault):
    return lambda row: bucket.passing(row, reference, kind, **fault)

  return {
    'SIGKILL within a save, in each of its phases': kills,
    'SIGKILL at a random time': signalled(signal.SIGKILL, 14),
    'SIGTERM at a random time': signalled(signal.SIGTERM, 4),
    'SIGKILL of one of two processes': (
      lambda row: bucket.two_processes(row, local)
    ),
    'second run in the same workdir: refused': bucket.second,
    '503 for 30 s': passing('503', seconds=30),
    '429 for 30 s': passing('429', seconds=30),
    'connections reset for 30 s': passing('reset', seconds=30),
    '2 s for every call, for 60 s': passing('slow', wait=2, seconds=60),
    'connections that hang for 60 s': passing('hang', seconds=60),
    '401 for good (expired token): stops': lasting('401'),
    '403 for good: stops': lasting('403'),
    '503 for good: stops': lasting('503'),
    'connections reset for good: stops': lasting('reset'),
    'connections that hang for good: stops': lasting('hang'),
    'bucket that does not exist: stops': bucket.absent,
  }


def main() -> None:
  """Injects all faults and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of the random times; default: 0'
  )
  parser.add_argument(
    '--only', default='', help='regular expression of rows; default: all'
  )
  flags = parser.parse_args()
  if reason := gcs.missing():
    sys.exit(reason)
  rows, failed = [], []
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for name in ('local', 'server'):
      (folder / name).mkdir()
    _write_inputs(folder / 'local')
    storage = stack.enter_context(
      gcs.CloudStorage(folder / 'server', content=folder / 'local')
    )
    options = {'seed': flags.seed, 'config': 'tests/narrow.py'}
    local = chaos.Chaos(folder / 'local', start=zygote.start, **options)
    # A run waits for 20 s if the one before was killed.
    bucket = Bucket(storage, start_up=24, **options)
    reference = local.uninterrupted('uninterrupted')
    same = bucket.uninterrupted('uninterrupted')
    assert chaos.outcome(same) == chaos.outcome(reference)
    faults = _faults(local, bucket, reference)
    weights = folder / 'local/weights.safetensors'
    faults.update(_commands(Commands(local, bucket), weights))
    for fault, inject in faults.items():
      if not re.search(flags.only, fault):
        continue
      rows.append(chaos.Row(fault))
      chaos.say(fault)
      try:
        inject(rows[-1])
      except (AssertionError, TimeoutError):
        failed.append(fault)
        traceback.print_exc()
        storage.clear()
  print('\n| fault | times | passed | work lost |\n|---|---|---|---|')
  for row in rows:
    print(row.text())
  if failed:
    sys.exit('NOT survived: ' + '; '.join(failed))


if __name__ == '__main__':
  main()
