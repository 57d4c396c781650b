"""Makes system calls fail, and cuts the power: part of `make chaos-long`.

Each command runs first with all calls counted that change files in its folder
(failing_calls.c: create, write, sync, rename, mkdir, unlink). Then, in a fresh
copy of that folder each time, one of these calls fails with ENOSPC, EIO or
EDQUOT. The command must succeed, or end with status 3 and one line that says
why. Every file must still be readable; a run's checkpoints must be intact; and
the same command, without a fault, must end with the undisturbed result.

The power is cut in the training before each of some of its calls, evenly over
all. On the disk is then what was written until then (`kept`), without what was
not synced, half of it or all (`data`), and without names that were not synced,
either (`names`). The same command must end with the undisturbed result.

Prints a table for docs/survival.md. Each fault has a name, such as
`train/sync/17/EIO`, and --fault=NAME repeats it alone.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import errno
import functools
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import chaos
import numpy as np
import zygote
from etils import epath
from PIL import Image

from alexnet_jax.runs import digests, intact

CALLS = ('create', 'write', 'sync', 'rename', 'mkdir', 'unlink')
ERRORS = ('ENOSPC', 'EIO', 'EDQUOT')
CUTS = ('kept', 'data', 'names')

# A network of 81,898 parameters, on 200 images.
SMALL = (
  '--config=configs/digits.py',
  '--config.model.name=cifar10_relu',
  '--config.data.crop_size=24',
  '--config.data.resize_size=24',
  '--config.data.train_split=train[:200]',
  '--config.data.val_split=test[:60]',
  '--config.num_train_steps=3',
)


def _train(folder: pathlib.Path, steps: int = 8) -> list[str]:
  return [
    '--config=tests/narrow.py',
    '--config.batch_size=16',
    '--config.log_every_steps=1',
    '--config.checkpoint.every_steps=2',
    '--config.data.val_split=test[:60]',
    f'--config.num_train_steps={steps}',
    f'--workdir={folder}/run',
  ]


def _image(folder: pathlib.Path, label: str, i: int) -> None:
  path = folder / 'photos' / label / f'{i}.jpg'
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
  Image.fromarray(pixels).save(path)


def _prepare(folder: pathlib.Path) -> None:
  """Makes what the commands start from."""
  for label in ('a', 'b'):
    for i in range(10):
      _image(folder, label, i)
  workdir = f'--workdir={folder}/small'
  for arguments in ((*SMALL, workdir), _train(folder, steps=4)):
    run = zygote.start(*arguments)
    assert run.wait() == 0, run.output
  import torch
  from converting import hollow_state_dict

  weights = {k: v.contiguous() for k, v in hollow_state_dict(10).items()}
  # Read by all, and too large to copy each time.
  torch.save(weights, folder.parent / 'alexnet.pth')


@dataclasses.dataclass(frozen=True)
class Case:
  """A command.

  Attributes:
    arguments: of the command, given its folder.
    module: the command.
    faults: at most so many of each call.
    cuts: how often the power is cut.
  """

  arguments: Callable[[pathlib.Path], list[str]]
  module: str = 'alexnet_jax.main'
  faults: int = 20
  cuts: int = 0


CASES = {
  'train': Case(_train, faults=50, cuts=90),
  'main --mode=eval': Case(
    lambda f: [f'--workdir={f}/small', '--mode=eval', *SMALL[:-1]]
  ),
  'convert': Case(
    lambda f: [f'{f.parent}/alexnet.pth', f'{f}/converted'],
    'alexnet_jax.convert',
    faults=8,
  ),
  'data.resized': Case(
    lambda f: [
      f'--source={f}/photos', '--name=photos', f'--data_dir={f}/data',
    ],
    'alexnet_jax.data.resized',
  ),
  'report': Case(
    lambda f: [f'{f}/small', f'--out={f}/report'], 'alexnet_jax.report'
  ),
  'figures': Case(
    lambda f: [f'{f}/small', '--images=4', '--queries=2'],
    'alexnet_jax.figures',
  ),
  'predict --features': Case(
    lambda f: [
      f'{f}/photos', f'--workdir={f}/small', f'--features={f}/photos.npz',
    ],
    'alexnet_jax.predict',
  ),
  'export': Case(
    lambda f: [f'{f}/net.stablehlo', f'--workdir={f}/small'],
    'alexnet_jax.export',
  ),
}  # fmt: skip


def readable(path: pathlib.Path) -> None:
  """Raises an error if a file is cut off."""
  if path.suffix == '.json':
    json.loads(path.read_text())
  elif path.suffix == '.jsonl':
    for line in path.read_text().splitlines():
      json.loads(line)
  elif path.suffix in ('.png', '.jpg'):
    with Image.open(path) as image:
      image.load()
  elif path.suffix == '.npz':
    with np.load(path) as arrays:
      assert all(arrays[name].size for name in arrays)
  elif path.suffix == '.html':
    assert path.read_text().rstrip().endswith('</html>')


def check_whole(folder: pathlib.Path) -> None:
  """Checks that every file that has its own name can be read."""
  for path in folder.rglob('*'):
    parts = path.relative_to(folder).parts
    # Temporary names: hidden, or Orbax's or TFDS's.
    temporary = any(
      part.startswith('.') or 'tmp' in part or 'incomplete' in part
      for part in parts
    )
    if path.is_file() and not temporary:
      readable(path)
  for workdir in ('run', 'small', 'converted'):
    of = epath.Path(folder, workdir)
    for step in intact.saved_steps(of):
      faults = digests.faults(of / intact.FOLDER / str(step))
      assert not faults, f'{workdir}, step {step}: {faults}'


def results_of(name: str, folder: pathlib.Path) -> Any:
  """Returns what a command made, without times."""
  if name == 'train':
    return chaos.outcome(folder / 'run')
  if name == 'main --mode=eval':
    return chaos.results(folder / 'small')
  if name == 'convert':
    saved = folder / 'converted' / intact.FOLDER
    return sorted(p.name for p in saved.iterdir())
  if name == 'predict --features':
    with np.load(folder / 'photos.npz') as arrays:
      return arrays['features'].tolist()
  if name == 'data.resized':
    # The same images in the same order; libraries note times beside them.
    return [p.read_bytes() for p in sorted(folder.rglob('*.tfrecord*'))]
  return sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file() and path.suffix != '.lock'
  )


def lose(
  cut: str, calls: list[str], base: pathlib.Path, folder: pathlib.Path
) -> None:
  """Takes from a folder what a power cut would.

  Args:
    cut: of `CUTS`.
    calls: the log of failing_calls.c up to the cut.
    base: what the folder was copied from, all of which was on the disk.
    folder: of the run that was killed.
  """
  dirty: dict[str, None] = {}  # Files whose content was not synced.
  unsure: dict[str, str] = {}  # New names that were not: what they were before.
  known = {str(folder / p.relative_to(base)) for p in base.rglob('*')}
  for call in calls:
    kind, _, path = call.split(' ', 2)
    path, _, old = path.partition('\t')
    if kind == 'write':
      dirty[path] = None
    elif kind in ('create', 'mkdir') and path not in known:
      known.add(path)
      unsure[path] = ''
    elif kind == 'sync':
      dirty.pop(path, None)
      synced = [name for name in unsure if os.path.dirname(name) == path]
      for name in synced:
        del unsure[name]
    elif kind == 'unlink':
      dirty.pop(path, None)
      unsure.pop(path, None)
      known.discard(path)
    elif kind == 'rename':
      known.add(path)
      known.discard(old)
      before = unsure.pop(old, None)
      moved = {
        name: path + name.removeprefix(old)
        for name in [*dirty, *unsure]
        if name == old or name.startswith(old + '/')
      }
      dirty = {moved.get(name, name): None for name in dirty}
      unsure = {moved.get(name, name): was for name, was in unsure.items()}
      unsure[path] = '' if before == '' else old
  if cut == 'kept':
    return
  for i, name in enumerate(dirty):
    if os.path.isfile(name):
      os.truncate(name, i % 2 * (os.path.getsize(name) // 2))
  if cut == 'data':
    return
  for name, old in reversed(unsure.items()):
    was = base / os.path.relpath(name, folder)
    if was.is_file():  # It has its old content again.
      shutil.copyfile(was, name)
    elif old and os.path.exists(name) and not os.path.exists(old):
      os.rename(name, old)
    elif os.path.isdir(name):
      shutil.rmtree(name)
    elif os.path.exists(name):
      os.unlink(name)


class Faults:
  """Injects the faults.

  Args:
    folder: of all runs.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    zygote.preload_failing_calls(folder)
    self.base = folder / 'base'
    self.base.mkdir()
    _prepare(self.base)

  def copy(self, name: str) -> pathlib.Path:
    """Returns a fresh copy of what the commands start from."""
    folder = self.folder / name.replace('/', '_').replace(' ', '_')
    shutil.copytree(self.base, folder, symlinks=True)
    return folder

  def start(self, name: str, folder: pathlib.Path, **fail: str) -> Any:
    case = CASES[name]
    env = {f'FAIL_{key}': value for key, value in fail.items()}
    return zygote.start(
      *case.arguments(folder),
      module=case.module,
      env={'FAIL_UNDER': f'{folder}/', **env} if fail else {},
    )

  @functools.cache  # noqa: B019
  def undisturbed(self, name: str) -> tuple[Any, dict[str, int]]:
    """Returns a command's result and how often it makes each call."""
    folder = self.copy(f'{name} undisturbed')
    log = self.folder / f'{folder.name}.log'
    run = self.start(name, folder, NUMBER='0', LOG=str(log))
    assert run.wait() == 0, run.output
    counts = collections.Counter(
      line.split(' ')[0] for line in log.read_text().splitlines()
    )
    check_whole(folder)
    result = results_of(name, folder)
    shutil.rmtree(folder)
    return result, dict(counts)

  def faults(self, name: str) -> list[str]:
    """Returns the names of a command's faults."""
    _, counts = self.undisturbed(name)
    names = []
    for call in CALLS:
      number = counts.get(call, 0)
      for i in range(min(number, CASES[name].faults)):
        # Evenly over all of the command's calls.
        at = 1 + i * number // min(number, CASES[name].faults)
        names.append(f'{name}/{call}/{at}/{ERRORS[i % len(ERRORS)]}')
    total, cuts = sum(counts.values()), CASES[name].cuts
    for i in range(cuts):
      names.append(f'{name}/cut/{1 + i * total // cuts}/{CUTS[i % len(CUTS)]}')
    return names

  def inject(self, fault: str) -> dict[str, Any]:
    """Injects one fault, and returns what became of it."""
    name, call, number, error = fault.rsplit('/', 3)
    line: dict[str, Any] = {'fault': fault, 'passed': False}
    expected, _ = self.undisturbed(name)
    folder = self.copy(fault)
    log = self.folder / f'{folder.name}.log'
    run = None
    try:
      run = self.start(
        name,
        folder,
        CALL=call,
        NUMBER=number,
        ERRNO=str(getattr(errno, error, 0)),
        LOG=str(log),
      )
      line['status'] = run.wait()
      if call == 'cut':
        assert line['status'] in (-signal.SIGKILL, 0)
        if line['status']:
          calls = log.read_text().splitlines() if log.exists() else []
          lose(error, calls, self.base, folder)
        return self._again(name, folder, line)
      line['call'] = log.read_text().strip() if log.exists() else 'not reached'
      said = [
        text
        for text in run.stderr.splitlines()
        if text.startswith('alexnet_jax: ') and 'WARNING' not in text
      ]
      assert 'Traceback' not in run.output
      assert line['status'] in (0, 3)
      if line['status'] == 3:
        errors = [text for text in said if 'saved at step' not in text]
        line['said'] = errors
        assert len(errors) == 1, said
      check_whole(folder)
      if line['status'] == 0 and results_of(name, folder) == expected:
        line['passed'] = True
        shutil.rmtree(folder)
        return line
      return self._again(name, folder, line)
    except Exception:
      line['error'] = traceback.format_exc()
      line['output'] = run.output if run else ''
    return line

  def _again(self, name: str, folder: pathlib.Path, line: Any) -> Any:
    """Starts the same command without a fault."""
    run = self.start(name, folder)
    try:
      assert run.wait() == 0
      assert results_of(name, folder) == self.undisturbed(name)[0]
      # No checkpoint had its name before it was on the disk.
      assert not (folder / 'run' / 'broken_checkpoints').exists()
      check_whole(folder)
      line['passed'] = True
      shutil.rmtree(folder)
    except Exception:
      line['error'] = traceback.format_exc()
      line['output'] = run.output
    return line


