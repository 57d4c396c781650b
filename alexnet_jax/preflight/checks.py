"""What would fail after the machine is paid for: each check is a row."""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Iterator

from etils import epath

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.config import values
from alexnet_jax.config.loading import Config
from alexnet_jax.config.saved import check_workdir as check_saved
from alexnet_jax.config.saved import num_train_steps
from alexnet_jax.data import input_pipeline
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.preflight.compilation import Steps, like_preprocessing
from alexnet_jax.runs import guards, setup, workdirs


@dataclasses.dataclass(frozen=True)
class Check:
  """One row.

  Attributes:
    name: what was looked at.
    ok: whether a run would pass.
    found: what was found; if it is not ok, with its mending.
  """

  name: str
  ok: bool
  found: str


class Checks:
  """Rows, in the order in which they were looked at."""

  def __init__(self) -> None:
    self.rows: list[Check] = []

  @property
  def ok(self) -> bool:
    """Whether a run would pass them all."""
    return all(row.ok for row in self.rows)

  def add(self, name: str, ok: bool, found: str) -> None:
    """One row more."""
    self.rows.append(Check(name, ok, ' '.join(found.split())))

  @contextlib.contextmanager
  def row(self, name: str) -> Iterator[list[str]]:
    """A row that is ok unless the block complains; it says what it found."""
    found: list[str] = []
    try:
      yield found
    except UserError as error:
      self.add(name, False, str(error))
    except Exception as error:  # Whatever a library says of files and buckets.
      self.add(name, False, f'{type(error).__name__}: {error}')
    else:
      self.add(name, True, '; '.join(found))

  @contextlib.contextmanager
  def failing(self, name: str) -> Iterator[None]:
    """A row only if the block complains."""
    with self.row(name):
      yield
    if self.rows[-1].ok:
      del self.rows[-1]


def check_config(checks: Checks, config: Config) -> None:
  """Are its values those that training takes?"""
  with checks.row('config') as found:
    values.validate(config)
    found.append(f'{config.model.name}, {config.model.dtype}')


def check_batch(checks: Checks, config: Config, num_devices: int) -> None:
  """Can the training batch be shared between the devices?"""
  with checks.row('batch') as found:
    values.check_batch(config.batch_size, num_devices)
    found.append(
      f'{config.batch_size} on {num_devices} device(s), '
      f'{config.batch_size // num_devices} on each'
    )


def check_data(
  checks: Checks, config: Config
) -> tuple[Dataset | None, int | None]:
  """Is the set there, do its pictures decode, does the network fit it?

  Returns:
    The set, and the steps of an epoch; None where they are not known.
  """
  steps_per_epoch = None
  data = config.data
  with checks.row('data') as found:
    dataset = open_dataset(data.name, data.data_dir)
    dataset.check_resize(data.resize)
    p = like_preprocessing(config)
    for split in (data.train_split, data.val_split):
      number = dataset.num_examples(split)
      if data.on_error == 'stop':
        # The first batch, of few: files are there, and pictures decode.
        next(input_pipeline.eval_batches(
          dataset, split, p, batch_size=min(8, number),
        ))  # fmt: skip
      found.append(f'{number} pictures in {split!r}')
    found.insert(0, f'{dataset.full_name} in {dataset.data_dir}')
  if not checks.rows[-1].ok:
    return None, None
  with checks.row('training') as found:
    steps_per_epoch = setup.check_data(config, dataset)
    total = num_train_steps(config, steps_per_epoch)
    model = build_model(config.model)
    guards.check_before(
      config,
      abstract_params(model, data.crop_size),
      steps_per_epoch,
      total,
    )
    if config.init_from:
      pretrained.load(config.init_from)
    found.append(f'{total} steps, {steps_per_epoch} an epoch')
  return dataset, steps_per_epoch


def check_workdir(
  checks: Checks,
  config: Config,
  workdir: epath.Path,
  steps_per_epoch: int | None,
  checkpoint_bytes: int,
) -> None:
  """May the run go into it, can it be written, is there room?

  Nothing that is there is changed; a file is written and deleted again.
  """
  with checks.row('workdir') as found:
    workdirs.check_files(workdir)
    # Without the data the length of an epoch is not known.
    if steps_per_epoch is not None:
      check_saved(config, workdir, steps_per_epoch)
    _check_writable(workdir)
    saved = (workdir / 'config.json').exists()
    found.append(
      f'{workdir}: a run is there, and would go on' if saved else f'{workdir}'
    )
  with checks.row('room') as found:
    # The latest ones, the best, and one that is being written.
    number = config.checkpoint.keep + 2
    needed = number * checkpoint_bytes
    said = f'{number} checkpoints of {checkpoint_bytes / 1e6:,.0f} MB'
    if '://' in os.fspath(workdir):
      found.append(f'{said} in object storage')
      return
    there = shutil.disk_usage(_nearest(workdir)).free
    if there < needed:
      raise UserError(
        f'{said} need {needed / 1e9:.1f} GB, {there / 1e9:.1f} GB are free: '
        'make room, lower checkpoint.keep, or give another --workdir'
      )
    found.append(f'{said}; {there / 1e9:.0f} GB are free')


def _nearest(path: epath.Path) -> epath.Path:
  """The folder itself, or the nearest one above it that is there."""
  while not path.exists():
    path = path.parent
  return path


def _check_writable(workdir: epath.Path) -> None:
  remote = '://' in os.fspath(workdir)
  folder = workdir if remote else _nearest(workdir)
  path = folder / f'.preflight.{os.getpid()}'
  try:
    path.write_text('')
    path.unlink()
  except Exception as error:  # Of whatever library talks to a bucket.
    raise UserError(
      f'{folder} cannot be written: {error}. Give another --workdir, or the '
      'right to write there'
    ) from error


def input_rate(
  config: Config,
  dataset: Dataset,
  steps: Steps,
  num_hosts: int,
  seconds: float = 2.0,
) -> float:
  """Images a second that this host's input makes of its part of a batch.

  Each epoch's first batch, for which everything starts, is not counted.
  """
  split = config.data.train_split
  number = dataset.num_examples(split)
  # Of a small set, batches of which an epoch has several.
  size = max(1, min(config.batch_size, number // 8) // num_hosts) * num_hosts
  done, spent, epoch = 0, 0.0, 0
  until = time.monotonic() + 60  # Of sets of a few pictures.
  while spent < seconds and time.monotonic() < until:
    batches = input_pipeline.train_batches(
      dataset,
      split,
      steps.preprocessing,
      batch_size=size,
      seed=config.seed,
      epoch=epoch,
      shuffle_buffer=config.data.shuffle_buffer,
      finish=config.data.finish,
      blocks=steps.blocks,
      dtype=steps.model.dtype,
      process_count=num_hosts,
    )
    next(batches, None)
    last = time.monotonic()
    for batch in batches:
      now = time.monotonic()
      done += len(batch['label'])
      spent += now - last
      last = now
      if spent >= seconds:
        break
    epoch += 1
  return done / spent if spent else 0.0
