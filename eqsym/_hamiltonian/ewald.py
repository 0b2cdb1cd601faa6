"""The Coulomb energy of electrons and nuclei in a periodic cell, by Ewald's sums."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int, Shaped

from .._core import (
    AbstractFixed,
    checked,
    Electrons,
    in_two,
    nearest_displacement,
    precise_matmul,
)
from .._crystal import Crystal, Lattice


# Cost of one term of the real-space sum in units of one of the reciprocal sum, measured
# on one CPU core: erfc and a division against a complex multiply-add.
_SHORT_COST = 3.0
# Truncation error of energies that are computed once, in Hartree.
_FINE = 1e-11


class Ewald(AbstractFixed):
    r"""The potential energy of one configuration, in Hartree for the whole supercell.

    Electrons (charge -1) and nuclei are one set of charges $q_i$ at $r_i$ in a cell of
    volume V, Q the sum of the charges:

    $$V(x) = \frac12 \sum_{ijL}' q_i q_j \frac{\mathrm{erfc}(\alpha |r_{ij} + L|)}
    {|r_{ij} + L|} + \frac{2\pi}{V} \sum_{G \ne 0} \frac{e^{-G^2/4\alpha^2}}{G^2}
    |S(G)|^2 - \frac{\alpha}{\sqrt\pi} \sum_i q_i^2 - \frac{\pi Q^2}{2 V \alpha^2}$$

    with $S(G) = \sum_i q_i e^{i G \cdot r_i}$; R. M. Martin, Electronic Structure
    (2004), appendix F.2, with the prefactor of the reciprocal sum corrected. The last
    term is a uniform background that makes a charged cell neutral. This is the
    convention of PySCF with `exxdiv="ewald"`: the mean of this energy (plus the kinetic
    one) over a Hartree-Fock determinant is PySCF's Hartree-Fock energy.

    The result does not depend on $\alpha$, which by default is chosen to make both sums
    together as cheap as possible for the cell and the number of electrons.
    """

    # Two parts of each, of `in_two`.
    vectors: Float[np.ndarray, "2 3 3"]
    nuclei: Float[np.ndarray, "2 nuclei 3"]
    inverse: Float[np.ndarray, "3 3"]
    images: Float[np.ndarray, "images 3"]
    charges: Float[np.ndarray, " nuclei"]
    columns: Int[np.ndarray, "2 columns"]
    weights: Float[np.ndarray, "rows columns"]
    nuclear_factor: Float[np.ndarray, "2 rows columns"]
    alpha: float
    nuclear_energy: float
    constant: float
    reach: tuple[int, int, int] = eqx.field(static=True)
    electrons: int = eqx.field(static=True)

    @checked
    def __init__(
        self, crystal: Crystal, *, alpha: float | None = None, precision: float = 1e-7
    ):
        """**Arguments:**

        - `crystal`: the crystal; its supercell is the periodic cell.
        - `alpha`: the splitting parameter in inverse Bohr, chosen if not given.
        - `precision`: largest error of truncating the sums in Hartree, for any
            configuration, also if all charges of one sign sit on one another.

        **Raises:** `ValueError` if `alpha` or `precision` is not positive.
        """
        if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(
                f"`alpha` must be a positive number in inverse Bohr, got {alpha}. "
                "Leave it out to have it chosen."
            )
        if not 0 < precision < 1:
            raise ValueError(
                "`precision` must be a small positive energy in Hartree such as 1e-7, "
                f"got {precision}."
            )
        electrons = sum(crystal.electrons)
        charges = crystal.supercell_charges.astype(np.float64)
        sums = _EwaldSums(
            crystal.supercell,
            pairs=electrons * (electrons - 1) // 2 + electrons * len(charges),
            particles=electrons,
            total_charge=electrons + float(np.sum(charges)),
            precision=precision,
            alpha=alpha,
        )
        factor = sums.structure_factor(crystal.supercell_positions, charges)
        # Background included, the energy per primitive cell is that of the supercell.
        nuclear = crystal.cells * ewald_energy(
            crystal.lattice, crystal.cart_positions, crystal.charges
        )
        # The background of all charges, less that of the nuclei alone.
        squares = crystal.charge**2 - np.sum(charges) ** 2
        # The reciprocal sum takes electrons and nuclei together: apart, they would be
        # large and cancel.
        waves = np.sum(sums.weights * np.abs(factor) ** 2)

        self.vectors = in_two(sums.vectors)
        self.nuclei = in_two(crystal.supercell_positions)
        self.inverse = np.linalg.inv(sums.vectors)
        self.images = sums.images
        self.charges = charges
        self.columns = sums.columns
        self.weights = sums.weights
        self.nuclear_factor = np.stack([np.real(factor), np.imag(factor)])
        self.alpha = sums.alpha
        self.nuclear_energy = nuclear
        self.constant = float(
            nuclear - waves + electrons * sums.self_energy + squares * sums.background
        )
        self.reach = sums.reach
        self.electrons = electrons

    @checked
    def __call__(self, electrons: Electrons) -> Float[Array, ""]:
        """The potential energy of one configuration; `jax.vmap` it over walkers.

        **Arguments:**

        - `electrons`: positions in Bohr, (electrons, 3), inside or outside of the cell.

        **Returns:**

        Electron-electron, electron-nucleus and nucleus-nucleus energy of the supercell
        in Hartree, in the dtype of `electrons`.

        **Raises:** `ValueError` if the number of electrons is not the crystal's.
        """
        if electrons.shape[0] != self.electrons:
            raise ValueError(
                f"`electrons` must have {self.electrons} rows, the number of electrons "
                f"of the crystal, got {electrons.shape[0]}."
            )
        return self._short(electrons) + self._long(electrons) + self.constant

    def _short(self, electrons: Electrons) -> Float[Array, ""]:
        """The real-space sum over pairs of electrons and of electrons with nuclei."""
        dtype = electrons.dtype
        i, j = np.triu_indices(self.electrons, 1)
        nuclei, rest = self.nuclei
        to_nuclei = nearest_displacement(
            electrons[:, None],
            nuclei[None],
            self.vectors,
            self.inverse,
            rest=rest[None],
        )
        between = nearest_displacement(
            electrons[i], electrons[j], self.vectors, self.inverse
        )
        difference = jnp.concatenate([between, to_nuclei.reshape(-1, 3)])
        product = jnp.concatenate(
            [
                jnp.ones(len(i), dtype),
                jnp.tile(-jnp.asarray(self.charges, dtype), self.electrons),
            ]
        )
        images = jnp.asarray(self.images, dtype)
        # Coordinate by coordinate and with pairs last: three times faster.
        square = sum(
            (difference[None, :, axis] + images[:, axis, None]) ** 2
            for axis in range(3)
        )
        distance = jnp.sqrt(square)
        screened = jax.lax.erfc(self.alpha * distance) / distance
        return jnp.sum(product * jnp.sum(screened, axis=0))

    def _long(self, electrons: Electrons) -> Float[Array, ""]:
        """The reciprocal sum of all charges.

        Every wave is a product of powers of the three exp(i b_l . r), which makes the
        structure factor a matrix product over electrons.
        """
        dtype = electrons.dtype
        frac = precise_matmul(electrons, jnp.asarray(self.inverse, dtype))
        frac = frac - jnp.round(frac)
        (cos1, sin1), (cos2, sin2), (cos3, sin3) = (
            _powers(frac[:, axis], self.reach[axis], both=axis > 0) for axis in range(3)
        )
        second, third = self.columns
        cos2, sin2, cos3, sin3 = cos2[second], sin2[second], cos3[third], sin3[third]
        cos23 = cos2 * cos3 - sin2 * sin3
        sin23 = cos2 * sin3 + sin2 * cos3
        rows, columns = self.weights.shape
        parts = precise_matmul(
            jnp.concatenate([cos1, sin1]), jnp.concatenate([cos23, sin23]).T
        ).reshape(2, rows, 2, columns)
        nuclear_real, nuclear_imag = jnp.asarray(self.nuclear_factor, dtype)
        real = parts[0, :, 0] - parts[1, :, 1] - nuclear_real
        imag = parts[0, :, 1] + parts[1, :, 0] - nuclear_imag
        return jnp.sum(jnp.asarray(self.weights, dtype) * (real**2 + imag**2))


def _powers(
    frac: Float[Array, " electrons"], reach: int, *, both: bool
) -> tuple[Float[Array, "powers electrons"], Float[Array, "powers electrons"]]:
    """Real and imaginary part of `exp(2 pi i n frac)`, n from 0 (from `-reach` if
    `both`) to `reach`."""
    numbers = jnp.arange(reach + 1, dtype=frac.dtype)
    angle = (2 * math.pi) * frac[None] * numbers[:, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if not both:
        return cos, sin
    return (
        jnp.concatenate([cos[:0:-1], cos]),
        jnp.concatenate([-sin[:0:-1], sin]),
    )


def ewald_energy(
    lattice: Lattice,
    positions: Float[np.ndarray, "particles 3"],
    charges: Shaped[np.ndarray, " particles"],
    *,
    alpha: float | None = None,
    precision: float = _FINE,
) -> float:
    """The Coulomb energy of point charges in a periodic cell, in NumPy and float64.

    The formula of [`eqsym.Ewald`][], background of charged cells included.

    **Arguments:**

    - `lattice`: the periodic cell.
    - `positions`: positions in Bohr.
    - `charges`: charges in units of the proton's.
    - `alpha`: the splitting parameter in inverse Bohr, chosen if not given.
    - `precision`: largest error of truncating the sums in Hartree.

    **Returns:**

    The energy of one cell in Hartree.
    """
    positions = np.asarray(positions, np.float64)
    charges = np.asarray(charges, np.float64)
    i, j = np.triu_indices(len(charges), 1)
    sums = _EwaldSums(
        lattice,
        pairs=len(i),
        particles=len(charges),
        total_charge=float(np.sum(np.abs(charges))),
        precision=precision,
        alpha=alpha,
    )
    difference = positions[i] - positions[j]
    turns = np.round(difference @ np.linalg.inv(sums.vectors))
    difference = difference - turns @ sums.vectors
    distance = np.linalg.norm(difference[:, None] + sums.images, axis=-1)
    short = charges[i] * charges[j] @ np.sum(_screened(distance, sums.alpha), axis=-1)
    long = np.sum(sums.weights * abs(sums.structure_factor(positions, charges)) ** 2)
    own = np.sum(charges**2) * sums.self_energy
    return float(short + long + own + np.sum(charges) ** 2 * sums.background)


class _EwaldSums:
    """Which terms of both sums are needed, for a cell, a set of charges and a largest
    error; plain arrays of float64."""

    alpha: float
    vectors: Float[np.ndarray, "3 3"]
    images: Float[np.ndarray, "images 3"]
    reach: tuple[int, int, int]
    columns: Int[np.ndarray, "2 columns"]
    waves: Float[np.ndarray, "rows columns 3"]
    weights: Float[np.ndarray, "rows columns"]
    self_energy: float
    background: float

    def __init__(
        self,
        lattice: Lattice,
        *,
        pairs: int,
        particles: int,
        total_charge: float,
        precision: float,
        alpha: float | None,
    ):
        cell = Lattice(lattice.reduced().vectors[::-1])
        if alpha is None:
            middle = math.sqrt(math.pi) / cell.volume ** (1 / 3)
            candidates = middle * np.geomspace(1 / 3, 5, 28)
        else:
            candidates = np.array([alpha])
        error = precision / max(total_charge, 1.0) ** 2
        short, long = _cutoffs(cell, candidates, error)

        images = _grid(cell.heights, np.max(short) + np.sum(_lengths(cell.vectors)))
        images = cell.to_cartesian(images)
        near = distance_to_wrapped(images, cell.vectors)
        # Axis 0 is the one whose multiples are most, so that columns are few.
        numbers = _grid(Lattice(cell.reciprocal).heights, np.max(long))
        waves = numbers @ cell.reciprocal
        length = _lengths(waves)
        cost = [
            _SHORT_COST * pairs * np.sum(near <= r)
            + particles * np.sum(length <= g) / 2
            for r, g in zip(short, long, strict=True)
        ]
        best = int(np.argmin(cost))
        self.alpha = float(candidates[best])
        self.vectors = cell.vectors
        images = images[near <= short[best]]
        self.images = images[np.argsort(_lengths(images), kind="stable")]

        numbers = numbers[(length <= long[best]) & (numbers[:, 0] >= 0)].astype(int)
        n1, n2, n3 = (int(n) for n in np.max(np.abs(numbers), axis=0))
        self.reach = (n1, n2, n3)
        columns = np.unique(numbers[:, 1:], axis=0)
        rows = np.arange(self.reach[0] + 1)
        grid = np.concatenate(
            [
                np.broadcast_to(rows[:, None, None], (len(rows), len(columns), 1)),
                np.broadcast_to(columns[None], (len(rows), len(columns), 2)),
            ],
            axis=-1,
        )
        self.columns = (columns + np.array(self.reach[1:])).T
        self.waves = grid @ cell.reciprocal
        square = np.sum(self.waves**2, axis=-1)
        # One of G and -G, counted twice.
        kept = (square <= long[best] ** 2) & (
            (grid[..., 0] > 0)
            | (grid[..., 1] > 0)
            | ((grid[..., 1] == 0) & (grid[..., 2] > 0))
        )
        square = np.where(kept, square, 1.0)
        weights = 4 * np.pi / cell.volume * np.exp(-square / (4 * self.alpha**2))
        self.weights = np.where(kept, weights / square, 0.0)

        self.self_energy = float(
            np.sum(_screened(_lengths(self.images[1:]), self.alpha)) / 2
            - self.alpha / math.sqrt(math.pi)
        )
        self.background = -math.pi / (2 * cell.volume * self.alpha**2)

    def structure_factor(
        self,
        positions: Float[np.ndarray, "particles 3"],
        charges: Float[np.ndarray, " particles"],
    ) -> Shaped[np.ndarray, "rows columns"]:
        """`sum_i q_i exp(i G . r_i)`, complex."""
        total = np.zeros(self.weights.shape, np.complex128)
        for position, charge in zip(positions, charges, strict=True):
            total += charge * np.exp(1j * (self.waves @ position))
        return total


def _screened(
    distance: Float[np.ndarray, "..."], alpha: float
) -> Float[np.ndarray, "..."]:
    return scipy.special.erfc(alpha * distance) / distance


def _lengths(vectors: Float[np.ndarray, "many 3"]) -> Float[np.ndarray, " many"]:
    return np.linalg.norm(vectors, axis=-1)


def _point_density(
    vectors: Float[np.ndarray, "3 3"], radius: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Estimate of the number of lattice points per unit of distance from a point.

    The sum of those for the chain, the layer and the crystal that the shortest one, two
    and three vectors span: in a cell with vacuum, one of the former dominates.
    """
    basis = vectors[np.argsort(_lengths(vectors), kind="stable")]
    area = np.linalg.norm(np.cross(basis[0], basis[1]))
    volume = abs(np.linalg.det(basis))
    return (
        2 / np.linalg.norm(basis[0])
        + 2 * np.pi * radius / area
        + 4 * np.pi * radius**2 / volume
    )


