"""Every network that people call AlexNet, as data.

Each value of `ALEXNETS` can be read beside Figure 2 of the paper: one entry a
layer, where `then` lists the operations after the layer's linear part, in
order. All differences between the six networks are in this file:

  paper           Krizhevsky, Sutskever and Hinton (2012), as in its text.
  krizhevsky2012  The same network as its authors' code ran it: net 145 of
                  computerhistory/AlexNet-Source-Code, layers/layers-145.cfg.
  owt             "One weird trick" (Krizhevsky, 2014), in one column:
                  cuda-convnet2, layers/layers-imagenet-1gpu.cfg.
  caffe           BVLC Caffe, models/bvlc_alexnet.
  caffenet        BVLC Caffe, models/bvlc_reference_caffenet.
  torchvision     torchvision/models/alexnet.py.

A seventh has batch normalization, for batches of thousands of images:

  alexnet_bn      Caffe's, with batch normalization for LRN, as the authors of
                  LARS trained it (You, Gitman and Ginsburg, 2017):
                  borisgin/nvcaffe, models/alexnet_bn/train_val2.prototxt.

For your own network, write an `Architecture` or change one of these with
`dataclasses.replace`. `layer_types.py` defines the words.
"""

from alexnet_jax.model.layer_types import (
  LRN,
  Activation,
  Architecture,
  AvgPool,
  BatchNorm,
  Conv,
  Dense,
  Dropout,
  MaxPool,
  Op,
  SpatialLRN,
)

_ACT = Activation()
_POOL = MaxPool()
_DROP = Dropout(0.5)
_PAPER_LRN = LRN()

