"""Where each tensor of a training lives on the devices (docs/pods.md).

The batch is divided between all devices, whose axis is called `AXIS`. There are
two ways to place the parameters:

  data    Each device has some rows of the kernels of fully connected layers,
          and all other parameters. A step gathers the rows of all devices, and
          updates its own. (Xu et al. 2020, arXiv:2004.13336)
  hybrid  The fully connected layers are divided between the devices, with
          their velocity. Each device computes its units for the images of all
          devices. (Krizhevsky 2014, arXiv:1404.5997)

A `PartitionSpec` says which axis of an array is divided; all arrays keep their
full shapes. So checkpoints of both have the same content.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.cli.errors import UserError
from alexnet_jax.learning import optimizer
from alexnet_jax.model import AlexNet
from alexnet_jax.model.dense_parts import Inputs, Part, Rows, Units
from alexnet_jax.model.layer_types import Activation, Dense, Dropout

AXIS = 'batch'
# On each device.
_ALL = PartitionSpec()
# Divided along the first or the second axis.
_ROWS = PartitionSpec(AXIS)
_COLUMNS = PartitionSpec(None, AXIS)


def mesh_of(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns the devices in the order of a batch's parts.

  Args:
    devices: some of this process's, or ones to compile for; by default those of
      all processes, one process after the other.
  """
  if devices is None:
    devices = [
      device
      for process in range(jax.process_count())
      for device in jax.local_devices(process)
    ]
  return Mesh(np.array(devices), (AXIS,))


