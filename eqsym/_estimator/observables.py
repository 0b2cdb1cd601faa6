"""Observables that the positions of the electrons tell: densities, correlations."""

import abc
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Int

from .._core import AbstractFixed, Integer, whole_number
from .._crystal import Crystal, from_nearest, inner_radius, Lattice
from .._group import SpaceGroup


_UP, _DOWN = 0, 1
# Fractions with larger denominators are not those of a grid.
_LARGEST_DENOMINATOR = 24


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


class Density(AbstractObservable):
    r"""The electron density on a grid, in electrons per cubic Bohr.

    A grid point $\sum_l (i_l / n_l) a_l$ has the mean density of the region that is
    nearer to it than to other grid points. These regions tile space whatever the
    lattice: the sum over the grid times the volume of a cell over the number of points
    is the number of electrons in the cell. An operation that takes grid points to grid
    points takes regions to regions, so that a density averaged over such a group is
    invariant; see `for_group`.

    The grid is in the primitive cell, with the mean over the cells of the supercell, or
    in the supercell. The result has the shape of the grid.
    """

    crystal: Crystal
    shape: tuple[int, int, int] = eqx.field(static=True)
    spins: tuple[float, float] = eqx.field(static=True)
    supercell: bool = eqx.field(static=True)

    def __init__(
        self,
        crystal: Crystal,
        shape: Any,
        *,
        spins: tuple[float | int, float | int] = (1, 1),
        supercell: bool = False,
    ):
        """**Arguments:**

        - `crystal`: the crystal.
        - `shape`: three integers, points along each lattice vector. With 1 along a
            vector at right angles to the others, the density is the mean along it.
        - `spins`: what an electron of spin up and one of spin down count: `(1, 1)` for
            all electrons, `(1, 0)` for spin up, `(1, -1)` for the spin density.
        - `supercell`: whether the grid spans the supercell instead of the primitive
            cell.

        **Raises:** `ValueError` for a shape that is not three positive integers.
        """
        sizes = np.asarray(shape)
        whole = sizes.shape == (3,) and np.issubdtype(sizes.dtype, np.integer)
        if not whole or np.any(sizes < 1):
            raise ValueError(
                "`shape` must be three positive integers, points along the lattice "
                f"vectors, got {shape!r}."
            )
        first, second, third = sizes.tolist()
        self.crystal = crystal
        self.shape = (first, second, third)
        self.spins = (float(spins[0]), float(spins[1]))
        self.supercell = supercell

    @classmethod
    def for_group(
        cls,
        group: SpaceGroup,
        spacing: Any,
        *,
        spins: tuple[float | int, float | int] = (1, 1),
        supercell: bool = False,
    ) -> "Density":
        """A density on a grid that all operations of a group take to itself.

        **Arguments:**

        - `group`: the group, of the crystal whose density is wanted.
        - `spacing`: the longest distance between neighbouring points along a lattice
            vector, in Bohr: one number, or one for each vector. With infinity there is
            one point, if the group admits it.
        - `spins`, `supercell`: as for [`eqsym.Density`][].

        **Raises:** `ValueError` for a spacing that is not positive, and where no grid
        is taken to itself, because the group is given about a point that is no simple
        fraction of the cell.
        """
        lattice = group.crystal.supercell if supercell else group.crystal.lattice
        rotations, translations = _in_cell(group, lattice)
        distances = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
        if not np.all(distances > 0):
            raise ValueError(
                "`spacing` must be one or three positive distances in Bohr, got "
                f"{spacing!r}."
            )
        lengths = np.linalg.norm(lattice.vectors, axis=1)
        least = np.maximum(np.ceil(lengths / distances - 1e-9), 1).astype(int)
        # Vectors that some operation mixes have equally many points.
        mixed = np.sum(np.abs(rotations) > 0.5, axis=0)
        mixed = np.linalg.matrix_power(mixed + mixed.T, 4) > 0
        factors = _denominators(translations, group.tolerance / np.max(lengths))
        shape = []
        for row in mixed:
            step = int(np.lcm.reduce(factors[row]))
            shape.append(-(-int(np.max(least[row])) // step) * step)
        return cls(group.crystal, shape, spins=spins, supercell=supercell)

    @property
    def lattice(self) -> Lattice:
        """That of the cell which the grid spans."""
        return self.crystal.supercell if self.supercell else self.crystal.lattice

    @property
    def points(self) -> Float[np.ndarray, "n1 n2 n3 3"]:
        """The grid points in Bohr, (*shape, 3)."""
        axes = [np.arange(n) / n for n in self.shape]
        frac = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return self.lattice.to_cartesian(frac)

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Float[Array, "kinds points"]:
        factors = np.repeat(self.spins, self.crystal.electrons)
        factors = jnp.asarray(factors, weights.dtype)[None, None, :, None]
        values = weights[:, :, None] * factors
        values = values.reshape(-1, values.shape[-1])
        places = self._places(orbits.reshape(-1, 3))
        sums = jnp.zeros((int(np.prod(self.shape)), values.shape[-1]), values.dtype)
        return sums.at[places].add(values).T

    def result(
        self, means: Float[np.ndarray, "sets points"]
    ) -> Float[np.ndarray, "sets n1 n2 n3"]:
        cells = 1 if self.supercell else self.crystal.cells
        volume = cells * self.lattice.volume / np.prod(self.shape)
        return means.reshape(-1, *self.shape) / volume

    def _places(self, points: Float[Array, "points 3"]) -> Int[Array, " points"]:
        sizes = np.array(self.shape)
        fine = Lattice(self.lattice.vectors / sizes[:, None])
        inverse = jnp.asarray(np.linalg.inv(fine.vectors), points.dtype)
        precise = jax.lax.Precision.HIGHEST
        nearest = points - from_nearest(fine, points)
        numbers = jnp.round(jnp.matmul(nearest, inverse, precision=precise))
        wrapped = jnp.asarray(numbers, int) % jnp.asarray(sizes)[None]
        return jnp.ravel_multi_index(tuple(wrapped.T), self.shape, mode="wrap")


class FourierDensity(AbstractObservable):
    r"""Fourier components of the electron density in the primitive cell,

    $$\rho_G = \frac{1}{|\det S|} \Big\langle \sum_i e^{-i G \cdot r_i} \Big\rangle ,
    \quad \rho(r) = \frac{1}{V} \sum_G \rho_G\, e^{i G \cdot r} ,$$

    for reciprocal vectors G of the primitive lattice, whose cell has the volume V: the
    structure factors of X-ray diffraction. The result is complex, one number for each
    of `vectors`; $\rho_{-G} = \overline{\rho_G}$, and $\rho_0$ is the number of
    electrons in a primitive cell.

    **Arguments:**

    - `crystal`: the crystal.
    - `max_q`: the length of the longest G, in inverse Bohr.

    **Raises:** `ValueError` where no G but 0 is as short.
    """

    crystal: Crystal
    max_q: float = eqx.field(static=True, converter=float)

    def __check_init__(self):
        _check_vectors(self.max_q, self.vectors)

    @property
    def vectors(self) -> Float[np.ndarray, "vectors 3"]:
        """The G in inverse Bohr, one of G and -G, sorted by length, without 0."""
        return _half_of_vectors(self.crystal.lattice, self.max_q)

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Complex[Array, "kinds vectors"]:
        return _weighted_sum(_plane_waves(orbits, self.vectors), weights)

    def result(
        self, means: Complex[np.ndarray, "sets vectors"]
    ) -> Complex[np.ndarray, "sets vectors"]:
        return means / self.crystal.cells


class StructureFactor(AbstractObservable):
    r"""The static structure factor of density fluctuations,

    $$S(q) = \frac{1}{N} \big( \langle |\rho_q|^2 \rangle - |\langle \rho_q
    \rangle|^2 \big) , \quad \rho_q = \sum_i e^{-i q \cdot r_i} ,$$

    for reciprocal vectors q of the supercell: 1 for independent electrons of uniform
    density. The second term, the Bragg peaks, is what [`eqsym.FourierDensity`][] has.
    The result has one number for each of `vectors`.

    **Arguments:**

    - `crystal`: the crystal.
    - `max_q`: the length of the longest q, in inverse Bohr.

    **Raises:** `ValueError` where no q but 0 is as short.
    """

    crystal: Crystal
    max_q: float = eqx.field(static=True, converter=float)

    def __check_init__(self):
        _check_vectors(self.max_q, self.vectors)

    @property
    def vectors(self) -> Float[np.ndarray, "vectors 3"]:
        """The q in inverse Bohr, one of q and -q, sorted by length, without 0."""
        return _half_of_vectors(self.crystal.supercell, self.max_q)

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Complex[Array, "kinds moments"]:
        waves = _plane_waves(orbits, self.vectors)
        squares = _weighted_sum(jnp.abs(waves) ** 2, weights).astype(waves.dtype)
        return jnp.concatenate([_weighted_sum(waves, weights), squares], axis=1)

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
        too large, and where there are no such pairs.
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


class Polarization(AbstractObservable):
    r"""The complex polarization of the electrons,
    $z_l = \langle \exp(i b_l \cdot \sum_j r_j) \rangle$ for the three reciprocal
    vectors $b_l$ of the supercell.

    The phase of $z_l$, over $2 \pi$, is the sum of the fractional coordinates of the
    electrons along the l-th vector of the supercell, modulo 1; $|z_l|$ goes to 1 in
    large supercells of insulators and to 0 in those of metals. It is a mean over
    $|\psi|^2$ and so the same function of the wave function for all twists.

    R. Resta, Phys. Rev. Lett. 80, 1800 (1998), eq. 5; R. Resta and S. Sorella, Phys.
    Rev. Lett. 82, 370 (1999). The result is complex, (3,).
    """

    crystal: Crystal

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Complex[Array, "kinds 3"]:
        centre = jnp.sum(orbits, axis=2, keepdims=True)
        waves = _plane_waves(centre, -self.crystal.supercell.reciprocal)
        return _weighted_sum(waves, weights)

    def result(
        self, means: Complex[np.ndarray, "sets 3"]
    ) -> Complex[np.ndarray, "sets 3"]:
        return means


def _plane_waves(
    orbits: Float[Array, "walkers images electrons 3"],
    vectors: Float[np.ndarray, "vectors 3"],
) -> Complex[Array, "walkers images vectors"]:
    r"""$\sum_i e^{-i q \cdot r_i}$."""
    angles = jnp.einsum(
        "gmni,qi->gmnq",
        orbits,
        jnp.asarray(vectors, orbits.dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    real, imag = jnp.sum(jnp.cos(angles), axis=2), -jnp.sum(jnp.sin(angles), axis=2)
    return jax.lax.complex(real, imag)


def _weighted_sum(
    values: Inexact[Array, "walkers images moments"],
    weights: Float[Array, "walkers images kinds"],
) -> Inexact[Array, "kinds moments"]:
    return jnp.einsum(
        "gmk,gmq->kq",
        weights.astype(values.dtype),
        values,
        precision=jax.lax.Precision.HIGHEST,
    )


def _half_of_vectors(lattice: Lattice, max_q: float) -> Float[np.ndarray, "vectors 3"]:
    """Reciprocal vectors up to a length, one of each pair q, -q, without 0."""
    points = Lattice(lattice.reciprocal).points_within(max_q)
    numbers = np.round(points @ lattice.vectors.T / (2 * np.pi)).astype(int)
    # The last number that is not 0 is positive.
    signs = np.sign(numbers) @ [1, 3, 9]
    return points[signs > 0]


def _check_vectors(max_q: float, vectors: Float[np.ndarray, "vectors 3"]) -> None:
    if not len(vectors):
        raise ValueError(
            "`max_q` must be at least the length of the shortest reciprocal vector, "
            f"in inverse Bohr, got {max_q}."
        )


def _in_cell(
    group: SpaceGroup, lattice: Lattice
) -> tuple[Float[np.ndarray, "ops 3 3"], Float[np.ndarray, "ops 3"]]:
    """Operations on columns of fractions of the vectors of a lattice."""
    columns = lattice.vectors.T
    rotations = np.linalg.inv(columns) @ group.cart_rotations @ columns
    return rotations, lattice.to_fractional(group.cart_translations)


def _denominators(
    translations: Float[np.ndarray, "ops 3"], tolerance: float
) -> Int[np.ndarray, "3"]:
    """The least n, along each axis, with which translations become integers."""
    found = []
    for along in translations.T:
        for n in range(1, _LARGEST_DENOMINATOR + 1):
            if np.all(np.abs(along * n - np.round(along * n)) < n * tolerance + 1e-9):
                found.append(n)
                break
        else:
            raise ValueError(
                "`group` must have translations that are fractions of the lattice "
                "vectors with small denominators for a grid that it takes to itself, "
                f"got {np.round(along, 6).tolist()} along one vector. Move the origin "
                "of the crystal to a point of high symmetry, or give the `shape` of "
                "the grid: then averages over the group are invariant up to its "
                "spacing."
            )
    return np.array(found)
