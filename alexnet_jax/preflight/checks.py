"""Checks for errors that a run would hit only after a TPU is rented."""

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
  """The result of one check.

  Attributes:
    name: what was checked.
    ok: whether a run would pass.
    found: what was found; if not ok, how to fix it.
    slow: whether a run would pass, but wait for what was checked.
  """

  name: str
  ok: bool
  found: str
  slow: bool = False


class Checks:
  """Results, in the order of the checks."""

  def __init__(self) -> None:
    self.rows: list[Check] = []

  @property
  def ok(self) -> bool:
    """Whether a run would pass all of them."""
    return all(row.ok for row in self.rows)

  def add(self, name: str, ok: bool, found: str, *, slow: bool = False) -> None:
    """Adds a row."""
    self.rows.append(Check(name, ok, ' '.join(found.split()), slow))

  @contextlib.contextmanager
  def row(self, name: str) -> Iterator[list[str]]:
    """Adds a row with what the block appends; not ok if it raises."""
    found: list[str] = []
    try:
      yield found
    except UserError as error:
      self.add(name, False, str(error))
    except Exception as error:  # Any library's.
      self.add(name, False, f'{type(error).__name__}: {error}')
    else:
      self.add(name, True, '; '.join(found))

  @contextlib.contextmanager
  def failing(self, name: str) -> Iterator[None]:
    """Adds a row only if the block raises."""
    with self.row(name):
      yield
    if self.rows[-1].ok:
      del self.rows[-1]


def check_config(checks: Checks, config: Config) -> None:
  """Checks that the config's values are valid."""
  with checks.row('config') as found:
    values.validate(config)
    found.append(f'{config.model.name}, {config.model.dtype}')


def check_batch(checks: Checks, config: Config, num_devices: int) -> None:
  """Checks that the devices divide the training batch."""
  with checks.row('batch') as found:
    values.check_batch(config, num_devices)
    found.append(
      f'{config.batch_size} on {num_devices} device(s), '
      f'{config.batch_size // num_devices} on each'
    )


def check_data(
  checks: Checks, config: Config
) -> tuple[Dataset | None, int | None]:
  """Checks that the dataset exists, decodes, and fits the network.

  Returns:
    The dataset and the steps of an epoch; None if unknown.
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
        # Reads a small batch: the files exist, and images decode.
        next(input_pipeline.eval_batches(
          dataset, split, p, batch_size=min(8, number),
        ))  # fmt: skip
      found.append(f'{number} images in {split!r}')
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
  """Checks that the run may use its workdir, which is writable and not full.

  Changes no existing file. Writes a file and deletes it again.
  """
  with checks.row('workdir') as found:
    workdirs.check_files(workdir)
    # An epoch's length is known only with the dataset.
    if steps_per_epoch is not None:
      check_saved(config, workdir, steps_per_epoch)
    _check_writable(workdir)
    saved = (workdir / 'config.json').exists()
    found.append(
      f'{workdir}: holds a run, which would resume' if saved else f'{workdir}'
    )
  with checks.row('disk space') as found:
    # The latest ones, the best one, and the one being written.
    number = config.checkpoint.keep + 2
    needed = number * checkpoint_bytes
    size = f'{number} checkpoints of {checkpoint_bytes / 1e6:,.0f} MB'
    if '://' in os.fspath(workdir):
      found.append(f'{size} in object storage')
      return
    free = shutil.disk_usage(_nearest(workdir)).free
    if free < needed:
      raise UserError(
        f'{size} need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: '
        'make room, lower checkpoint.keep, or give another --workdir'
      )
    found.append(f'{size}; {free / 1e9:.0f} GB are free')


def _nearest(path: epath.Path) -> epath.Path:
  """Returns the folder, or the nearest one above it that exists."""
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
  except Exception as error:  # Any library's.
    raise UserError(
      f'{folder} cannot be written: {error}. Give another --workdir, or '
      'permission to write there'
    ) from error


def input_rate(
  config: Config,
  dataset: Dataset,
  steps: Steps,
  num_hosts: int,
  seconds: float = 2.0,
) -> float:
  """Returns the images/s that this host's input pipeline delivers.

  Reads this host's share of each batch. Does not count the first batch of an
  epoch, which includes the pipeline's start.

  Args:
    config: the config of the run.
    dataset: the dataset of the run.
    steps: the steps of the run.
    num_hosts: hosts that share a batch.
    seconds: how long to measure.
  """
  split = config.data.train_split
  number = dataset.num_examples(split)
  # Small datasets get smaller batches, so that an epoch has several.
  size = max(1, min(config.batch_size, number // 8) // num_hosts) * num_hosts
  done, spent, epoch = 0, 0.0, 0
  until = time.monotonic() + 60  # A dataset may have only a few images.
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
