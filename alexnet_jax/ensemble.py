"""Several networks' softmax outputs averaged: the paper's 5 and 7 CNNs.

  python -m alexnet_jax.main --config=configs/imagenet.py --mode=eval \
    --workdir=DIR,DIR,DIR --out=DIR

(Section 6, Table 2.) Each member sees every picture through its own
preprocessing; they need not be of one network. All go through one batch of
pictures together, so that memory does not grow with the split.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from alexnet_jax import checkpoint, evaluate, pretrained, signals, writer
from alexnet_jax import config as config_lib
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.errors import Interrupted, UserError
from alexnet_jax.learning import steps
from alexnet_jax.learning.finish import finisher, input_blocks


def evaluate_ensemble(
  config: config_lib.Config, names: Sequence[str], out: epath.Path
) -> dict[str, Any]:
  """Scores the mean of the members' softmax outputs.

  Args:
    config: its `data` and `eval` count; the networks are the members' own.
    names: of the members' workdirs, at least two; local or gs://.
    out: the folder for config.json and results.json, with `members`; no
      member's own.

  Returns:
    What results.json holds.

  Raises:
    UserError: the members tell other classes apart than each other or than the
      data set, one is there twice, or `out` holds something else.
  """
  workdirs = [config_lib.absolute(name) for name in names]
  _check_out(out, workdirs)
  dataset = open_dataset(config.data.name, config.data.data_dir)
  split, crops = config.data.val_split, config.eval.crops
  dataset.num_examples(split)
  members = [pretrained.load(workdir, config.eval.step) for workdir in workdirs]
  for workdir, member in zip(workdirs, members, strict=True):
    evaluate.check_dataset(
      member.model.num_classes, workdir, member.preprocessing, dataset
    )
    dataset.check_resize(member.preprocessing.resize)
    if member.model.num_classes != members[0].model.num_classes:
      raise UserError(
        f'{workdir} tells {member.model.num_classes} classes apart, '
        f'{workdirs[0]} {members[0].model.num_classes}: their outputs have no '
        'mean (--workdir)'
      )
  dataset = evaluate.prepare_data(config.data, dataset, [split], out)
  writer.banner(
    members='; '.join(
      f'{name}, {member.model.architecture.name}, step {member.step}'
      for name, member in zip(names, members, strict=True)
    ),
    data=f'{dataset.full_name} {split}',
    results=out,
  )
  blocks = [
    input_blocks(member.model, member.preprocessing.crop_size)
    for member in members
  ]
  step = steps.p_ensemble_step(
    [
      (member.model, finisher(member.preprocessing, crops, cut))
      for member, cut in zip(members, blocks, strict=True)
    ]
  )
  params = [steps.replicate(member.params) for member in members]
  batches = zip(
    *(
      evaluate.device_batches(
        dataset,
        split,
        member.preprocessing,
        batch_size=config.eval.batch_size,
        crops=crops,
        finish=config.data.finish,
        blocks=cut,
        dtype=member.model.dtype,
      )
      for member, cut in zip(members, blocks, strict=True)
    ),
    strict=True,
  )
  start = time.time()
  with signals.StopSignals() as stop:

    def leave_if_told() -> None:
      if number := stop.agreed():
        raise Interrupted('no results were written', number)

    scores = evaluate.total(
      (step(params, list(batch)) for batch in batches),
      dataset,
      split,
      leave_if_told,
    )
  if jax.process_index() == 0:
    out.mkdir(parents=True, exist_ok=True)
    content = {**json.loads(config.to_json()), 'members': list(names)}
    config_lib.write_whole(out / 'config.json', json.dumps(content, indent=2))
  results = evaluate.write_results(
    out,
    config,
    scores,
    training=False,
    dataset=dataset.full_name,
    num_left_out=len(dataset.left_out.get(split, ())),
    # Each member has its own.
    architecture='ensemble',
    seed=None,
    members=[
      {
        'workdir': name,
        'architecture': member.model.architecture.name,
        'config': _what_tells_apart(workdir),
        'step': member.step,
        'params_digest': checkpoint.params_digest(member.params),
      }
      for name, workdir, member in zip(names, workdirs, members, strict=True)
    ],
  )
  evaluate.say_results(out, results)
  writer.say(f'took {writer.duration(time.time() - start)}')
  return results


def _what_tells_apart(workdir: epath.Path) -> dict[str, Any]:
  """Of a member's config what tells its network and training from others."""
  fields = config_lib.flatten(config_lib.read_config(workdir) or {})
  names = ('model.', 'seed', 'data.lighting', 'num_epochs')
  return {k: v for k, v in fields.items() if k.startswith(names)}


def _check_out(out: epath.Path, workdirs: list[epath.Path]) -> None:
  twice = [workdir for workdir in workdirs if workdirs.count(workdir) > 1]
  if twice:
    raise UserError(f'{twice[0]} is there twice (--workdir)')
  if out.exists() and not out.is_dir():
    raise UserError(f'{out} is a file (--out)')
  there = config_lib.read_config(out)
  if (there is not None and 'members' not in there) or (
    there is None and (out / 'results.json').exists()
  ):
    raise UserError(
      f'{out} holds a run: name another folder for the results of all (--out)'
    )
