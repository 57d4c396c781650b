r"""AlexNet-BN with batches of 32768 and LARS, in 4000 steps.

  python -m alexnet_jax.main --config=configs/imagenet_lars_32k.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

It is configs/imagenet_lars_8k.py with 4 times the batch. The learning rate
grows from 1 to 32 in 400 steps, and is then 32 (1 - step / 4000)^2.

Source: solver_32k.prototxt (borisgin/nvcaffe, models/alexnet_bn), which calls
4000 steps 100 epochs: they are 102.6. In addition to the differences that
imagenet_lars_8k.py lists, it processes a batch in 4 parts (iter_size), and
batch normalization uses the statistics of each: --config.grad_accumulation=4.

Hardware: a Cloud TPU slice or several GPUs (docs/pods.md).
Time: 0.06 hours on v5e:4x8, in bfloat16, if each of its eight hosts feeds
72,000 images/s. Estimated, not measured:

  python -m alexnet_jax.preflight --config=configs/imagenet_lars_32k.py \
    --config.model.dtype=bfloat16 --topology=v5e:4x8 --compile_only

Expected error: not known here. Not yet trained.
"""

import ml_collections

from configs import imagenet_lars_8k

# ImageNet has 1,281,167 training images; a batch has 32768.
_STEPS_PER_EPOCH = 39


def get_config() -> ml_collections.ConfigDict:
  config = imagenet_lars_8k.get_config()
  config.batch_size = 32_768
  config.num_train_steps = 4000
  config.optimizer.learning_rate = 32.0
  config.optimizer.warmup_epochs = 400 / _STEPS_PER_EPOCH
  return config
