"""The interface of observables, and sums over plane waves, of which some consist."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from .._core import AbstractFixed, precise_einsum
from .._crystal import Crystal, Lattice


class AbstractObservable(AbstractFixed):
    r"""A property of $|\psi|^2$: a function of the means of some moments, which are
    functions of the configuration that supercell translations of single electrons leave
    as they are.

    For [`eqsym.observe`][] and [`eqsym.observe_post_hoc`][]. It is not written for one
    configuration, because a histogram of thousands of bins is filled by few electrons:
    sums can be added up without one array of moments for each configuration.
    """

    crystal: eqx.AbstractVar[Crystal]

    @abc.abstractmethod
    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Inexact[Array, "kinds moments"]:
        """Weighted sums of the moments over configurations.

        **Arguments:**

        - `orbits`: configurations in Bohr, spin-up electrons first. The images of one
            walker differ by symmetry operations on all its electrons.
        - `weights`: several weights of each configuration.

        **Returns:**

        For each kind of weight the sums over walkers and images.
        """

    @abc.abstractmethod
    def result(
        self, means: Inexact[np.ndarray, "sets moments"]
    ) -> Inexact[np.ndarray, "sets ..."]:
        """**Arguments:**

        - `means`: means of the moments, several sets of them.

        **Returns:**

        The observable for each set.
        """


def plane_waves(
    orbits: Float[Array, "walkers images electrons 3"],
    vectors: Float[np.ndarray, "vectors 3"],
) -> Complex[Array, "walkers images vectors"]:
    r"""$\sum_i e^{-i q \cdot r_i}$."""
    angles = precise_einsum("gmni,qi->gmnq", orbits, jnp.asarray(vectors, orbits.dtype))
    real, imag = jnp.sum(jnp.cos(angles), axis=2), -jnp.sum(jnp.sin(angles), axis=2)
    return jax.lax.complex(real, imag)


def weighted_sum(
    values: Inexact[Array, "walkers images moments"],
    weights: Float[Array, "walkers images kinds"],
) -> Inexact[Array, "kinds moments"]:
    return precise_einsum("gmk,gmq->kq", weights.astype(values.dtype), values)


def half_of_vectors(lattice: Lattice, max_q: float) -> Float[np.ndarray, "vectors 3"]:
    """Reciprocal vectors up to a length, one of each pair q, -q, without 0."""
    points = Lattice(lattice.reciprocal).points_within(max_q)
    numbers = np.round(points @ lattice.vectors.T / (2 * np.pi)).astype(int)
    # The last number that is not 0 is positive.
    signs = np.sign(numbers) @ [1, 3, 9]
    return points[signs > 0]


def check_vectors(max_q: float, vectors: Float[np.ndarray, "vectors 3"]) -> None:
    if not len(vectors):
        raise ValueError(
            "`max_q` must be at least the length of the shortest reciprocal vector, "
            f"in inverse Bohr, got {max_q}."
        )
