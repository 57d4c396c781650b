"""All config fields, their meanings and default values.

The defaults are the paper's on ImageNet, except `dropout_scaling`. The other
configs change some of them. To train the paper's network, use `imagenet.py`.
`main --help` shows the first sentence above a field.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()

  # Seed of weights, shuffling, augmentation and dropout.
  config.seed = 0
  # Global batch size, divided equally between all devices.
  config.batch_size = 128
  # How devices share fully connected layers: data or hybrid.
  # data: each computes all units, for its own images; hybrid: each computes
  # some units, for the images of all (docs/pods.md).
  config.parallelism = 'data'
  # Number of parts that a batch is processed in, one after the other.
  # More parts take less memory. They change no result without dropout and batch
  # normalization, whose masks and statistics are those of each part.
  config.grad_accumulation = 1
  # Number of epochs to train.
  config.num_epochs = 90
  # Number of training steps; overrides num_epochs.
  config.num_train_steps = config_dict.placeholder(int)
  # Training steps between two lines of the log.
  config.log_every_steps = 50

  config.model = model = ml_collections.ConfigDict()
  # Network: a name in ARCHITECTURES, such as paper or torchvision.
  # AlexNets: paper, krizhevsky2012, owt, caffe, caffenet, torchvision. With
  # batch normalization: alexnet_bn. For CIFAR-10: cifar10_relu, cifar10_local.
  # A config file may add its own to alexnet_jax.model.ARCHITECTURES.
  model.name = 'paper'
  # Changes to the network: no_lrn, no_overlap, no_groups, one_column or tanh.
  # no_overlap is of the pooling windows; one_column has half the kernels and no
  # groups. configs/paper/ has an experiment for each.
  model.ablations = ()
  # Number of classes (None: the dataset's).
  model.num_classes = config_dict.placeholder(int)
  # Precision of the computation: float32 or bfloat16. Parameters are float32.
  model.dtype = 'float32'
  # Dropout rate of all dropout layers (0: off; None: the network's own).
  model.dropout_rate = config_dict.placeholder(float)
  # When dropout scales units: train (most libraries) or test (the paper).
  # train: kept units are divided by 1 - rate. test: all units are multiplied by
  # 1 - rate, as in the paper, its code and cuda-convnet. With equal weights and
  # learning rates, the two train differently.
  model.dropout_scaling = 'train'

  config.data = data = ml_collections.ConfigDict()
  # Dataset, as TFDS names it: NAME[/CONFIG][:VERSION].
  data.name = 'imagenet2012:5.1.0'
  # Folder of the prepared dataset (None: the default of TFDS).
  # The environment variable TFDS_DATA_DIR sets that default.
  data.data_dir = config_dict.placeholder(str)
  # Split to train on.
  data.train_split = 'train'
  # Split to evaluate on.
  data.val_split = 'validation'
  # How images are made square: short_side (the paper) or warp (Caffe).
  # short_side scales the shorter side to resize_size and takes the central
  # square; warp scales both sides to resize_size.
  data.resize = 'short_side'
  # Height and width of the square images, in pixels.
  data.resize_size = 256
  # Height and width of the crops that the network sees, in pixels.
  # The paper says 224, but without padding only 227 gives its 55 x 55 maps.
  data.crop_size = 227
  # Training crops: random (the paper), center or random_resized (torchvision).
  # random and center crop the square image; random_resized takes 8 to 100% of
  # the original image.
  data.train_crop = 'random'
  # Mirror training images with probability 0.5.
  data.flip = True
  # PCA lighting: sqrt_eigenvalue, eigenvalue or none.
  # sqrt_eigenvalue is what the authors' code does. eigenvalue is the paper's
  # text, on pixels scaled to [0, 1], as in many ports.
  data.lighting = 'sqrt_eigenvalue'
  # Standard deviation of the random factors of PCA lighting.
  data.lighting_std = 0.1
  # Epoch, from 0, at which PCA lighting is turned off (None: never).
  data.lighting_epochs = config_dict.placeholder(int)
  # Whether PCA lighting divides pixels by 1 + lighting_std.
  # The authors' code does so in training, as long as lighting is on.
  data.lighting_rescale = False
  # Mean to subtract, in grey levels: image, channel or three numbers.
  # image is the training split's mean image, channel its mean color; init_from
  # is the mean image of the workdir that init_from names.
  data.mean = config_dict.FieldReference('image', field_type=object)
  # Part of the mean image to subtract from a crop: center or same.
  # center is always the central part (the authors' code); same is the part
  # under the crop (Caffe).
  data.mean_crop = 'center'
  # Divisor of the pixels, in grey levels: three numbers or channel.
  # channel is the training split's standard deviations.
  data.std = config_dict.FieldReference((1.0, 1.0, 1.0), field_type=object)
  # Weight of the loss by class: none, or inverse to the number of images.
  # With 'inverse', all classes count the same. Logged losses have no weights.
  data.balance = 'none'
  # Where mean and lighting are applied: host or device.
  # Both give the same numbers; for device, the host sends a quarter of the
  # bytes.
  data.finish = 'host'
  # Size of the shuffle buffer, in images. They are not decoded yet.
  data.shuffle_buffer = 8192
  # Local folder to copy the dataset to before training (empty: none).
  # /dev/shm is memory.
  data.cache_dir = ''
  # What to do with corrupt images and invalid labels: stop or skip.
  # skip decodes every image once before the first step.
  data.on_error = 'stop'
  # Largest image, in pixels; a larger one counts as corrupt.
  # 2**27 pixels take 400 MB. A file of kilobytes may decode to gigabytes.
  data.max_pixels = 2**27
  # Largest fraction of images that on_error=skip may skip.
  data.max_error_rate = 0.001

  config.optimizer = optimizer = ml_collections.ConfigDict()
  # Learning rate at the start of the schedule.
  optimizer.learning_rate = 0.01
  # Momentum: fraction of the velocity that each step keeps.
  optimizer.momentum = 0.9
  # Weight decay coefficient.
  optimizer.weight_decay = 5e-4
  # Whether the velocity contains the learning rate, as in the paper.
  # True: v <- .9 v - lr (g + decay w), w <- w + v (the paper, cuda-convnet,
  # Caffe). False: v <- .9 v + g + decay w, w <- w - lr v (PyTorch).
  optimizer.rate_in_velocity = True
  # Precision in which devices send and add gradients: float32 or bfloat16.
  optimizer.reduce_dtype = 'float32'
  # Rules for the learning rate and weight decay of parameters, by name pattern.
  # A rule has `params`, a pattern such as '*/bias' or 'conv1/*', and any of
  # `learning_rate` (replaces the schedule), `multiplier` (of the schedule) and
  # `weight_decay`. It applies from the start or `from_epoch`; later rules win.
  # A learning rate of 0 freezes parameters. Caffe's rule for biases:
  #   ({'params': '*/bias', 'multiplier': 2.0, 'weight_decay': 0.0},)
  optimizer.rules = ()
  # Layers whose parameters are not trained, such as ('conv1',).
  optimizer.frozen_layers = ()
  # Coefficient eta of LARS, for batches of thousands of images (0: no LARS).
  # It multiplies each parameter's learning rate by eta |w| / (|g| + decay |w|).
  optimizer.lars_coefficient = 0.0
  # Epochs of linear warmup of the learning rate. The paper has none.
  optimizer.warmup_epochs = 0.0
  # Learning rate at which the warmup starts (0: almost 0).
  # Above 0, a line from it to learning_rate replaces the schedule until the
  # warmup ends. At 0, the warmup multiplies the schedule.
  optimizer.warmup_learning_rate = 0.0
  # Schedule: plateau, step, discrete_exponential, polynomial or constant.
  # plateau drops the learning rate if the validation error has not improved for
  # plateau_patience evaluations; step drops it at drop_epochs.
  # discrete_exponential is cuda-convnet2's: in exponential_steps equal parts of
  # the training, it falls from learning_rate by exponential_factor in all.
  # polynomial is Caffe's: (1 - step / steps of the run)^polynomial_power times
  # learning_rate.
  optimizer.schedule = 'plateau'
  # Factor that each drop multiplies the learning rate by (plateau, step).
  optimizer.drop_factor = 0.1
  # Evaluations without improvement before a drop (plateau).
  optimizer.plateau_patience = 5
  # Largest number of drops (plateau).
  optimizer.plateau_max_drops = 3
  # Smallest improvement of the top-1 error, as a fraction (plateau).
  optimizer.plateau_min_improvement = 1e-4
  # Epochs at which the learning rate drops (step).
  optimizer.drop_epochs = ()
  # Ratio of the first to the last learning rate (discrete_exponential).
  optimizer.exponential_factor = 250.0
  # Number of learning rates, for equal parts of the run (discrete_exponential).
  optimizer.exponential_steps = 4
  # Power by which the learning rate falls to 0 (polynomial).
  optimizer.polynomial_power = 2.0

  config.eval = ml_collections.ConfigDict()
  # Global batch size of evaluation, counted in crops. Any number is valid: the
  # last batch is padded.
  config.eval.batch_size = 256
  # Crops per image: 1 (center) or 10 (corners and center, and mirrored).
  config.eval.crops = 1
  # Epochs between two evaluations.
  config.eval.every_epochs = 1
  # Whether the training split is evaluated, too, after the last step.
  # Every image counts once, without dropout and augmentation.
  config.eval.train_split = False
  # Classes that --mode=eval can predict: all, or data, those of the images.
  # With 'all' the dataset must have the network's classes. ImageNet-A and -R
  # have a part of them. Evaluations during a training take all.
  config.eval.classes = 'all'
  # Checkpoint that --mode=eval evaluates: best, latest or a step.
  config.eval.step = 'best'

  config.checkpoint = ml_collections.ConfigDict()
  # Steps between two checkpoints (0: only at the end of each epoch).
  # The end of an epoch always has one.
  config.checkpoint.every_steps = 1000
  # Number of latest checkpoints to keep, besides the best one.
  # If the newest is corrupt, training resumes from the one before.
  config.checkpoint.keep = 2

  # Guards stop a run that cannot succeed, with exit status 3, or 2 before its
  # first step. They do not change its result.
  config.guards = guards = ml_collections.ConfigDict()
  # If the loss, a gradient or a parameter is NaN or infinite: stop or off.
  guards.not_finite = 'stop'
  # If the loss does not fall below that of guessing: stop, warn or off.
  # A stall is a mean training loss within stall_margin of ln(classes) after
  # stall_steps. Statistics of each layer are printed.
  guards.stall = 'warn'
  # Step after which guards.stall checks the loss.
  guards.stall_steps = 5000
  # Distance from ln(classes), in nats, that guards.stall counts as guessing.
  guards.stall_margin = 0.05
  # If all learning rates are 0 at some step: stop or off.
  # It is checked before the first step.
  guards.zero_learning_rate = 'stop'
  # Refuse a run whose epochs have fewer steps than this.
  guards.min_epoch_steps = 1

  # Steps to trace for XProf, as FIRST:LAST (empty: none).
  # '100:110' traces the ten steps after step 100 into the workdir.
  config.profile = ''
  # Folder, local or gs://, that caches compiled steps (empty: none).
  # The next start is faster. On CPU, the steps become slower (docs/speed.md).
  config.compilation_cache = ''

  # Weights that initialize the parameters (empty: none). They are the best of a
  # workdir, a file of weights, or torchvision. The last layer is initialized
  # anew if the number of classes differs.
  config.init_from = ''
  # Last layer's parameters from init_from: keep them, or new ones.
  config.init_head = 'keep'
  # Assigning to a field that does not exist is then an error.
  return config.lock()
