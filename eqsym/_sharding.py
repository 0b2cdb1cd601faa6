"""Placement of states on meshes of devices."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ._types import Walkers


def walker_mesh(devices: int | None = None) -> Mesh:
    """A mesh with one axis, `walkers`.

    **Arguments:**

    - `devices`: how many of `jax.devices()`, all by default.
    """
    return jax.make_mesh(
        (len(jax.devices()) if devices is None else devices,),
        ("walkers",),
        axis_types=(jax.sharding.AxisType.Auto,),
    )


def shard_walkers(walkers: Walkers, mesh: Mesh) -> Walkers:
    """Spreads walkers over the axis `walkers` of a mesh.

    **Arguments:**

    - `walkers`: (walkers, electrons, 3).
    - `mesh`: with an axis `walkers`.

    **Raises:** `ValueError` where the number of walkers does not divide.
    """
    devices = mesh.shape["walkers"]
    count = walkers.shape[0]
    if count % devices:
        below = count - count % devices
        nearest = [str(n) for n in (below, below + devices) if n > 0]
        raise ValueError(
            f"`walkers` must divide over {devices} devices, got {count}. Nearest that "
            f"do: {' and '.join(nearest)}."
        )
    return jax.device_put(walkers, NamedSharding(mesh, PartitionSpec("walkers")))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts all arrays of a PyTree on every device of a mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda leaf: (
            jax.device_put(leaf, everywhere) if isinstance(leaf, jax.Array) else leaf
        ),
        tree,
    )
