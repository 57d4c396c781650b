"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax."""

import importlib.metadata
import os

__version__ = '0.1.0'

# Before TensorFlow is imported. Its notes are news to nobody, and what goes
# wrong in it raises an exception besides.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


def _prefer_eigen() -> None:
  """Leaves float32 convolutions on CPU to Eigen, as XLA did before.

  XLA hands them to YNNPACK now, which takes up to twice as long for this
  network's (docs/speed.md). The flag is read when something is first compiled:
  for who has done so before, nothing changes. Each version's compilers, those
  for TPU and GPU too, end the process at a flag they do not know.
  """
  flag = 'xla_cpu_experimental_ynn_fusion_type'
  flags = os.environ.get('XLA_FLAGS', '')
  # The version that it was tried with.
  if importlib.metadata.version('jaxlib') != '0.10.2' or flag in flags:
    return
  os.environ['XLA_FLAGS'] = (
    f'{flags} --{flag}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'.strip()
  )


_prefer_eigen()