def table(lines: list[dict[str, Any]]) -> str:
  """Returns the table, as Markdown."""
  times, passed = collections.Counter(), collections.Counter()
  for line in lines:
    name, call, *_ = line['fault'].rsplit('/', 3)
    times[name, call] += 1
    passed[name, call] += line['passed']
  columns = (*CALLS, 'cut')
  rows = ['| command | ' + ' | '.join(columns) + ' | all |']
  rows.append('|---' * (len(columns) + 2) + '|')
  for name in CASES:
    cells = []
    for call in columns:
      n, good = times[name, call], passed[name, call]
      cells.append(f'{good} of {n}' if good < n else str(n or '-'))
    of = [(t, passed[k]) for k, t in times.items() if k[0] == name]
    n, good = (sum(x) for x in zip(*of, strict=True)) if of else (0, 0)
    cells.append(f'{good} of {n}')
    rows.append(f'| `{name}` | ' + ' | '.join(cells) + ' |')
  total = f'{passed.total()} of {times.total()}'
  rows.append('| all |' + ' |' * len(columns) + f' {total} |')
  return '\n'.join(rows)


def main() -> int:
  """Injects the faults; returns 1 if one had another end than promised."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--command', action='append', choices=[*CASES])
  parser.add_argument('--call', action='append', choices=[*CALLS, 'cut'])
  parser.add_argument('--fault', action='append', help='only this one')
  parser.add_argument('--jobs', type=int, default=2, help='at a time')
  parser.add_argument('--log', default='build/chaos-long/calls.jsonl')
  flags = parser.parse_args()
  log = pathlib.Path(flags.log)
  log.parent.mkdir(parents=True, exist_ok=True)
  lines = []
  with tempfile.TemporaryDirectory() as folder, log.open('w') as file:
    faults = Faults(pathlib.Path(folder))
    for name in {fault.rsplit('/', 3)[0] for fault in flags.fault or ()}:
      faults.undisturbed(name)  # Before the threads start.
    names = flags.fault or [
      fault
      for name in flags.command or CASES
      for fault in faults.faults(name)
      if not flags.call or fault.split('/')[-3] in flags.call
    ]
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
      for line in pool.map(faults.inject, names):
        lines.append(line)
        file.write(json.dumps(line) + '\n')
        file.flush()
        if not line['passed']:
          chaos.say(f'FAILED: {line["fault"]}')
          print(line['error'], line['output'][-2000:], sep='\n')
        if not len(lines) % 10:
          chaos.say(f'{len(lines)} of {len(names)} faults')
  print(table(lines))
  return not all(line['passed'] for line in lines)


if __name__ == '__main__':
  sys.exit(main())