def _cutoffs(
    cell: Lattice, alpha: Float[np.ndarray, " alphas"], error: float
) -> tuple[Float[np.ndarray, " alphas"], Float[np.ndarray, " alphas"]]:
    r"""Cut-off radii of both sums, each truncated by at most about `error` per product
    of two charges.

    With $c = \alpha R$, $k = G_c/2\alpha$ and n(r) the density of lattice points over
    distance, by $\mathrm{erfc}(x) \le e^{-x^2}/(x\sqrt\pi)$ the tails are at most

    $$\int_R^\infty n(r) \frac{\mathrm{erfc}(\alpha r)}{r} dr \le
    \frac{n(R) e^{-c^2}}{2\sqrt\pi c^3}, \qquad
    \int_{G_c}^\infty n(G) \frac{4\pi e^{-G^2/4\alpha^2}}{V G^2} dG \le
    \frac{n(G_c)}{G_c^2} \frac{4\pi\alpha}{V k} e^{-k^2},$$

    to each of which the one term that the discrete sum may have just outside is added.
    """
    scale = np.arange(1.0, 12.0, 0.02)[:, None]
    decay = np.exp(-(scale**2))
    radius = scale / alpha
    density = _point_density(cell.vectors, radius) + 2 * alpha * scale
    short = density * decay / (2 * math.sqrt(math.pi) * scale**3)
    wave = 2 * alpha * scale
    density = _point_density(cell.reciprocal, wave) + 2 * scale / alpha
    long = density / wave**2 * 4 * np.pi * alpha / (cell.volume * scale) * decay
    first = np.argmax(short < error, axis=0), np.argmax(long < error, axis=0)
    each = np.arange(len(alpha))
    return radius[first[0], each], wave[first[1], each]


