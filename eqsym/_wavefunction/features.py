"""Periodic stand-ins for a displacement vector and its length."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core import AbstractModule, safe_sqrt
from .._crystal import Lattice


class Displacement(NamedTuple):
    """A periodic displacement in Bohr, of [`eqsym.AbstractFeatures`][].

    - `distance`: stands in for the length, (*batch).
    - `vector`: stands in for the vector, (*batch, dim).
    """

    distance: Float[Array, "*batch"]
    vector: Float[Array, "*batch dim"]


class AbstractFeatures(AbstractModule):
    """Maps displacements to periodic distances and vectors, in Bohr.

    With `w_l = b_l . r` and `a_l = A_l / 2 pi` for lattice vectors `A_l` and reciprocal
    vectors `b_l`: periodic under the lattice, and `distance ~ |r|` for small r.
    [`eqsym.SolidNet`][] gives them the shortest lattice vectors that there are, and the
    same ones however the crystal is described: features of long vectors are far from
    distances, and fit nothing.
    """

    size: eqx.AbstractClassVar[int]

    @abc.abstractmethod
    def __call__(
        self, lattice: Lattice, displacement: Float[Array, "*batch 3"]
    ) -> Displacement:
        """**Arguments:**

        - `lattice`: the periodicity.
        - `displacement`: Cartesian vectors in Bohr.

        **Returns:**

        The distance, zero with derivative zero for the zero vector, and the vector with
        `size` components.
        """


class TriFeatures(AbstractFeatures):
    r"""Trigonometric features, smooth everywhere but at the origin.

    $s^2 = \sum_{lm} [\sin w_l \sin w_m + (1 - \cos w_l)(1 - \cos w_m)] a_l \cdot a_m$,
    vector $(\sum_l \sin(w_l) a_l, \sum_l \cos(w_l) a_l)$. Cassella et al., Phys. Rev.
    Lett. 130, 036401 (2023).
    """

    size: ClassVar[int] = 6

    def __call__(
        self, lattice: Lattice, displacement: Float[Array, "*batch 3"]
    ) -> Displacement:
        w, a = _angles(lattice, displacement)
        sine = jnp.sin(w) @ a
        # 1 - cos w without cancellation at small w.
        versine = 2 * jnp.sin(0.5 * w) ** 2 @ a
        square = jnp.sum(sine**2 + versine**2, axis=-1)
        vector = jnp.concatenate([sine, jnp.cos(w) @ a], axis=-1)
        return Displacement(safe_sqrt(square), vector)


class NuFeatures(AbstractFeatures):
    r"""The polynomial features of the 2022 paper; second derivatives jump at w = 0.

    $w$ wrapped to $[-\pi, \pi)$, $f = |w| (1 - |w/\pi|^3/4)$,
    $g = w (1 - \tfrac32 |w/\pi| + \tfrac12 |w/\pi|^2)$,
    $s^2 = \sum_l |a_l|^2 f_l^2 + \sum_{l \ne m} a_l \cdot a_m g_l g_m$, vector
    $\sum_l g_l a_l$. Li, Li, Chen, Nat. Commun. 13, 7895 (2022).
    """

    size: ClassVar[int] = 3

    def __call__(
        self, lattice: Lattice, displacement: Float[Array, "*batch 3"]
    ) -> Displacement:
        w, a = _angles(lattice, displacement)
        w = w - 2 * np.pi * jnp.floor(w / (2 * np.pi) + 0.5)
        size = jnp.abs(w) / np.pi
        f = w * (1 - size**3 / 4)
        g = w * (1 - 1.5 * size + 0.5 * size**2)
        lengths = jnp.sum(a**2, axis=-1)
        vector = g @ a
        square = jnp.sum(vector**2, axis=-1) + jnp.sum(
            (f**2 - g**2) * lengths.reshape((1,) * (w.ndim - 1) + (3,)), axis=-1
        )
        return Displacement(safe_sqrt(square), vector)


def _angles(
    lattice: Lattice, displacement: Float[Array, "*batch 3"]
) -> tuple[Float[Array, "*batch 3"], Float[Array, "3 3"]]:
    reciprocal = jnp.asarray(lattice.reciprocal, displacement.dtype)
    vectors = jnp.asarray(lattice.vectors / (2 * np.pi), displacement.dtype)
    return displacement @ reciprocal.T, vectors
