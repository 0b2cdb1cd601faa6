"""The lattice point nearest to a point, in any lattice."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .lattice import Lattice


_STEPS = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))


def from_nearest(
    lattice: Lattice, points: Float[Array, "points 3"]
) -> Float[Array, "points 3"]:
    """Points relative to the lattice points nearest to them, in Bohr.

    In a Minkowski-reduced basis a point of the Voronoi cell has coordinates of at most
    1 (Nguyen and Stehlé, ACM Trans. Algorithms 5, 46 (2009), theorem 8): the nearest
    lattice point is at most one step in each direction from the one that rounding
    gives.
    """
    vectors = lattice.reduced().vectors
    steps = _useful_steps(vectors) @ vectors
    inverse = jnp.asarray(np.linalg.inv(vectors), points.dtype)
    precise = jax.lax.Precision.HIGHEST
    cells = jnp.round(jnp.matmul(points, inverse, precision=precise))
    vectors = jnp.asarray(vectors, points.dtype)
    near = points - jnp.matmul(cells, vectors, precision=precise)
    if not len(steps):
        return near
    # |near + step|^2 - |near|^2, so that the candidates are never stored.
    others = jnp.asarray(steps, points.dtype)
    gains = 2 * jnp.matmul(near, others.T, precision=precise)
    gains += jnp.asarray(np.sum(steps**2, axis=1), points.dtype)[None]
    best = jnp.argmin(gains, axis=1)
    shorter = jnp.take_along_axis(gains, best[:, None], axis=1) < 0
    return near + jnp.where(shorter, others[best], 0)


def inner_radius(lattice: Lattice) -> float:
    """Half the shortest lattice vector."""
    return float(np.linalg.norm(lattice.reduced().vectors[0])) / 2


def _useful_steps(vectors: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "steps 3"]:
    """Those that are the shorter way for some point of the cell around the origin:
    none in an orthogonal cell."""
    metric = vectors @ vectors.T
    applied = _STEPS @ metric
    # The corner of the cell that gains most.
    most = np.sum(np.abs(applied), axis=1)
    own = np.sum(applied * _STEPS, axis=1)
    return _STEPS[most > (1 + 1e-9) * own]