def _grid(
    heights: Float[np.ndarray, "3"], radius: float
) -> Float[np.ndarray, "points 3"]:
    """Integer multiples of the vectors of a cell that reach all of a ball."""
    reach = [int(radius / height) + 1 for height in heights]
    axes = np.meshgrid(*(np.arange(-n, n + 1.0) for n in reach), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


def distance_to_wrapped(
    points: Float[np.ndarray, "points 3"], vectors: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " points"]:
    """Distances of points from the cell around the origin, all `f @ vectors` with f in
    [-1/2, 1/2]^3.

    The nearest point of the cell has each fraction free or at one of its bounds. Of the
    27 cases, those whose solution is inside of the bounds contain it.
    """
    nearest = np.full(len(points), np.inf)
    for case in itertools.product((-0.5, 0.5, None), repeat=3):
        free = [axis for axis, bound in enumerate(case) if bound is None]
        bound = np.array([0.0 if b is None else b for b in case]) @ vectors
        rest = points - bound
        if free:
            span = vectors[free]
            frac = rest @ np.linalg.pinv(span)
            rest = rest - frac @ span
            inside = np.all(np.abs(frac) <= 0.5 + 1e-9, axis=1)
        else:
            inside = np.ones(len(points), bool)
        nearest = np.minimum(nearest, np.where(inside, _lengths(rest), np.inf))
    return nearest
