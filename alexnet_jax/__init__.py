"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax."""

__version__ = '0.1.0'

import os

# Before TensorFlow is imported: its start-up notes are news to nobody.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