PAPER = Architecture(
  name='paper',
  # The paper says 224, but without padding only 227 gives its 55 x 55 maps.
  input_size=227,
  layers=(
    Conv(96, kernel=11, stride=4, then=(_ACT, _PAPER_LRN, _POOL)),
    Conv(
      256,
      kernel=5,
      padding=(2, 2),
      groups=2,
      bias=1.0,
      then=(_ACT, _PAPER_LRN, _POOL),
    ),
    Conv(384, padding=(1, 1), then=(_ACT,)),
    Conv(384, padding=(1, 1), groups=2, bias=1.0, then=(_ACT,)),
    Conv(256, padding=(1, 1), groups=2, bias=1.0, then=(_ACT, _POOL)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(),
  ),
)

# Each of the two columns is normalized separately, and alpha is divided by 5.
_COLUMN_LRN = LRN(alpha=1e-4 / 5, groups=2)

KRIZHEVSKY2012 = Architecture(
  name='krizhevsky2012',
  input_size=224,
  layers=(
    # The last window extends 3 pixels beyond the edge: sizes are rounded up.
    Conv(
      96,
      kernel=11,
      stride=4,
      padding=(0, 3),
      then=(_COLUMN_LRN, _POOL, _ACT),
    ),
    Conv(
      256,
      kernel=5,
      padding=(2, 2),
      groups=2,
      bias=1.0,
      then=(_ACT, _COLUMN_LRN, SpatialLRN(), _POOL),
    ),
    Conv(384, padding=(1, 1), weight_std=0.03, then=(_ACT,)),
    Conv(
      384, padding=(1, 1), groups=2, weight_std=0.03, bias=1.0, then=(_ACT,)
    ),
    Conv(
      256,
      padding=(1, 1),
      groups=2,
      weight_std=0.03,
      bias=1.0,
      then=(_POOL, _ACT),
    ),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(),
  ),
)

_OWT_LRN = LRN(alpha=1e-4 / 5)

OWT = Architecture(
  name='owt',
  input_size=224,
  layers=(
    Conv(64, kernel=11, stride=4, padding=(0, 3), then=(_OWT_LRN, _POOL, _ACT)),
    Conv(
      192,
      kernel=5,
      padding=(2, 2),
      bias=1.0,
      then=(_ACT, _OWT_LRN, _POOL),
    ),
    Conv(384, padding=(1, 1), weight_std=0.03, then=(_ACT,)),
    Conv(256, padding=(1, 1), weight_std=0.03, bias=1.0, then=(_ACT,)),
    Conv(256, padding=(1, 1), weight_std=0.03, bias=1.0, then=(_POOL, _ACT)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(4096, bias=1.0, then=(_ACT, _DROP)),
    Dense(bias=-7.0),
  ),
)

_CAFFE_LRN = LRN(k=1.0, alpha=1e-4 / 5)


def _caffe(name: str, bias: float, order: tuple[Op, ...]) -> Architecture:
  """Returns one of Caffe's two networks.

  They differ in the non-zero biases and in the order of LRN and pooling.
  """
  return Architecture(
    name=name,
    input_size=227,
    layers=(
      Conv(96, kernel=11, stride=4, then=order),
      Conv(256, kernel=5, padding=(2, 2), groups=2, bias=bias, then=order),
      Conv(384, padding=(1, 1), then=(_ACT,)),
      Conv(384, padding=(1, 1), groups=2, bias=bias, then=(_ACT,)),
      Conv(256, padding=(1, 1), groups=2, bias=bias, then=(_ACT, _POOL)),
      Dense(4096, weight_std=0.005, bias=bias, then=(_ACT, _DROP)),
      Dense(4096, weight_std=0.005, bias=bias, then=(_ACT, _DROP)),
      Dense(),
    ),
  )


CAFFE = _caffe('caffe', bias=0.1, order=(_ACT, _CAFFE_LRN, _POOL))
CAFFENET = _caffe('caffenet', bias=1.0, order=(_ACT, _POOL, _CAFFE_LRN))

TORCHVISION = Architecture(
  name='torchvision',
  input_size=224,
  layers=(
    Conv(
      64,
      kernel=11,
      stride=4,
      padding=(2, 2),
      weight_std=None,
      then=(_ACT, _POOL),
    ),
    Conv(192, kernel=5, padding=(2, 2), weight_std=None, then=(_ACT, _POOL)),
    Conv(384, padding=(1, 1), weight_std=None, then=(_ACT,)),
    Conv(256, padding=(1, 1), weight_std=None, then=(_ACT,)),
    # Dropout precedes fc6 and fc7; in the other networks it follows them.
    Conv(
      256,
      padding=(1, 1),
      weight_std=None,
      then=(_ACT, _POOL, AvgPool(6), _DROP),
    ),
    Dense(4096, weight_std=None, then=(_ACT, _DROP)),
    Dense(4096, weight_std=None, then=(_ACT,)),
    Dense(weight_std=None),
  ),
)

ALEXNETS: dict[str, Architecture] = {
  architecture.name: architecture
  for architecture in (
    PAPER,
    KRIZHEVSKY2012,
    OWT,
    CAFFE,
    CAFFENET,
    TORCHVISION,
  )
}

_NORM = BatchNorm(epsilon=1e-4, momentum=0.9)

# The file calls these bn2 to bn5, after the layers that they precede.
ALEXNET_BN = Architecture(
  name='alexnet_bn',
  input_size=227,
  layers=(
    Conv(96, kernel=11, stride=4, bias=0.01, then=(_ACT, _POOL, _NORM)),
    Conv(
      256,
      kernel=5,
      padding=(2, 2),
      groups=2,
      bias=0.01,
      then=(_ACT, _POOL, _NORM),
    ),
    Conv(384, padding=(1, 1), bias=0.01, then=(_ACT, _NORM)),
    Conv(384, padding=(1, 1), groups=2, bias=0.01, then=(_ACT, _NORM)),
    Conv(256, padding=(1, 1), groups=2, bias=0.01, then=(_ACT, _POOL)),
    Dense(4096, weight_std=0.005, bias=0.1, then=(_ACT, _DROP)),
    Dense(4096, weight_std=0.005, bias=0.1, then=(_ACT, _DROP)),
    Dense(bias=0.01),
  ),
)
