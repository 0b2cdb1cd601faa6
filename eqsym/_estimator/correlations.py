"""Correlations of the electrons, and their polarization."""

import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from .._core import checked, Integer, whole_number
from .._crystal import Crystal, from_nearest, inner_radius
from .observables import (
    AbstractObservable,
    check_vectors,
    half_of_vectors,
    plane_waves,
    weighted_sum,
)


_UP, _DOWN = 0, 1


@checked
class StructureFactor(AbstractObservable):
    r"""The static structure factor of density fluctuations,

    $$S(q) = \frac{1}{N} \big( \langle |\rho_q|^2 \rangle - |\langle \rho_q
    \rangle|^2 \big) , \quad \rho_q = \sum_i e^{-i q \cdot r_i} ,$$

    for reciprocal vectors q of the supercell: 1 for independent electrons of uniform
    density. The second term, the Bragg peaks, is in [`eqsym.FourierDensity`][].
    The result has one number for each of `vectors`.

    **Arguments:**

    - `crystal`: the crystal.
    - `max_q`: the length of the longest q, in inverse Bohr.

    **Raises:** `ValueError` if no q but 0 is as short.
    """

    crystal: Crystal
    max_q: float = eqx.field(static=True, converter=float)

    def __check_init__(self):
        check_vectors(self.max_q, self.vectors)

    @property
    def vectors(self) -> Float[np.ndarray, "vectors 3"]:
        """The q in inverse Bohr, one of q and -q, sorted by length, without 0."""
        return half_of_vectors(self.crystal.supercell, self.max_q)

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Complex[Array, "kinds moments"]:
        waves = plane_waves(orbits, self.vectors)
        squares = weighted_sum(jnp.abs(waves) ** 2, weights).astype(waves.dtype)
        return jnp.concatenate([weighted_sum(waves, weights), squares], axis=1)

    def result(
        self, means: Complex[np.ndarray, "sets moments"]
    ) -> Float[np.ndarray, "sets vectors"]:
        waves, squares = np.split(means, 2, axis=1)
        fluctuations = np.real(squares) - np.abs(waves) ** 2
        return fluctuations / sum(self.crystal.electrons)


