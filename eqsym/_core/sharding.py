"""Meshes of devices, and which arrays are spread over them."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from .kinds import checked
from .processes import put
from .types import Integer, Walkers, whole_number


WALKERS, OPERATIONS = "walkers", "operations"
_AUTO = jax.sharding.AxisType.Auto


@checked
def device_mesh(*, operations: Integer = 1, devices: Integer | None = None) -> Mesh:
    """Devices to spread a run or an estimate over: a mesh with the axes `walkers` and
    `operations`.

    Walkers are spread over the first axis. The operations of a group, in symmetrized
    functions and in the orbits of [`eqsym.post_hoc`][] or
    [`eqsym.ProjectedTraining`][], are spread over the second: for groups so large, or
    walkers so few, that there are more devices than walkers. Without operations all
    devices of that axis compute the same.

    **Arguments:**

    - `operations`: devices along the axis `operations`.
    - `devices`: how many of `jax.devices()`, all by default; those of all processes,
        after `jax.distributed.initialize`.

    **Raises:** `ValueError` if there are not as many devices, or `operations` does not
    divide them.
    """
    available = jax.devices()
    operations = whole_number("operations", operations)
    count = len(available) if devices is None else whole_number("devices", devices)
    if not 1 <= count <= len(available):
        raise ValueError(
            f"`devices` must be from 1 to the {len(available)} of `jax.devices()`, got "
            f"{count}."
        )
    if operations < 1 or count % operations:
        divisors = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"`operations` must divide the {count} devices, got {operations}. These "
            f"do: {', '.join(divisors)}."
        )
    return jax.make_mesh(
        (count // operations, operations),
        (WALKERS, OPERATIONS),
        axis_types=(_AUTO,) * 2,
        devices=available[:count],
    )


@checked
def shard_walkers(walkers: Walkers, mesh: Mesh) -> Walkers:
    """Spreads walkers over the axis `walkers` of a mesh.

    Estimators that are given walkers on a mesh use all of its devices.

    **Arguments:**

    - `walkers`: (walkers, electrons, 3), the same on every process.
    - `mesh`: of [`eqsym.device_mesh`][].

    **Raises:** `ValueError` if the number of walkers does not divide, and for a mesh
    with other axes.
    """
    if tuple(mesh.shape) != (WALKERS, OPERATIONS) or set(mesh.axis_types) != {_AUTO}:
        raise ValueError(
            "`mesh` must have the axes `walkers` and `operations` of type `Auto`, got "
            f"axes {tuple(mesh.shape)} of types {mesh.axis_types}. `device_mesh` makes "
            "one."
        )
    devices = mesh.shape[WALKERS]
    count = walkers.shape[0]
    if count % devices:
        below = count - count % devices
        nearest = [str(n) for n in (below, below + devices) if n > 0]
        raise ValueError(
            f"`walkers` must divide over {devices} devices, got {count}. Nearest that "
            f"do: {' and '.join(nearest)}."
        )
    return put(walkers, NamedSharding(mesh, PartitionSpec(WALKERS)))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts all arrays of a PyTree on every device of a mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda leaf: put(leaf, everywhere) if isinstance(leaf, jax.Array) else leaf,
        tree,
    )


def mesh_of(array: Array | np.ndarray) -> Mesh | None:
    """The mesh that an array is on, if it is on one."""
    sharding = array.sharding if isinstance(array, jax.Array) else None
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) else None


@contextlib.contextmanager
def on_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Whatever is compiled inside is spread as `spread` says."""
    if mesh is None:
        yield
    else:
        with jax.set_mesh(mesh):
            yield


def devices_in_use() -> int:
    """Devices of the mesh in use, 1 if there is none, or one of somebody else."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size if mesh.axis_names == (WALKERS, OPERATIONS) else 1


def walker_devices() -> int:
    """Devices that walkers are spread over in the mesh in use."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[WALKERS] if mesh.axis_names == (WALKERS, OPERATIONS) else 1


def spread(
    array: Shaped[Array, "..."], *axes: str | tuple[str, ...] | None
) -> Shaped[Array, "..."]:
    """Asks for an array to be spread over axes of the mesh in use, if there is one:
    one entry for each of its leading axes, `None` and those left out for the whole on
    every device."""
    if devices_in_use() == 1:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*axes))
