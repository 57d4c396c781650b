"""The paper's network on Imagenette: real photographs of ten classes.

  tfds build imagenette/320px-v2
  python -m alexnet_jax.main --config=configs/imagenette.py

Its rate is a tenth of the paper's, and its batch an eighth. With ten classes
instead of a thousand the loss bends some hundred times more sharply along the
mean feature (p (1 - p) is .09 and not .001), and at .01 the first steps blow
up. And the paper's initial weights let two per cent of the difference between
two pictures reach fc7: it takes many small steps before the loss leaves ln 10.

Seven epochs, the last two at a tenth of the rate.

Hardware: two CPU cores, about 45 minutes. Expected: 33.5% validation error
(71.2, 57.5, 56.9, 47.8, 43.1 and 35.0% after the epochs before; one seed, on a
copy of Imagenette squashed to 224x224: results/imagenette/0).
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 16
  config.num_epochs = 7
  config.model.num_classes = 10
  config.data.name = 'imagenette/320px-v2'
  config.optimizer.learning_rate = 0.001
  config.optimizer.schedule = 'step'
  config.optimizer.drop_epochs = (5,)
  config.checkpoint.every_steps = 200
  # It leaves ln 10 at about step 400.
  config.guards.stall_steps = 1500
  return config
