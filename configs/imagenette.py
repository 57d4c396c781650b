import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.batch_size = 64
  config.num_epochs = 2
  config.log_every_steps = 10
  config.model.num_classes = 10
  config.data.name = 'imagenette/320px-v2'
  config.checkpoint.every_steps = 50
  return config
