"""Every field there is, with its meaning; the other configs override these.

The values are the paper's on ImageNet, but for `dropout_scaling`. This file is
not a run of its own: see `imagenet.py`.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()

  # Of initial weights, shuffling, views and dropout.
  config.seed = 0
  # Global: shared equally between all devices.
  config.batch_size = 128
  config.num_epochs = 90
  # Overrides num_epochs.
  config.num_train_steps = config_dict.placeholder(int)
  config.log_every_steps = 50

  config.model = model = ml_collections.ConfigDict()
  # paper, krizhevsky2012, owt, caffe, caffenet or torchvision; cifar10_relu or
  # cifar10_local; or one that the config file has added to
  # alexnet_jax.model.ARCHITECTURES.
  model.name = 'paper'
  # Parts of the network left out or changed, to see what they are worth: any of
  # no_lrn, no_overlap (pooling), no_groups, one_column (half the kernels, in no
  # groups), tanh. configs/paper/ has them as experiments.
  model.ablations = ()
  model.num_classes = 1000
  # Of the computation: float32 or bfloat16. Parameters are float32.
  model.dtype = 'float32'
  # Replaces every dropout rate of the network; 0 turns dropout off.
  model.dropout_rate = config_dict.placeholder(float)
  # train: kept units are divided by 1 - rate (Caffe, PyTorch, everyone since).
  # test: all units are multiplied by it (the paper, its code, cuda-convnet);
  # at the same weights and rates that is another training.
  model.dropout_scaling = 'train'

  config.data = data = ml_collections.ConfigDict()
  # NAME[/CONFIG][:VERSION], as TFDS has it.
  data.name = 'imagenet2012:5.1.0'
  # Where it is prepared; TFDS's own default (TFDS_DATA_DIR) where not given.
  data.data_dir = config_dict.placeholder(str)
  data.train_split = 'train'
  data.val_split = 'validation'
  # short_side: the shorter side to resize_size, then the central square (the
  # paper). warp: both sides to resize_size (Caffe).
  data.resize = 'short_side'
  data.resize_size = 256
  # The paper prints 224; without padding only 227 gives its 55 x 55 maps.
  data.crop_size = 227
  # Training views: random (a crop of the resized square, the paper) or
  # random_resized (any 8 to 100% of the picture, torchvision).
  data.train_crop = 'random'
  data.flip = True
  # PCA lighting: sqrt_eigenvalue (what the authors' code did), eigenvalue (the
  # paper's text, on pixels scaled to [0, 1]: what many ports do), or none.
  data.lighting = 'sqrt_eigenvalue'
  data.lighting_std = 0.1
  # The epoch, from 0, at which it is turned off; None: never.
  data.lighting_epochs = config_dict.placeholder(int)
  # Whether training pixels are divided by 1 + lighting_std while it is on, as
  # in the authors' code.
  data.lighting_rescale = False
  # Subtracted, in grey levels: image (the training set's mean image), channel
  # (its mean colour), or three numbers.
  data.mean = config_dict.FieldReference('image', field_type=object)
  # Which part of a mean image belongs to a crop: center always (the authors'
  # code), or same, the part that lies under the crop (Caffe).
  data.mean_crop = 'center'
  # The divisor, in grey levels: three numbers, or channel (the training set's
  # deviations).
  data.std = config_dict.FieldReference((1.0, 1.0, 1.0), field_type=object)
  # Where the mean is subtracted and the lighting added: host, or device, which
  # sends a quarter of the bytes there. The numbers are the same.
  data.finish = 'host'
  # Undecoded pictures among which the next is drawn.
  data.shuffle_buffer = 8192
  # A folder of this machine to which the set is copied first: /dev/shm (memory)
  # or a disk. Empty: read where it is.
  data.cache_dir = ''
  # A picture that cannot be decoded or has no valid label: stop, or skip. Then
  # every picture is decoded once before the first step, and at most a share of
  # max_error_rate is left out.
  data.on_error = 'stop'
  data.max_error_rate = 0.001

  config.optimizer = optimizer = ml_collections.ConfigDict()
  optimizer.learning_rate = 0.01
  optimizer.momentum = 0.9
  optimizer.weight_decay = 5e-4
  # v <- .9 v - lr (g + decay w), w <- w + v: the paper, cuda-convnet, Caffe.
  # False is PyTorch's: v <- .9 v + g + decay w, w <- w - lr v.
  optimizer.rate_in_velocity = True
  # What some parameters do otherwise. Each rule names `params` (a pattern such
  # as '*/bias' or 'conv1/*') and any of `learning_rate` (in place of the
  # schedule), `multiplier` (of the schedule) and `weight_decay`, from the start
  # or `from_epoch` on; the last that applies counts. Rate 0 freezes.
  #   ({'params': '*/bias', 'multiplier': 2.0, 'weight_decay': 0.0},)
  optimizer.rules = ()
  # Layers that keep the parameters they start with, such as ('conv1',).
  optimizer.frozen_layers = ()
  # Linear, from 0; the paper has none.
  optimizer.warmup_epochs = 0.0
  # plateau: drop when the validation error has not improved for
  # plateau_patience evaluations, at most plateau_max_drops times.
  # step: drop at each of drop_epochs. discrete_exponential: cuda-convnet2's,
  # from learning_rate down by exponential_factor in exponential_steps equal
  # parts of the training. constant: never.
  optimizer.schedule = 'plateau'
  optimizer.drop_factor = 0.1
  optimizer.plateau_patience = 5
  optimizer.plateau_max_drops = 3
  # As a fraction of the images: less than this is no improvement.
  optimizer.plateau_min_improvement = 1e-4
  optimizer.drop_epochs = ()
  optimizer.exponential_factor = 250.0
  optimizer.exponential_steps = 4

  config.eval = ml_collections.ConfigDict()
  # Global, in views; any number (the last batch is filled up).
  config.eval.batch_size = 256
  # 1: the centre. 10: four corners and centre, and their mirror images.
  config.eval.crops = 1
  config.eval.every_epochs = 1
  # Whether the training split is scored too, after the last step: every picture
  # once, without dropout or lighting, in the views of evaluation.
  config.eval.train_split = False
  # What --mode=eval scores: best, latest, or the number of a saved step.
  config.eval.step = 'best'

  config.checkpoint = ml_collections.ConfigDict()
  # Besides one at each epoch's end; 0 for those alone.
  config.checkpoint.every_steps = 1000
  # Latest ones kept, besides the best: if the newest breaks, the one before it
  # is gone on from.
  config.checkpoint.keep = 2

  # When a run stops by itself (exit status 3); none of these changes a result.
  config.guards = guards = ml_collections.ConfigDict()
  # A loss or gradient that is NaN or infinite: stop, or off.
  guards.not_finite = 'stop'
  # A mean training loss within stall_margin (nats) of ln(classes) after
  # stall_steps: stop, warn or off. The state of each layer is printed.
  guards.stall = 'warn'
  guards.stall_steps = 5000
  guards.stall_margin = 0.05
  # Before the first step: no parameter has a learning rate above 0 at some
  # step (stop or off); an epoch has fewer steps than this.
  guards.zero_learning_rate = 'stop'
  guards.min_epoch_steps = 1

  # 'FIRST:LAST': a trace of those steps, '100:110' of the ten after the 100th,
  # for XProf, in the workdir. Empty: none.
  config.profile = ''
  # A folder, local or gs://, that keeps compiled steps for the next start.
  # Empty: none. (On CPU the steps become slower: docs/speed.md.)
  config.compilation_cache = ''

  # A run's or a converted workdir from whose best parameters training starts,
  # with a new last layer where the classes are not as many. Empty: none.
  config.init_from = ''
  # A config that sets a field which is not here is mistyped.
  return config.lock()
