"""The networks that the paper trains on CIFAR-10 beside AlexNet.

  cifar10_relu   Figure 1's "four-layer convolutional network". It was not
                 published: here three convolutions and a fully connected layer,
                 those of cuda-convnet's layers-18pct.cfg without its LRN, with
                 max pooling throughout. Its ablation 'tanh' is the dashed line.
  cifar10_local  Section 3.3's: cuda-convnet's layers-conv-local-11pct.cfg in
                 its first version (LRN of 5 maps before both pools:
                 dnouri/cuda-convnet at 3878e8f). Its ablation 'no_lrn' is
                 layers-conv-local-13pct.cfg, the same network.

cuda-convnet's pools round their sizes up, ours down.
"""

from alexnet_jax.model.architectures import (
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

# scale=0.001 in the file, which cuda-convnet divides by the size.
_LRN = LRN(size=5, k=1.0, alpha=0.001 / 5, beta=0.75)

CIFAR10_LOCAL = Architecture(
  name='cifar10_local',
  # Crops of CIFAR-10's 32 x 32.
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
