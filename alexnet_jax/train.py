"""The training loop. Read it from top to bottom."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli.errors import Interrupted, TrainingStopped
from alexnet_jax.cli.files import absolute
from alexnet_jax.cli.terminal import duration, say, warn
from alexnet_jax.config.loading import Config
from alexnet_jax.config.saved import (
  check_workdir,
  num_train_steps,
  with_classes,
)
from alexnet_jax.config.values import check_batch
from alexnet_jax.data import input_pipeline
from alexnet_jax.data.classes import match
from alexnet_jax.data.of_run import class_weights
from alexnet_jax.learning import health, metrics, optimizer, steps
from alexnet_jax.learning.finish import finisher, input_blocks
from alexnet_jax.learning.placement import (
  Placement,
  check_units,
  own_part,
  place,
  replicate,
)
from alexnet_jax.model import onednn
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.model.summary import layer_table
from alexnet_jax.pretrained.fine_tuning import init_from
from alexnet_jax.runs import (
  checkpoint,
  guards,
  processes,
  profiles,
  scoring,
  signals,
  starts,
  workdirs,
)
from alexnet_jax.runs.banner import banner
from alexnet_jax.runs.chronometer import Chronometer
from alexnet_jax.runs.params import params_digest
from alexnet_jax.runs.results import (
  print_results,
  score_text,
  training_errors,
  write_results,
)
from alexnet_jax.runs.setup import check_data, prepare_workdir, training_dataset
from alexnet_jax.runs.writer import Writer


def train(config: Config, workdir: epath.Path) -> dict[str, Any]:
  """Trains a network, from the newest checkpoint of a workdir or from scratch.

  Args:
    config: `configs/default.py` explains each field.
    workdir: holds the run; docs/architecture.md lists its files.

  Returns:
    What results.json holds.

  Raises:
    UserError: the config, the data or the workdir is invalid; nothing was
      written.
    TrainingStopped: a guard stopped the training (`config.guards`).
    Interrupted: SIGTERM or SIGINT, after a checkpoint was saved.
    StorageError: the workdir cannot be written, has no intact checkpoint, or
      was taken over by another run.
  """
  # ---- Check what was asked for. Nothing is written yet. --------------------
  workdir = absolute(os.fspath(workdir))  # The program may change its folder.
  dataset = training_dataset(config, workdir)
  config = with_classes(config, dataset.num_classes)
  steps_per_epoch = check_data(config, dataset)
  check_batch(config, jax.device_count())
  profile = profiles.Profile(config.profile, workdir)
  workdirs.check_files(workdir)
  check_workdir(config, workdir, steps_per_epoch)
  total_steps = num_train_steps(config, steps_per_epoch)
  model = build_model(config.model)
  crop_size = config.data.crop_size
  shapes = abstract_params(model, crop_size)
  check_units(model, shapes, config.parallelism, jax.device_count())
  lengths = steps_per_epoch, total_steps
  num_classes = dataset.num_classes, model.num_classes
  guards.check_before(config, shapes, *lengths)
  tx = optimizer.paper_sgd(
    config.optimizer.momentum,
    config.optimizer.rate_in_velocity,
    config.optimizer.lars_coefficient,
  )
  plateau = optimizer.plateau_decay(config.optimizer)
  schedule = optimizer.learning_rate_schedule(config.optimizer, *lengths)

  per_device = config.batch_size // jax.device_count()
  banner(
    workdir=workdir,
    data=f'{dataset.full_name}, {dataset.num_examples(config.data.train_split)}'
    f' to train, {dataset.num_examples(config.data.val_split)} to validate',
    batch=f'{config.batch_size} global, {per_device} per device',
    steps=f'{total_steps}, {steps_per_epoch} per epoch',
    seed=config.seed,
    network=f'{config.model.name}, {config.model.dtype}',
  )
  if config.model.dtype == 'bfloat16' and onednn.bfloat16_is_slow():
    warn(
      'model.dtype=bfloat16 is computed in float32 here, and is no faster: set '
      '--config.model.dtype=float32 (docs/speed.md)'
    )
  state = steps.create_train_state(model, tx, plateau, crop_size, config.seed)
  placement = place(
    model,
    state,
    config.parallelism,
    grad_accumulation=config.grad_accumulation,
  )
  for line in layer_table(model.architecture, model.num_classes, crop_size):
    say(f'  {line}')

  with (
    _sole_run(config, workdir, steps_per_epoch) as (saved_step, check_lock),
    contextlib.ExitStack() as stack,
  ):
    # ---- Start, resume, or fine-tune. ---------------------------------------
    if config.init_from and saved_step is None:
      # Before anything is written: the other workdir may be missing.
      state = init_from(config, state, dataset.class_names)
    preprocessing = prepare_workdir(config, workdir, dataset)
    checkpoints = stack.enter_context(
      checkpoint.open_checkpoints(workdir, config.checkpoint.keep, check_lock)
    )
    step = saved_step or 0
    if step:
      state = checkpoints.restore(step, state)
      say(
        f'resuming from the checkpoint of step {step}'
        if step < total_steps
        else f'nothing to train: all {total_steps} steps are done'
      )
    state = placement.put(state)
    blocks = input_blocks(model, crop_size)
    step_arguments = {
      'model': model,
      'tx': tx,
      'rates': optimizer.rates_of(config.optimizer, *lengths),
      'dropout_key': jax.random.key(config.seed + 1),
      'finish': finisher(preprocessing, blocks=blocks),
      **steps.arguments_of(config),
    }
    if config.data.balance == 'inverse':
      step_arguments['class_weights'] = class_weights(
        dataset, config.data.train_split, model.num_classes
      )
    p_train_step = steps.p_train_step(placement, **step_arguments)
    if step < total_steps:
      starts.record(workdir, step)
    log = Writer(workdir, step)
    chronometer = Chronometer(step, total_steps, config.batch_size)
    scores: dict[str, Any] = {}
    stall_reported = False
    stack.callback(lambda: profile.end(step))
    # Signals save and stop from here on; before, they end the process.
    stop = stack.enter_context(signals.StopSignals())

    def save() -> None:
      guards.check_finite(config, state, checkpoints.latest)
      check_lock()
      with chronometer.paused():
        checkpoints.save(state)

    def leave_if_asked() -> None:
      if number := stop.agreed():
        checkpoints.wait()
        where = f'saved at step {step}' if step else 'before the first step'
        raise Interrupted(where, number)

    score = scoring.scorer(
      config,
      model,
      dataset,
      preprocessing,
      match(model.num_classes, workdir, preprocessing, dataset, 'all'),
      leave_if_asked,
    )

    while True:
      # ---- Between epochs, or where the run resumed: evaluate, and lower the
      # learning rate if the error stopped improving (section 5). The state is
      # saved already. --------------------------------------------------------
      epoch, start = divmod(step, steps_per_epoch)
      epochs_done = step / steps_per_epoch
      due = step > 0 and start == 0 and epoch % config.eval.every_epochs == 0
      if due or step == total_steps:
        with chronometer.paused():
          # Only due scores are kept: a run whose num_epochs is raised later
          # must equal one that had that length from the start.
          kept = checkpoints.scores(step) if due else None
          scores = kept or score(state.params, config.data.val_split)
          numbers = {
            k: v for k, v in scores.items() if not isinstance(v, list | dict)
          }
          check_lock()
          log.scalars('validation', step, epochs_done, numbers)
          log.conv1_kernels(step, np.asarray(state.params['conv1']['kernel']))
          say(f'epoch {epochs_done:7.2f}  validation: {score_text(scores)}')
          if due and not kept:
            checkpoints.record(step, scores)
        if due and config.optimizer.schedule == 'plateau':
          error = scores['top1_error']
          state = _observe(config.optimizer, plateau, state, error)
      if step == total_steps:
        break
      leave_if_asked()

      # ---- Train for one epoch, or the rest of it. --------------------------
      batches = input_pipeline.to_devices(
        input_pipeline.train_batches(
          dataset,
          config.data.train_split,
          preprocessing,
          batch_size=config.batch_size,
          seed=config.seed,
          epoch=epoch,
          start=start,
          shuffle_buffer=config.data.shuffle_buffer,
          finish=config.data.finish,
          blocks=blocks,
          dtype=model.dtype,
          num_devices=jax.device_count(),
          process_index=jax.process_index(),
          process_count=jax.process_count(),
        ),
        placement.mesh,
      )
      end = min((epoch + 1) * steps_per_epoch, total_steps)
      bar = tqdm(
        chronometer.waiting_for(batches),
        desc=f'epoch {epoch + 1}',
        initial=start,
        total=steps_per_epoch,
        disable=None,
        leave=False,
      )
      for batch in bar:
        profile.before_step(step)
        if not chronometer.compiled:
          say('compiling the training step ...')
          state = jax.block_until_ready(p_train_step(state, batch))
          seconds = chronometer.first_step_done(step + 1)
          say(f'compiled, and the first step done, in {seconds:.1f} s')
        else:
          state = p_train_step(state, batch)
        step += 1
        epochs_done = step / steps_per_epoch
        profile.after_step(step, state)

        if step % config.log_every_steps == 0 or step == total_steps:
          guards.check_finite(config, state, checkpoints.latest)
          values = scoring.means(
            jax.device_get(state.sums), dataset.num_classes
          )
          values['learning_rate'] = float(
            schedule(step - 1) * state.plateau.scale
          )
          speed = chronometer.read(step)
          check_lock()
          log.scalars('train', step, epochs_done, {**values, **speed})
          say(
            f'epoch {epochs_done:7.2f}  step {step:>6}/{total_steps}'
            f'  loss {values["loss"]:7.4f}'
            f'  top-1 error {values["top1_error"]:6.2%}'
            f'  lr {values["learning_rate"]:.3g}'
            f'  {speed["images_per_second"]:,.1f} images/s'
            f'  data wait {speed["data_wait"]:.0%}'
            f'  ETA {duration(chronometer.eta(step))}'
          )
          # Not at a last step between two log lines: a run whose num_epochs is
          # raised later must log the same as one that had it from the start.
          if step % config.log_every_steps == 0:
            state = state.replace(sums=replicate(metrics.zero_sums()))
          stalled = guards.stalled(config, step, values['loss'], num_classes)
          if stalled and not stall_reported:
            with chronometer.paused():
              _warn_of_stall(
                values['loss'], step, state, batch, placement, step_arguments
              )
          stall_reported = stalled
          if stalled and config.guards.stall == 'stop':
            save()
            checkpoints.wait()
            raise TrainingStopped(
              f'the loss is no better than guessing at step {step}, which is '
              'saved; add --config.guards.stall=warn to resume from it'
            )

        if step == end:
          break
        every = config.checkpoint.every_steps
        stopping = stop.agreed()
        if stopping or (every and step % every == 0):
          save()
          if stopping:
            checkpoints.wait()
            raise Interrupted(f'saved at step {step}', stopping)
      bar.close()
      if step < end:
        raise TrainingStopped(
          f'the input ended at step {step}, {end - step} steps before the end '
          f'of the epoch: check that {dataset.full_name} is complete'
        )
      save()

    # ---- Write the results of the last step. --------------------------------
    checkpoints.wait()
    log.close()
    if config.eval.train_split:
      scores |= training_errors(score(state.params, config.data.train_split))
    check_lock()
    results = write_results(
      workdir,
      config,
      scores,
      training=True,
      step=step,
      best_step=step if checkpoints.best is None else checkpoints.best,
      epoch=epochs_done,
      starts=starts.read(workdir),
      dataset=dataset.full_name,
      num_left_out=len(dataset.skipped.get(config.data.val_split, ())),
      params_digest=params_digest(jax.device_get(replicate(state.params))),
    )
  print_results(workdir, results)
  return results


@contextlib.contextmanager
def _sole_run(
  config: Config, workdir: epath.Path, steps_per_epoch: int
) -> Iterator[tuple[int | None, Callable[[], None]]]:
  """Reserves the workdir for this run.

  Yields:
    The step to resume from, None at first; and a function to call before
    anything is written (`workdirs.sole_run`).
  """
  with contextlib.ExitStack() as stack:
    check_lock = workdirs.no_check

    def reserve() -> int:
      nonlocal check_lock
      check_lock = stack.enter_context(workdirs.sole_run(workdir))
      # Another run may have used the workdir since it was checked.
      check_workdir(config, workdir, steps_per_epoch)
      step = checkpoint.settle(workdir)
      return -1 if step is None else step

    step = processes.on_first(reserve)
    yield None if step < 0 else step, check_lock


def _warn_of_stall(
  loss: float,
  step: int,
  state: steps.TrainState,
  batch: steps.Batch,
  placement: Placement,
  arguments: dict[str, Any],
) -> None:
  """Warns that the loss does not fall, and prints the state of each layer."""
  take_step = steps.p_train_step(placement, donate=False, **arguments)
  before, after = (
    jax.device_get(replicate(each.params))
    for each in (state, take_step(state, batch))
  )
  layers = health.layer_health(
    before,
    after,
    jax.tree.map(own_part, batch),
    model=arguments['model'],
    finish=arguments['finish'],
  )
  warn(
    f'the training loss is {loss:.4f} at step {step}, no better than guessing '
    '(guards.stall). The last batch, layer by layer:'
  )
  for line in guards.health_lines(layers):
    say(line)


def _observe(config, plateau, state, error) -> steps.TrainState:
  """Applies the plateau rule to a validation error; prints any drop."""
  before = state.plateau
  after = optimizer.observe(plateau, before, error)
  if after.scale < before.scale:
    drop = round(math.log(after.scale) / math.log(config.drop_factor))
    say(
      f'plateau: top-1 error no better than {float(before.best_value):.2%} '
      f'for {config.plateau_patience} evaluations: learning rate '
      f'{config.learning_rate * before.scale:.3g} -> '
      f'{config.learning_rate * after.scale:.3g} (drop {drop} of at most '
      f'{config.plateau_max_drops})'
    )
  return state.replace(plateau=replicate(after))
