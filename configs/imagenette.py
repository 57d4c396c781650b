"""The paper's network on Imagenette: real photographs of ten classes.

  python -m alexnet_jax.data.prepare imagenette/320px-v2
  python -m alexnet_jax.main --config=configs/imagenette.py

Training: seven epochs, batches of 16 and a learning rate of 0.001, divided by
10 for the last two epochs. Both are smaller than the paper's, for two reasons.
With ten classes instead of a thousand, the loss curves a hundred times more
sharply along the mean feature (p (1 - p) is 0.09 instead of 0.001), so a
learning rate of 0.01 diverges at once. And with the paper's initial weights,
two percent of the difference between two images reaches fc7, so the loss needs
many small steps to leave ln 10.

Hardware: two CPU cores.
Time: about 45 minutes; about half of it in bfloat16.
Expected validation error: 33.5% top-1 (after the epochs: 71.2, 57.5, 56.9,
47.8, 43.1, 35.0 and 33.5%; one seed, in float32, on a copy of Imagenette
squashed to 224x224, results/imagenette/0).

CPUs that multiply in bfloat16 do so (docs/speed.md#bfloat16). To go on with a
run on another kind of CPU, add the run's own --config.model.dtype=DTYPE.
"""

import ml_collections

from alexnet_jax.cli import machine
from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 16
  config.num_epochs = 7
  config.model.num_classes = 10
  config.model.dtype = machine.fast_dtype()
  config.data.name = 'imagenette/320px-v2'
  config.optimizer.learning_rate = 0.001
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = (5,)
  config.checkpoint.every_steps = 200
  # The loss leaves ln 10 at about step 400.
  config.guards.stall_steps = 1500
  return config
