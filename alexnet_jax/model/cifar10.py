"""The networks that the paper trains on CIFAR-10.

  cifar10_relu   Figure 1's "four-layer convolutional network", the solid line.
                 The original was not published. This one has the three
                 convolutions and the fully connected layer of cuda-convnet's
                 layers-18pct.cfg, without its LRN and with max pooling
                 throughout. With the ablation 'tanh' it is the dashed line.
  cifar10_local  The network of section 3.3: cuda-convnet's
                 layers-conv-local-11pct.cfg in its first version (LRN over 5
                 channels before both pools; dnouri/cuda-convnet at 3878e8f).
                 With the ablation 'no_lrn' it is layers-conv-local-13pct.cfg.

cuda-convnet rounds the sizes of pooled maps up; these networks round down.
"""

from alexnet_jax.model.layer_types import (
  LRN,
  Activation,
  Architecture,
  Conv,
  Dense,
  MaxPool,
)

_ACT = Activation()
_POOL = MaxPool()

CIFAR10_RELU = Architecture(
  name='cifar10_relu',
  input_size=32,
  layers=(
    Conv(32, kernel=5, padding=(2, 2), weight_std=1e-4, then=(_ACT, _POOL)),
    Conv(32, kernel=5, padding=(2, 2), then=(_ACT, _POOL)),
    Conv(64, kernel=5, padding=(2, 2), then=(_ACT, _POOL)),
    Dense(),
  ),
)

# The file has scale=0.001, which cuda-convnet divides by the size.
_LRN = LRN(size=5, k=1.0, alpha=0.001 / 5, beta=0.75)

CIFAR10_LOCAL = Architecture(
  name='cifar10_local',
  # Crops of CIFAR-10's 32 x 32 images.
  input_size=24,
  layers=(
    Conv(
      64, kernel=5, padding=(2, 2), weight_std=1e-4, then=(_ACT, _LRN, _POOL)
    ),
    Conv(64, kernel=5, padding=(2, 2), then=(_ACT, _LRN, _POOL)),
    Conv(32, padding=(1, 1), shared=False, weight_std=0.04, then=(_ACT,)),
    Conv(32, padding=(1, 1), shared=False, weight_std=0.04, then=(_ACT,)),
    Dense(),
  ),
)

NETWORKS: dict[str, Architecture] = {
  network.name: network for network in (CIFAR10_RELU, CIFAR10_LOCAL)
}
