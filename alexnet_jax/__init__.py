"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax."""

__version__ = '0.1.0'

import os

# Before TensorFlow is imported. Its notes are news to nobody, and what goes
# wrong in it raises an exception besides.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
