"""Densities of the electrons, on a grid and in Fourier components."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from .._core import checked, Numbers, precise_matmul
from .._crystal import Crystal, from_nearest, Lattice
from .._group import SpaceGroup
from .observables import (
    AbstractObservable,
    check_vectors,
    half_of_vectors,
    plane_waves,
    weighted_sum,
)


# Fractions with larger denominators do not belong to a grid.
_LARGEST_DENOMINATOR = 24


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

    @checked
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
        - `spins`: how much an electron of spin up counts, and one of spin down:
            `(1, 1)` for all electrons, `(1, 0)` for spin up, `(1, -1)` for the spin
            density.
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
    @checked
    def for_group(
        cls,
        group: SpaceGroup,
        spacing: Numbers,
        *,
        spins: tuple[float | int, float | int] = (1, 1),
        supercell: bool = False,
    ) -> "Density":
        """A density on a grid that all operations of a group take to itself.

        **Arguments:**

        - `group`: the group, of the crystal whose density is wanted.
        - `spacing`: the longest distance between neighboring points along a lattice
            vector, in Bohr: one number, or one for each vector. With infinity there is
            one point, if the group admits it.
        - `spins`, `supercell`: as for [`eqsym.Density`][].

        **Raises:** `ValueError` for a spacing that is not positive, and if no grid is
        taken to itself, because the group is given about a point that is not a simple
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
        """Of the cell that the grid spans."""
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
        nearest = points - from_nearest(fine, points)
        numbers = jnp.round(precise_matmul(nearest, inverse))
        wrapped = jnp.asarray(numbers, int) % jnp.asarray(sizes)[None]
        return jnp.ravel_multi_index(tuple(wrapped.T), self.shape, mode="wrap")


@checked
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

    **Raises:** `ValueError` if no G but 0 is as short.
    """

    crystal: Crystal
    max_q: float = eqx.field(static=True, converter=float)

    def __check_init__(self):
        check_vectors(self.max_q, self.vectors)

    @property
    def vectors(self) -> Float[np.ndarray, "vectors 3"]:
        """The G in inverse Bohr, one of G and -G, sorted by length, without 0."""
        return half_of_vectors(self.crystal.lattice, self.max_q)

    def total(
        self,
        orbits: Float[Array, "walkers images electrons 3"],
        weights: Float[Array, "walkers images kinds"],
    ) -> Complex[Array, "kinds vectors"]:
        return weighted_sum(plane_waves(orbits, self.vectors), weights)

    def result(
        self, means: Complex[np.ndarray, "sets vectors"]
    ) -> Complex[np.ndarray, "sets vectors"]:
        return means / self.crystal.cells


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