class PairCorrelation(AbstractObservable):
    r"""The pair correlation function averaged over the cell and over directions,

    $$g(r) = \frac{V}{N_a N_b} \Big\langle \sum_{i \neq j}
    \frac{\delta(r - |r_i - r_j|)}{4 \pi r^2} \Big\rangle$$

    with i of spin a, j of spin b (or all electrons, N = N_a = N_b), distances to the
    nearest image and the volume V of the supercell, vacuum included. Averaged over the
    shells of a histogram. It is 1 for independent electrons of different spin and
    uniform density; for electrons of the same kind $1 - 1 / N$, because none is its own
    partner. The result has one number for each of `radii`.
    """

    crystal: Crystal
    bins: int = eqx.field(static=True)
    r_max: float = eqx.field(static=True)
    spins: tuple[int, int] | None = eqx.field(static=True)

    @checked
    def __init__(
        self,
        crystal: Crystal,
        bins: Integer,
        *,
        r_max: float | None = None,
        spins: tuple[int, int] | None = None,
    ):
        """**Arguments:**

        - `crystal`: the crystal.
        - `bins`: number of shells, equally thick.
        - `r_max`: outer radius of the last one in Bohr, by default the largest that is
            possible: half the shortest vector of the supercell lattice, where a sphere
            touches its images.
        - `spins`: `(0, 0)` for pairs of two spin-up electrons, `(0, 1)` for one of each
            spin, `(1, 1)` for two of spin down; by default all pairs.

        **Raises:** `ValueError` for less than one bin, a radius that is not positive or
        too large, and if there are no such pairs.
        """
        largest = inner_radius(crystal.supercell)
        self.crystal = crystal
        self.bins = whole_number("bins", bins, 1)
        self.r_max = largest if r_max is None else float(r_max)
        self.spins = spins

    def __check_init__(self):
        crystal, spins = self.crystal, self.spins
        largest = inner_radius(crystal.supercell)
        if not 0 < self.r_max <= (1 + 1e-9) * largest:
            raise ValueError(
                f"`r_max` must be positive and at most {largest:.6g} Bohr, half the "
                "shortest vector of the supercell lattice, beyond which spheres "
                f"overlap with their images, got {self.r_max:.6g}. Take a larger "
                "supercell for larger distances."
            )
        if spins not in (None, (0, 0), (0, 1), (1, 1)):
            raise ValueError(
                "`spins` must be (0, 0), (0, 1) or (1, 1), 0 for spin up and 1 for "
                f"spin down, or None for all pairs, got {spins!r}."
            )
        if not len(self._pairs):
            raise ValueError(
                f"`spins` {spins!r}: a crystal with {crystal.electrons[0]} spin-up and "
                f"{crystal.electrons[1]} spin-down electrons has no such pairs."
            )

    @property
    def edges(self) -> Float[np.ndarray, " edges"]:
        """Inner radii of the shells in Bohr, and the outer one of the last."""
        return np.linspace(0, self.r_max, self.bins + 1)

    @property
    def radii(self) -> Float[np.ndarray, " bins"]:
        """Middles of the shells in Bohr."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def _pairs(self) -> Int[np.ndarray, "pairs 2"]:
        spin = np.repeat([_UP, _DOWN], self.crystal.electrons)
        pairs = np.array(list(itertools.combinations(range(len(spin)), 2)), dtype=int)
        pairs = pairs.reshape(-1, 2)
        if self.spins is None:
            return pairs
        return pairs[np.all(spin[pairs] == self.spins, axis=1)]

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Float[Array, "kinds bins"]:
        # The same for all images: operations keep distances.
        electrons, weights = orbits[:, 0], jnp.sum(weights, axis=1)
        kinds, pairs = weights.shape[-1], self._pairs
        gaps = electrons[:, pairs[:, 0]] - electrons[:, pairs[:, 1]]
        nearest = from_nearest(self.crystal.supercell, gaps.reshape(-1, 3))
        distances = jnp.sqrt(jnp.sum(nearest**2, axis=1))
        shells = jnp.floor(distances * (self.bins / self.r_max)).astype(int)
        values = jnp.repeat(weights, len(pairs), axis=0)
        sums = jnp.zeros((self.bins, kinds), weights.dtype)
        # Pairs farther apart are beyond the last bin.
        return sums.at[shells].add(values, mode="drop").T

    def result(
        self, means: Float[np.ndarray, "sets bins"]
    ) -> Float[np.ndarray, "sets bins"]:
        counts = self.crystal.electrons
        if self.spins is None:
            ordered, product = 2, sum(counts) ** 2
        else:
            a, b = self.spins
            ordered, product = (2 if a == b else 1), counts[a] * counts[b]
        shells = 4 / 3 * np.pi * np.diff(self.edges**3)
        return means * ordered * self.crystal.supercell.volume / (product * shells)


@checked
class Polarization(AbstractObservable):
    r"""The complex polarization of the electrons,
    $z_l = \langle \exp(i b_l \cdot \sum_j r_j) \rangle$ for the three reciprocal
    vectors $b_l$ of the supercell.

    The phase of $z_l$, over $2 \pi$, is the sum of the fractional coordinates of the
    electrons along the l-th vector of the supercell, modulo 1; $|z_l|$ goes to 1 in
    large supercells of insulators and to 0 in large supercells of metals. It is a mean
    over $|\psi|^2$, and so the same function of the wave function for all twists.

    R. Resta, Phys. Rev. Lett. 80, 1800 (1998), eq. 5; R. Resta and S. Sorella, Phys.
    Rev. Lett. 82, 370 (1999). The result is complex, (3,).

    **Arguments:**

    - `crystal`: the crystal.

    **Raises:** `ValueError` for arguments of the wrong kind.
    """

    crystal: Crystal

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Complex[Array, "kinds 3"]:
        center = jnp.sum(orbits, axis=2, keepdims=True)
        waves = plane_waves(center, -self.crystal.supercell.reciprocal)
        return weighted_sum(waves, weights)

    def result(
        self, means: Complex[np.ndarray, "sets 3"]
    ) -> Complex[np.ndarray, "sets 3"]:
        return means
