"""Images of configurations under symmetry operations, in JAX."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core import Electrons, precise_einsum


def images(
    rotations: Float[Array, "images 3 3"],
    translations: Float[Array, "images 3"],
    electrons: Electrons,
) -> Float[Array, "images electrons 3"]:
    """The images g x, all in Cartesian coordinates."""
    return _rotate(rotations, electrons[None]) + translations[:, None]


def inverse_images(
    rotations: Float[Array, "images 3 3"],
    translations: Float[Array, "images 3"],
    electrons: Electrons,
) -> Float[Array, "images electrons 3"]:
    """The images g^-1 x."""
    shifted = electrons[None] - translations[:, None]
    return _rotate(jnp.swapaxes(rotations, 1, 2), shifted)


def _rotate(
    rotations: Float[Array, "images 3 3"], points: Float[Array, "#images electrons 3"]
) -> Float[Array, "images electrons 3"]:
    points = jnp.broadcast_to(points, (len(rotations), *points.shape[1:]))
    # Rounded to 10 bits, as accelerators do by default, rotations would move electrons
    # by thousandths of a Bohr.
    return precise_einsum("gij,gnj->gni", rotations, points)
