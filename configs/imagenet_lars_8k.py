r"""AlexNet-BN with batches of 8192 and LARS, in 15,600 steps.

  python -m alexnet_jax.main --config=configs/imagenet_lars_8k.py \
    --config.data.data_dir=gs://BUCKET/tensorflow_datasets

Source: You, Gitman and Ginsburg (2017, arXiv:1708.03888), and their files
solver_8K.prototxt and train_val2_fp16.prototxt (borisgin/nvcaffe,
models/alexnet_bn).
Data: as imagenet_caffe.py, but pixels are divided by 256.
Training: 100 epochs, SGD with momentum 0.9 and weight decay 0.0005, also of
biases. The learning rate grows from 1 to 10 in 600 steps, and is then
10 (1 - step / 15,600)^2. LARS multiplies it for each parameter, with a
coefficient of 0.001.

Differences from the authors' files:

  - They compute in float16, and scale gradients by 1000.
  - Their stored sgd_solver.cpp leaves weight decay out of LARS' norm, and warms
    up by the square of the fraction of 600 steps. Its "clip" takes the smaller
    of two learning rates, where the paper and this config multiply them.

Hardware: a Cloud TPU slice or several GPUs (docs/pods.md).
Time: 0.14 hours on v5e:4x4, in bfloat16, if each of its four hosts feeds
66,000 images/s. Estimated, not measured:

  python -m alexnet_jax.preflight --config=configs/imagenet_lars_8k.py \
    --config.model.dtype=bfloat16 --topology=v5e:4x4 --compile_only

Expected error: the paper reports no loss of accuracy up to this batch; its
numbers are not known here. Not yet trained.
"""

import ml_collections

from configs import imagenet_caffe

# ImageNet has 1,281,167 training images; a batch has 8192.
_STEPS_PER_EPOCH = 156


def get_config() -> ml_collections.ConfigDict:
  config = imagenet_caffe.get_config()
  config.batch_size = 8192
  config.num_train_steps = 15_600
  config.model.name = 'alexnet_bn'
  config.data.std = (256.0, 256.0, 256.0)
  optimizer = config.optimizer
  optimizer.learning_rate = 10.0
  optimizer.lars_coefficient = 0.001
  optimizer.rules = ()
  optimizer.warmup_epochs = 600 / _STEPS_PER_EPOCH
  optimizer.warmup_learning_rate = 1.0
  optimizer.schedule = 'polynomial'
  optimizer.polynomial_power = 2.0
  optimizer.drop_epochs = ()
  return config