def divides(spec: PartitionSpec) -> bool:
  """Returns whether each device has a part of an array, not all of it."""
  return AXIS in spec


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the arrays of a training state are.

  Attributes:
    parallelism: 'data' or 'hybrid'.
    mesh: the devices.
    specs: the state with a `PartitionSpec` for each array. A parameter and its
      velocity have the same.
  """

  parallelism: str
  mesh: Mesh
  specs: Any

  def put(self, state: Any) -> Any:
    """Places a training state on the devices; it may be anywhere before.

    A step that donates its state needs such a copy; it deletes the arrays that
    it is given.
    """
    return _put(state, self.mesh, self.specs)

  def shapes(self, state: Any) -> Any:
    """Returns shapes and dtypes of what each device has of a state."""

    def of_device(x, spec):
      shape = NamedSharding(self.mesh, spec).shard_shape(x.shape)
      return jax.ShapeDtypeStruct(shape, x.dtype)

    return jax.tree.map(of_device, state, self.specs)

  # ---- In a step, on one device. --------------------------------------------

  def of_device(self, model: AlexNet, sum_dtype: Any = None) -> AlexNet:
    """Returns the network as one of several devices computes it.

    Args:
      model: the network.
      sum_dtype: as in `reduced`.
    """
    parts: dict[str, Part] = {}
    for name in _dense_names(model):
      spec = self.specs.params[name]['kernel']
      if self.parallelism == 'hybrid':
        kind = Units if spec == _COLUMNS else Inputs
        parts[name] = kind(AXIS, follows=bool(parts))
      elif spec == _ROWS:
        parts[name] = Rows(AXIS, model.dtype, sum_dtype)
    return model.clone(axis_name=AXIS, parts=tuple(parts.items()))

  def reduced(self, grads: Any, sum_dtype: Any = None) -> Any:
    """Returns the mean gradients of what this device has of the parameters.

    Args:
      grads: of the mean loss of this device's images. In divided arrays they
        are the sums over all devices already (`dense_parts`).
      sum_dtype: precision in which gradients are sent and added; None: theirs.
    """
    number = jax.lax.axis_size(AXIS)

    def mean(grad, spec):
      if not divides(spec):
        sent = grad.astype(sum_dtype or grad.dtype)
        grad = jax.lax.psum(sent, AXIS).astype(grad.dtype)
      return grad / number

    return jax.tree.map(mean, grads, self.specs.params)

  def squares(self, parts: Any) -> Any:
    """Returns each array's sum of squares from this device's part of it."""

    def of_all(local, spec):
      return jax.lax.psum(local, AXIS) if divides(spec) else local

    return jax.tree.map(of_all, optimizer.squares(parts), self.specs.params)

  def on_all(self, true: jax.Array) -> jax.Array:
    """Returns whether it is true on all devices."""
    if not any(map(divides, jax.tree.leaves(self.specs))):
      return true
    return jax.lax.pmin(true.astype(jnp.int32), AXIS) == 1


def place(
  model: AlexNet,
  state: Any,
  parallelism: str = 'data',
  devices: Sequence[Any] | None = None,
  grad_accumulation: int = 1,
) -> Placement:
  """Returns where the arrays of a training state are.

  Args:
    model: the network.
    state: a `TrainState`, or the shapes of one.
    parallelism: 'data' or 'hybrid'.
    devices: as in `mesh_of`.
    grad_accumulation: number of parts of a device's images. With several,
      'data' divides no kernel, which each part would gather again.

  Raises:
    UserError: the devices do not divide the fully connected layers.
  """
  mesh = mesh_of(devices)
  specs = jax.tree.map(lambda _: _ALL, state)
  check_units(model, state.params, parallelism, mesh.size)
  names = _dense_names(model)
  parts = {}
  if parallelism == 'hybrid' and mesh.size > 1:
    parts = {name: {'kernel': _COLUMNS, 'bias': _ROWS} for name in names}
    # By its inputs, so that any number of classes is possible.
    parts[names[-1]] = {'kernel': _ROWS, 'bias': _ALL}
  elif mesh.size > 1 and grad_accumulation == 1:
    parts = {
      name: {'kernel': _ROWS, 'bias': _ALL}
      for name in names
      if state.params[name]['kernel'].shape[0] % mesh.size == 0
    }
  params = {**specs.params, **parts}
  velocity = specs.opt_state._replace(trace=params)
  specs = specs.replace(params=params, opt_state=velocity)
  return Placement(parallelism, mesh, specs)


def check_units(
  model: AlexNet, params: Any, parallelism: str, num_devices: int
) -> None:
  """Checks that the devices can compute equal parts of the network.

  Args:
    model: the network.
    params: its parameters, or their shapes.
    parallelism: 'data' or 'hybrid'.
    num_devices: of all processes.

  Raises:
    UserError: they cannot; the message has the numbers of devices that can, or
      the operation that needs all units of a layer.
  """
  *others, last = _dense_names(model)
  units = {name: params[name]['kernel'].shape[1] for name in others}
  units[f'the input of {last}'] = params[last]['kernel'].shape[0]
  common = math.gcd(*units.values())
  if parallelism == 'hybrid' and common % num_devices:
    numbers = [n for n in range(1, common + 1) if common % n == 0]
    raise UserError(
      f"parallelism 'hybrid' divides the fully connected layers between the "
      f'devices, and {num_devices} devices cannot have equal parts of '
      f'{", ".join(f"{name} ({n})" for name, n in units.items())}: use '
      f'{", ".join(map(str, numbers))} devices, or --config.parallelism=data'
    )
  if parallelism == 'hybrid' and num_devices > 1:
    for name, layer in model.architecture.named_layers:
      for op in layer.then if name in others else ():
        if not isinstance(op, Activation | Dropout):
          raise UserError(
            f"parallelism 'hybrid' divides the units of {name}, and "
            f'{type(op).__name__} after it needs all of them: use '
            '--config.parallelism=data'
          )


def _dense_names(model: AlexNet) -> list[str]:
  layers = model.architecture.named_layers
  return [name for name, layer in layers if isinstance(layer, Dense)]


def replicate(tree: Any, devices: Sequence[Any] | None = None) -> Any:
  """Copies a tree of arrays to each device; it may be anywhere before.

  Args:
    tree: equal on all processes.
    devices: as in `mesh_of`.
  """
  mesh = mesh_of(devices)
  if any(_is_divided(x) for x in jax.tree.leaves(tree)):
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, _ALL))(tree)
  return _put(tree, mesh, jax.tree.map(lambda _: _ALL, tree))


def own_part(x: jax.Array) -> np.ndarray:
  """Returns this process's images of a batch, `[n, ...]`, on the host.

  Args:
    x: `[devices, images per device, ...]`, divided by its first axis.
  """
  parts = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
  return np.concatenate([part.data[0] for part in parts])


def _is_divided(x: Any) -> bool:
  """Whether other processes have some of it."""
  return isinstance(x, jax.Array) and not (
    x.is_fully_replicated or x.is_fully_addressable
  )


def _put(tree: Any, mesh: Mesh, specs: Any) -> Any:
  def put(x, spec):
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(put, tree, specs)


def on_devices(
  step: Callable[[Any, Any], Any],
  mesh: Mesh,
  specs: Any,
  out_specs: Any,
  *,
  pmapped: bool = True,
  donate: bool = False,
) -> Any:
  """Returns a step for one device as a step for all.

  In one process this is `jax.pmap`. With several, a pmap within `jax.jit` takes
  the array of one process for that of all, so there it is `jax.shard_map`, on
  which pmap is built. So it is with arrays that pmap cannot divide: along their
  second axis.

  Args:
    step: a function of a state (or parameters) and of a device's batch.
    mesh: the devices.
    specs: a `PartitionSpec` for each array of the state.
    out_specs: the same for each result.
    pmapped: whether to use `jax.pmap` in one process.
    donate: whether the result takes the state's memory.

  Returns:
    A compiled function of the state and a batch, `[devices, n, ...]`.
  """
  if pmapped and jax.process_count() == 1:
    mapped = jax.pmap(
      step,
      axis_name=AXIS,
      in_axes=(_pmap_axes(specs), 0),
      out_axes=_pmap_axes(out_specs),
      devices=mesh.devices.tolist(),
    )

    def on_all(state, batch):
      state = _stacked(state, specs, mesh.size)
      return _unstacked(mapped(state, batch), out_specs)
  else:
    on_all = jax.shard_map(
      lambda state, batch: step(state, jax.tree.map(lambda x: x[0], batch)),
      mesh=mesh,
      in_specs=(specs, _ROWS),
      out_specs=out_specs,
      check_vma=False,
    )

  def shardings(specs):
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

  return jax.jit(
    on_all,
    in_shardings=(shardings(specs), NamedSharding(mesh, _ROWS)),
    out_shardings=shardings(out_specs),
    donate_argnums=0 if donate else (),
  )


def _pmap_axes(specs):
  return jax.tree.map(lambda spec: None if spec == _ALL else 0, specs)


def _stacked(tree, specs, number):
  """Gives divided arrays the leading axis of devices that pmap wants."""
  return jax.tree.map(
    lambda spec, x: x if spec == _ALL else x.reshape(number, -1, *x.shape[1:]),
    specs,
    tree,
  )


def _unstacked(tree, specs):
  return jax.tree.map(
    lambda spec, x: x if spec == _ALL else x.reshape(-1, *x.shape[2:]),
    specs,
    tree,
  )
