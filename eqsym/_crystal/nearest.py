"""Points relative to the lattice points nearest to them, in any lattice."""

import itertools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._core import precise_matmul
from .lattice import Lattice
from .modulo import ROUNDING


_STEPS = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))

_Array = TypeVar("_Array", jax.Array, np.ndarray)


def from_nearest(
    lattice: Lattice, points: Float[_Array, "*batch 3"]
) -> Float[_Array, "*batch 3"]:
    """Points relative to the lattice points nearest to them, in Bohr: of NumPy in
    NumPy, of JAX in JAX.

    In a Minkowski-reduced basis a point of the Voronoi cell has coordinates of at most
    1 (Nguyen and Stehlé, ACM Trans. Algorithms 5, 46 (2009), theorem 8): the nearest
    lattice point is at most one step in each direction from the one that rounding
    gives.
    """
    basis = lattice.reduced().vectors
    steps = _useful_steps(basis) @ basis
    here: Any = np if isinstance(points, np.ndarray) else jnp
    product: Any = np.matmul if here is np else precise_matmul
    inverse = here.asarray(np.linalg.inv(basis), points.dtype)
    cells = here.round(product(points, inverse))
    near = points - product(cells, here.asarray(basis, points.dtype))
    if not len(steps):
        return near
    # |near + step|^2 - |near|^2, so that the candidates are never stored.
    others = here.asarray(steps, points.dtype)
    squares = here.asarray(np.sum(steps**2, axis=1), points.dtype)
    gains = 2 * product(near, others.T)
    gains += squares.reshape((1,) * (gains.ndim - 1) + squares.shape)
    best = here.argmin(gains, axis=-1)
    shorter = here.take_along_axis(gains, best[..., None], axis=-1) < 0
    return near + here.where(shorter, others[best], 0)


def inner_radius(lattice: Lattice) -> float:
    """Half the length of the shortest lattice vector."""
    return float(np.linalg.norm(lattice.reduced().vectors[0])) / 2


def _useful_steps(vectors: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "steps 3"]:
    """The steps that are the shorter way for some point of the cell around the origin:
    none in an orthogonal cell."""
    metric = vectors @ vectors.T
    applied = _STEPS @ metric
    # The corner of the cell that gains most.
    most = np.sum(np.abs(applied), axis=1)
    own = np.sum(applied * _STEPS, axis=1)
    return _STEPS[most > (1 + ROUNDING) * own]
