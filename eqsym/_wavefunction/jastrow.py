"""A Jastrow factor with the cusps of electrons that meet."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core import (
    checked,
    Electrons,
    in_two,
    LogPsi,
    nearest_displacement,
    Numbers,
    safe_sqrt,
)
from .._crystal import check_electrons, Crystal, from_nearest, inner_radius
from .base import (
    AbstractFactor,
    AbstractMovable,
    AbstractWavefunction,
    Moved,
    one_moved,
)
from .compact import compact_lattice


class Jastrow(AbstractFactor, AbstractMovable):
    r"""A wave function with the exact cusps of electrons that meet: another one times
    $e^J$,

    $J = -\sum_{i<j} c_{ij} \frac{b_{ij}^2}{b_{ij} + r_{ij}}
    \left(1 - r_{ij}^2 / L^2\right)^3$ for $r_{ij} < L$.

    $r_{ij}$ is the distance of the nearest images in the supercell and L half its
    shortest vector, so that J has two continuous derivatives everywhere but where
    electrons meet, and any isometry of the crystal leaves it as it is. With c = 1/2 for
    electrons of different spins and 1/4 for those of the same spin, and a function that
    is smooth where electrons meet, such as [`eqsym.AttentionNet`][], local energies
    stay finite there:
    T. Kato, Commun. Pure Appl. Math. 10, 151 (1957); R. T. Pack and W. Byers Brown,
    J. Chem. Phys. 45, 556 (1966). The two ranges b are trained. The form for r << L is
    the one of von Glehn, Spencer, Pfau, arXiv 2211.13672.

    [`eqsym.Pretraining`][] fits the orbitals of the function inside, and
    [`eqsym.SymmetrizedOrbitals`][] averages them.

    - `wavefunction`: the function inside.
    - `ranges`: b for electrons of the same spin and of different spins, in Bohr; the
        modulus counts.
    """

    wavefunction: AbstractWavefunction
    ranges: Float[Array, "2"]

    @checked
    def __init__(
        self, wavefunction: AbstractWavefunction, *, ranges: Numbers = (1.0, 1.0)
    ):
        """**Arguments:**

        - `wavefunction`: any, without such a factor.
        - `ranges`: b to start from, for electrons of the same spin and of different
            spins, in Bohr.

        **Raises:** `ValueError` for ranges that are not two positive numbers, and for a
        wave function that has such a factor already.
        """
        values = np.asarray(ranges, dtype=np.float64)
        if values.shape != (2,) or not np.all((values > 0) & np.isfinite(values)):
            raise ValueError(
                "`ranges` must be two positive lengths in Bohr, for electrons of the "
                f"same spin and of different spins, got {ranges!r}."
            )
        self.wavefunction = wavefunction
        self.ranges = jnp.asarray(values, float)

    def __check_init__(self):
        def is_factor(node) -> bool:
            return isinstance(node, Jastrow)

        nodes = jax.tree.leaves(self.wavefunction, is_leaf=is_factor)
        if any(map(is_factor, nodes)):
            raise ValueError(
                "`wavefunction` has a `Jastrow` factor already: another one would "
                "double the cusps."
            )

    @property
    def crystal(self) -> Crystal:
        """The crystal of the function inside."""
        return self.wavefunction.crystal

    @property
    def crystal_momentum(self) -> Float[np.ndarray, "3"] | None:
        """The momentum of the function inside."""
        return self.wavefunction.crystal_momentum

    @checked
    def __call__(self, electrons: Electrons) -> LogPsi:
        check_electrons(sum(self.crystal.electrons), electrons)
        return self.times(self.wavefunction(electrons), electrons)

    def with_one_moved(self, electrons: Electrons) -> Moved:
        inside = one_moved(self.wavefunction, electrons)

        def at(one: Float[Array, " electrons"], place: Float[Array, "3"]) -> LogPsi:
            moved = jnp.where(one[:, None] > 0, place[None], electrons)
            return self.times(inside(one, place), moved)

        return at

    def log_factor(self, electrons: Electrons) -> Float[Array, ""]:
        """J.

        **Arguments:**

        - `electrons`: positions in Bohr, spin-up first.
        """
        n_up, n = self.crystal.electrons[0], sum(self.crystal.electrons)
        first, second = np.triu_indices(n, 1)
        if not len(first):
            return jnp.zeros((), electrons.dtype)
        alike = (first < n_up) == (second < n_up)
        supercell = compact_lattice(self.crystal.supercell)
        between = nearest_displacement(
            electrons[first],
            electrons[second],
            in_two(supercell.vectors),
            np.linalg.inv(supercell.vectors),
        )
        between = from_nearest(supercell, between)
        square = jnp.sum(between**2, axis=1)
        dtype = electrons.dtype
        same, different = jnp.abs(self.ranges.astype(dtype))
        length = jnp.where(alike, same, different)
        slope = jnp.asarray(np.where(alike, 0.25, 0.5), dtype)
        inside = jnp.maximum(1 - square / inner_radius(supercell) ** 2, 0)
        terms = slope * length**2 / (length + safe_sqrt(square)) * inside**3
        return -jnp.sum(terms)
