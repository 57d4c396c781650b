"""The training loop, to be read from top to bottom."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from alexnet_jax.cli.errors import Interrupted, TrainingStopped
from alexnet_jax.cli.terminal import duration, say, warn
from alexnet_jax.config.loading import Config
from alexnet_jax.config.saved import check_workdir, num_train_steps
from alexnet_jax.config.values import check_batch
from alexnet_jax.data import input_pipeline
from alexnet_jax.learning import health, metrics, optimizer, steps
from alexnet_jax.learning.finish import finisher, input_blocks
from alexnet_jax.model.build import abstract_params, build_model
from alexnet_jax.model.summary import parameter_table
from alexnet_jax.pretrained.fine_tuning import init_from
from alexnet_jax.runs import (
  checkpoint,
  guards,
  processes,
  profiles,
  scoring,
  signals,
  workdirs,
)
from alexnet_jax.runs.banner import banner
from alexnet_jax.runs.chronometer import Chronometer
from alexnet_jax.runs.results import (
  print_results,
  training_errors,
  write_results,
)
from alexnet_jax.runs.setup import check_data, prepare_workdir, training_dataset
from alexnet_jax.runs.writer import Writer


def train(config: Config, workdir: epath.Path) -> dict[str, Any]:
  """Trains from the latest checkpoint of a workdir, or from scratch.

  Args:
    config: `configs/default.py` says what each field means.
    workdir: holds the run; see docs/architecture.md.

  Returns:
    What results.json holds.

  Raises:
    UserError: the config, the data or the workdir does not go; nothing was
      written.
    TrainingStopped: a guard stopped it (`config.guards`).
    Interrupted: SIGTERM or SIGINT, after a checkpoint was saved.
    StorageError: the workdir cannot be written, or holds no whole checkpoint.
  """
  # ---- What is asked, and whether it goes. Nothing is written yet. ----------
  dataset = training_dataset(config, workdir)
  steps_per_epoch = check_data(config, dataset)
  check_batch(config.batch_size, jax.device_count())
  profile = profiles.Profile(config.profile, workdir)
  workdirs.check_files(workdir)
  check_workdir(config, workdir, steps_per_epoch)
  total_steps = num_train_steps(config, steps_per_epoch)
  model = build_model(config.model)
  lengths = steps_per_epoch, total_steps
  num_classes = dataset.num_classes, config.model.num_classes
  guards.check_before(
    config, abstract_params(model, config.data.crop_size), *lengths
  )
  tx = optimizer.paper_sgd(
    config.optimizer.momentum, config.optimizer.rate_in_velocity
  )
  plateau = optimizer.plateau_decay(config.optimizer)
  schedule = optimizer.learning_rate_schedule(config.optimizer, *lengths)

  per_device = config.batch_size // jax.device_count()
  banner(
    workdir=workdir,
    data=f'{dataset.full_name}, {dataset.num_examples(config.data.train_split)}'
    f' to train, {dataset.num_examples(config.data.val_split)} to validate',
    batch=f'{config.batch_size} global, {per_device} a device',
    steps=f'{total_steps}, {steps_per_epoch} an epoch',
    seed=config.seed,
    network=f'{config.model.name}, {config.model.dtype}',
  )
  state = steps.create_train_state(
    model, tx, plateau, config.data.crop_size, config.seed
  )
  for line in parameter_table(model.architecture, state.params):
    say(line)

  with (
    _sole_run(config, workdir, steps_per_epoch) as saved_step,
    contextlib.ExitStack() as stack,
  ):
    # ---- Where the run stands. ----------------------------------------------
    if config.init_from and saved_step is None:
      # Read before anything is written: it may not be there.
      state = init_from(config, state)
    preprocessing = prepare_workdir(config, workdir, dataset)
    checkpoints = stack.enter_context(
      checkpoint.open_checkpoints(workdir, config.checkpoint.keep)
    )
    step = saved_step or 0
    if step:
      state = checkpoints.restore(step, state)
      say(
        f'going on from the checkpoint of step {step}'
        if step < total_steps
        else f'nothing to train: step {step} of {total_steps} is done'
      )
    state = steps.replicate(state)
    blocks = input_blocks(model, config.data.crop_size)
    step_arguments = {
      'model': model,
      'tx': tx,
      'rates': optimizer.rates_of(config.optimizer, *lengths),
      'dropout_key': jax.random.key(config.seed + 1),
      'finish': finisher(preprocessing, blocks=blocks),
    }
    p_train_step = steps.p_train_step(**step_arguments)
    log = Writer(workdir, step)
    chronometer = Chronometer(step, total_steps, config.batch_size)
    scores: dict[str, Any] = {}
    stall_reported = False
    stack.callback(lambda: profile.end(step))
    # From here on there is something to save.
    stop = stack.enter_context(signals.StopSignals())

    def leave_if_asked() -> None:
      if number := stop.agreed():
        checkpoints.wait()
        where = f'saved at step {step}' if step else 'before the first step'
        raise Interrupted(where, number)

    score = functools.partial(
      scoring.score,
      steps.p_eval_step(
        model, finisher(preprocessing, config.eval.crops, blocks)
      ),
      dataset=dataset,
      preprocessing=preprocessing,
      batch_size=config.eval.batch_size,
      crops=config.eval.crops,
      finish=config.data.finish,
      blocks=blocks,
      dtype=model.dtype,
      at_each_batch=leave_if_asked,
    )

    while True:
      # ---- An epoch's end, or where the run stopped within it: evaluate and
      # decide on the rate. The state is saved already. -----------------------
      epoch, start = divmod(step, steps_per_epoch)
      due = step > 0 and start == 0 and epoch % config.eval.every_epochs == 0
      if due or step == total_steps:
        with chronometer.paused():
          # An evaluation that only ends this run is none of a longer one's.
          kept = checkpoints.scores(step) if due else None
          scores = kept or score(state.params, split=config.data.val_split)
          numbers = {k: v for k, v in scores.items() if k != 'most_confused'}
          log.scalars('validation', step, step / steps_per_epoch, numbers)
          log.conv1_kernels(step, np.asarray(state.params['conv1']['kernel']))
          say(
            f'epoch {step / steps_per_epoch:7.2f}  validation: error '
            f'{scores["top1_error"]:.2%}, top-5 {scores["top5_error"]:.2%}, '
            f'loss {scores["loss"]:.4f} on {scores["num_examples"]} images'
          )
          if due and not kept:
            checkpoints.record(step, scores)
        if due and config.optimizer.schedule == 'plateau':
          error = scores['top1_error']
          state = _observe(config.optimizer, plateau, state, error)
      if step == total_steps:
        break
      leave_if_asked()

      # ---- One epoch, or what is left of it. --------------------------------
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
          process_index=jax.process_index(),
          process_count=jax.process_count(),
        ),
        jax.local_devices(),
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
        profile.after_step(step, state)

        if step % config.log_every_steps == 0 or step == total_steps:
          guards.check_finite(config, state, checkpoints.latest)
          values = metrics.means(jax.device_get(state.sums))
          values['learning_rate'] = float(
            schedule(step - 1) * state.plateau.scale
          )
          speed = chronometer.read(step)
          log.scalars(
            'train', step, step / steps_per_epoch, {**values, **speed}
          )
          say(
            f'epoch {step / steps_per_epoch:7.2f}  step {step:>6}/{total_steps}'
            f'  loss {values["loss"]:7.4f}  error {values["top1_error"]:6.2%}'
            f'  lr {values["learning_rate"]:.3g}'
            f'  {speed["images_per_second"]:,.1f} images/s'
            f'  data wait {speed["data_wait"]:.0%}'
            f'  ETA {duration(chronometer.eta(step))}'
          )
          # Not at a last step in between: a run that is made longer later logs
          # what a run of that length logs.
          if step % config.log_every_steps == 0:
            state = state.replace(sums=steps.replicate(metrics.zero_sums()))
          stalled = guards.stalled(config, step, values['loss'], num_classes)
          if stalled and not stall_reported:
            with chronometer.paused():
              _say_health(values['loss'], step, state, batch, step_arguments)
          stall_reported = stalled
          if stalled and config.guards.stall == 'stop':
            checkpoints.save(state)
            checkpoints.wait()
            raise TrainingStopped(
              f'no better than guessing at step {step}, which is saved; '
              '--config.guards.stall=warn goes on from there'
            )

        if step == end:
          break
        every = config.checkpoint.every_steps
        stopping = stop.agreed()
        if stopping or (every and step % every == 0):
          guards.check_finite(config, state, checkpoints.latest)
          with chronometer.paused():
            checkpoints.save(state)
          if stopping:
            checkpoints.wait()
            raise Interrupted(f'saved at step {step}', stopping)
      bar.close()
      if step < end:
        raise TrainingStopped(
          f'the input ended at step {step}, {end - step} steps before the end '
          f'of the epoch: is {dataset.full_name} still whole?'
        )
      guards.check_finite(config, state, checkpoints.latest)
      with chronometer.paused():
        checkpoints.save(state)

    # ---- The last step's results. -------------------------------------------
    checkpoints.wait()
    log.close()
    if config.eval.train_split:
      of_train = score(state.params, split=config.data.train_split)
      scores |= training_errors(of_train)
    results = write_results(
      workdir,
      config,
      scores,
      training=True,
      step=step,
      best_step=step if checkpoints.best is None else checkpoints.best,
      epoch=step / steps_per_epoch,
      dataset=dataset.full_name,
      num_left_out=len(dataset.left_out.get(config.data.val_split, ())),
      params_digest=checkpoint.params_digest(jax.device_get(state.params)),
    )
  print_results(workdir, results)
  return results


@contextlib.contextmanager
def _sole_run(
  config: Config, workdir: epath.Path, steps_per_epoch: int
) -> Iterator[int | None]:
  """Holds the workdir for this run; the step to go on from, None at first."""
  with contextlib.ExitStack() as stack:

    def take() -> int:
      stack.enter_context(workdirs.sole_run(workdir))
      # Another run may have begun there since it was checked.
      check_workdir(config, workdir, steps_per_epoch)
      step = checkpoint.settle(workdir)
      return -1 if step is None else step

    step = processes.on_first(take)
    yield None if step < 0 else step


def _say_health(
  loss: float,
  step: int,
  state: steps.TrainState,
  batch: steps.Batch,
  arguments: dict[str, Any],
) -> None:
  """Says that a loss stands still, and how each layer is."""
  after = steps.p_train_step(**arguments, donate=False)(state, batch)
  of_all_devices: dict[str, Any] = {
    # [local devices, n, ...] to [local devices x n, ...].
    name: np.asarray(x).reshape(-1, *x.shape[2:])
    for name, x in batch.items()
  }
  layers = health.layer_health(
    jax.device_get(state.params),
    jax.device_get(after.params),
    of_all_devices,
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
  """Shows the plateau rule one validation error; says so when it fires."""
  before = state.plateau
  after = optimizer.observe(plateau, before, error)
  if after.scale < before.scale:
    drop = round(math.log(after.scale) / math.log(config.drop_factor))
    say(
      f'plateau: no better than {float(before.best_value):.2%} for '
      f'{config.plateau_patience} evaluations: learning rate '
      f'{config.learning_rate * before.scale:.3g} -> '
      f'{config.learning_rate * after.scale:.3g} (drop {drop} of at most '
      f'{config.plateau_max_drops})'
    )
  return state.replace(plateau=steps.replicate(after))
