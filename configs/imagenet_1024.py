r"""cuda-convnet2's network with batches of 1024 ("One weird trick", 2014).

  python -m alexnet_jax.main --config=configs/imagenet_1024.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

It is configs/imagenet_owt.py with 8 times the batch, and 8 times the learning
rates of weights and of biases. Theory multiplies by the square root of 8:
configs/imagenet_1024.py:sqrt. Krizhevsky (arXiv:1404.5997) found the factor 8
to work better. Momentum and weight decay do not change.

For five epochs the learning rate of weights grows from that of a batch of 128,
which biases have meanwhile. The text has no warm-up; this one is as in Goyal et
al. (2017, arXiv:1706.02677).

Hardware: a Cloud TPU slice or several GPUs (docs/pods.md).
Time: 0.41 hours on v5e:2x2, 0.32 with parallelism='hybrid', in bfloat16, if its
host feeds 78,000 or 101,000 images/s. Estimated, not measured:

  python -m alexnet_jax.preflight --config=configs/imagenet_1024.py \
    --config.model.dtype=bfloat16 --topology=v5e:2x2 --compare --compile_only

Expected error: with batches of 128, 42.55% top-1 and 19.81% top-5 on center
crops. With 1024 it is not known here. Not yet trained.
"""

import ml_collections

from configs import imagenet_owt

_TIMES = 8  # Images of a batch, against imagenet_owt.
_SCALINGS = {'linear': float(_TIMES), 'sqrt': _TIMES**0.5}
_WARMUP_EPOCHS = 5.0


def get_config(scaling: str = 'linear') -> ml_collections.ConfigDict:
  if scaling not in _SCALINGS:
    raise ValueError(
      f'scaling {scaling!r} is not one of {", ".join(_SCALINGS)}'
    )
  factor = _SCALINGS[scaling]
  config = imagenet_owt.get_config()
  config.batch_size *= _TIMES
  optimizer = config.optimizer
  optimizer.warmup_epochs = _WARMUP_EPOCHS
  optimizer.warmup_learning_rate = optimizer.learning_rate
  optimizer.learning_rate *= factor
  # These rates replace the schedule, and with it its warm-up.
  biases = {'params': '*/bias'}
  optimizer.rules = (
    {**biases, 'learning_rate': 0.02, 'weight_decay': 0.0},
    {**biases, 'from_epoch': _WARMUP_EPOCHS, 'learning_rate': 0.02 * factor},
    {**biases, 'from_epoch': 45, 'learning_rate': 0.002 * factor},
  )
  return config
