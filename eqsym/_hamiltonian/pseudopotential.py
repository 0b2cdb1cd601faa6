"""The energy of effective core potentials."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, Int

from .._core import (
    AbstractFixed,
    AbstractModule,
    checked,
    Electrons,
    full_precision,
    in_two,
    Key,
    LogPsi,
    nearest_displacement,
)
from .._crystal import Crystal, EffectiveCorePotential
from .._wavefunction import AbstractWavefunction, one_moved
from .ewald import distance_to_wrapped
from .quadrature import random_rotation, SphericalQuadrature


# In Hartree: local terms are smaller than this where they are left out.
_FINE = 1e-9
# At how many radii potentials are tried, up to where the widest term is exp(-60).
_TRIED, _LAST = 1500, 60.0


class Pseudopotential(AbstractFixed):
    r"""The energy of the effective core potentials of a crystal in a wave function, in
    Hartree for the whole supercell:

    $$\frac{V \psi}{\psi} = \sum_{iI} \Big[ V^I_\mathrm{loc}(r_{iI}) + \sum_l
    V^I_l(r_{iI}) \frac{2l+1}{4\pi} \int P_l(\cos\theta)\,
    \frac{\psi(.., R_I + r_{iI}\, \omega, ..)}{\psi(.., r_i, ..)}\, d\Omega \Big]$$

    over electrons i and nuclei I with all their periodic images, $r_{iI} = |r_i - R_I|$
    and $\theta$ the angle between $\omega$ and $r_i - R_I$. The integral is a
    [`eqsym.SphericalQuadrature`][]. An electron that is moved stays in its image of the
    cell, so that the phases of a twist come out right. As images are summed, spheres
    around nuclei may overlap.

    L. Mitas, E. L. Shirley and D. M. Ceperley, J. Chem. Phys. 95, 3467 (1991). The
    Coulomb energy of the charges that are left is in [`eqsym.Ewald`][].
    """

    crystal: Crystal
    quadrature: SphericalQuadrature
    elements: tuple["_Element", ...]
    vectors: Float[np.ndarray, "2 3 3"]
    inverse: Float[np.ndarray, "3 3"]
    groups: int = eqx.field(static=True)
    amplitudes: int = eqx.field(static=True)

    @checked
    def __init__(self, crystal: Crystal, quadrature: SphericalQuadrature | None = None):
        """**Arguments:**

        - `crystal`: the crystal.
        - `quadrature`: for the angular integrals, 12 points turned at random by
            default.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        self.crystal = crystal
        self.quadrature = SphericalQuadrature() if quadrature is None else quadrature
        cell = crystal.supercell.reduced()
        self.elements = tuple(
            _Element(crystal, potential, self.quadrature.cutoff)
            for potential in crystal.pseudopotential.values()
        )
        self.vectors = in_two(cell.vectors)
        self.inverse = np.linalg.inv(cell.vectors)
        most = sum(crystal.electrons) * _overlapping(crystal, self.elements)
        points, wanted = self.quadrature.points, self.quadrature.amplitudes
        if not self.quadrature.random:
            # All pairs that there can be, one after the other.
            self.groups, self.amplitudes = most, points
        else:
            if wanted is None:
                wanted = points + 2 * sum(crystal.electrons)
            self.groups = int(most > 0)
            self.amplitudes = min(wanted, points * most)

    @property
    def needs_key(self) -> bool:
        """Whether energies are random: points are, and there are nonlocal terms."""
        return self.quadrature.random and self.groups > 0

    @checked
    @full_precision()
    def __call__(
        self,
        wavefunction: AbstractWavefunction,
        electrons: Electrons,
        *,
        key: Key | None = None,
    ) -> Inexact[Array, ""]:
        """The energy at one configuration; `jax.vmap` it over walkers and keys.

        **Arguments:**

        - `wavefunction`: the wave function.
        - `electrons`: positions in Bohr, (electrons, 3), inside or outside of the cell.
        - `key`: turns the points, unless they are fixed.

        **Returns:**

        The energy, complex if the wave function is.

        **Raises:** `ValueError` without a key that is needed.
        """
        if key is None and self.needs_key:
            raise ValueError(
                "`key` must be a key of `jax.random`, another one for each walker: the "
                "points of the quadrature are turned at random. Or fix them, "
                "`eqs.Hamiltonian(crystal, quadrature=eqs.SphericalQuadrature(26, "
                "random=False))`."
            )
        psi = wavefunction(electrons)
        dtype = electrons.dtype
        energy = jnp.zeros((), dtype)
        pairs = []
        for element in self.elements:
            near = nearest_displacement(
                electrons[:, None],
                element.nuclei[0][None],
                self.vectors,
                self.inverse,
                rest=element.nuclei[1][None],
            )
            energy += element.local_energy(near)
            pairs.append(element.pairs(near))
        if self.groups > 0:
            found = jax.tree.map(lambda *x: jnp.concatenate(x), *pairs)
            nonlocal_energy = self._nonlocal(wavefunction, psi, electrons, found, key)
            energy = energy.astype(nonlocal_energy.dtype) + nonlocal_energy
        elif not psi.is_real:
            energy = jax.lax.complex(energy, jnp.zeros_like(energy))
        return energy

    def _nonlocal(
        self,
        wavefunction: AbstractWavefunction,
        psi: LogPsi,
        electrons: Electrons,
        pairs: "_Pairs",
        key: Key | None,
    ) -> Inexact[Array, ""]:
        dtype, points = electrons.dtype, self.quadrature.points
        size = jnp.max(jnp.abs(pairs.potentials), axis=1)
        directions = jnp.asarray(self.quadrature.directions, dtype)
        if key is None:
            values, largest = jax.lax.top_k(size, self.groups)
            chosen, point = jnp.repeat(largest, points), jnp.arange(points)
            point = jnp.tile(point, self.groups)
            weights = jnp.repeat((values > 0).astype(dtype), points)
            turned = directions[point]
        else:
            draw, turn = jax.random.split(key)
            chosen, point, weights = _drawn(size, points, self.amplitudes, draw)
            # The same rotation for all points of a pair.
            keys = jax.vmap(lambda pair: jax.random.fold_in(turn, pair))(chosen)
            rotations = jax.vmap(lambda k: random_rotation(k, dtype))(keys)
            turned = jnp.einsum("mij,mj->mi", rotations, directions[point])
        vectors = pairs.vectors[chosen]
        radii = jnp.sqrt(jnp.sum(vectors**2, axis=1))
        cosines = jnp.sum(vectors * turned, axis=1) / radii
        angular = _legendre(cosines, pairs.potentials.shape[1])
        factors = jnp.sum(pairs.potentials[chosen] * angular, axis=1) * weights
        factors *= jnp.asarray(self.quadrature.weights, dtype)[point]
        used = weights > 0
        steps = jnp.where(used[:, None], radii[:, None] * turned - vectors, 0.0)
        shape = (self.groups, self.amplitudes)
        ratios = _ratios(
            wavefunction,
            psi,
            electrons,
            pairs.electrons[chosen].reshape(shape),
            steps.reshape(*shape, 3),
        ).reshape(-1)
        return jnp.sum(jnp.where(used, factors.astype(ratios.dtype) * ratios, 0.0))


class _Pairs(AbstractModule):
    """Electrons and nuclei with nonlocal terms, images of them included.

    - `electrons`: the index of the electron.
    - `vectors`: from the nucleus to the electron, in Bohr.
    - `potentials`: $(2l + 1) V_l$ for l = 0, 1, ... in Hartree, 0 beyond the reach.
    """

    electrons: Int[Array, " pairs"]
    vectors: Float[Array, "pairs 3"]
    potentials: Float[Array, "pairs momenta"]


class _Radial(AbstractFixed):
    """A sum of terms c r^(n-2) exp(-a r^2)."""

    powers: tuple[int, ...] = eqx.field(static=True)
    exponents: tuple[float, ...] = eqx.field(static=True)
    coefficients: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, potential: EffectiveCorePotential, l: int):
        rows = [row for row in potential.terms if row[0] == l]
        self.powers = tuple(n - 2 for _, n, _, _ in rows)
        self.exponents = tuple(a for _, _, a, _ in rows)
        self.coefficients = tuple(c for _, _, _, c in rows)

    def __call__(self, r: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        total = jnp.zeros_like(r)
        for n, a, c in zip(self.powers, self.exponents, self.coefficients, strict=True):
            total += c * r**n * jnp.exp(-a * r * r)
        return total

    def reach(self, bound: float) -> float:
        """The radius in Bohr beyond which the absolute value is below a bound, 0 if it
        is everywhere."""
        if not self.powers:
            return 0.0
        step = np.sqrt(_LAST / min(self.exponents)) / _TRIED
        radii = step * np.arange(1, _TRIED)
        total = np.zeros_like(radii)
        for n, a, c in zip(self.powers, self.exponents, self.coefficients, strict=True):
            total += c * radii**n * np.exp(-a * radii**2)
        above = np.flatnonzero(np.abs(total) >= bound)
        return float(radii[above[-1]] + step) if len(above) else 0.0


class _Element(AbstractFixed):
    """The nuclei of one element in the supercell, and the radial functions of their
    potential."""

    # Two parts, of `in_two`.
    nuclei: Float[np.ndarray, "2 nuclei 3"]
    local: _Radial
    momenta: tuple[_Radial, ...]
    local_images: Float[np.ndarray, "local_images 3"]
    images: Float[np.ndarray, "images 3"]
    reach: float
    channels: int = eqx.field(static=True)

    def __init__(
        self, crystal: Crystal, potential: EffectiveCorePotential, cutoff: float
    ):
        own = np.array(crystal.species) == potential.element
        here = np.tile(own, crystal.cells)
        self.nuclei = in_two(crystal.supercell_positions[here])
        self.local = _Radial(potential, -1)
        highest = max(l for l, *_ in potential.terms) if potential.terms else -1
        self.momenta = tuple(_Radial(potential, l) for l in range(highest + 1))
        self.reach = max(
            (r.reach(cutoff / (2 * l + 1)) for l, r in enumerate(self.momenta)),
            default=0.0,
        )
        cell = crystal.supercell.reduced()
        self.local_images = _images(cell, self.local.reach(_FINE))
        self.images = _images(cell, self.reach)
        # As many as any element has, so that pairs of all fit together.
        self.channels = 1 + max(
            (l for one in crystal.pseudopotential.values() for l, *_ in one.terms),
            default=-1,
        )

    def local_energy(
        self, near: Float[Array, "electrons nuclei 3"]
    ) -> Float[Array, ""]:
        return jnp.sum(self.local(_lengths(_shifted(near, self.local_images))))

    def pairs(self, near: Float[Array, "electrons nuclei 3"]) -> _Pairs:
        vectors = _shifted(near, self.images if self.reach > 0 else self.images[:0])
        electrons, rest = vectors.shape[0], vectors.shape[1] * vectors.shape[2]
        vectors = vectors.reshape(-1, 3)
        r = _lengths(vectors)
        inside = r < self.reach
        # Far away nothing may overflow.
        r = jnp.where(inside, r, self.reach)
        values = [(2 * l + 1) * radial(r) for l, radial in enumerate(self.momenta)]
        values += [jnp.zeros_like(r)] * (self.channels - len(values))
        potentials = jnp.stack(values, axis=1) if values else jnp.zeros((len(r), 0))
        return _Pairs(
            jnp.asarray(np.repeat(np.arange(electrons), rest)),
            vectors,
            jnp.where(inside[:, None], potentials, 0.0),
        )


def _shifted(
    near: Float[Array, "electrons nuclei 3"], images: Float[ArrayLike, "images 3"]
) -> Float[Array, "electrons nuclei images 3"]:
    return near[:, :, None] + jnp.asarray(images, near.dtype)[None, None]


def _lengths(vectors: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
    return jnp.sqrt(jnp.sum(vectors**2, axis=-1))


def _images(cell, reach: float) -> Float[np.ndarray, "images 3"]:
    """Lattice vectors by which a vector of the cell around the origin may become
    shorter than `reach`."""
    corner = float(np.sum(np.linalg.norm(cell.vectors, axis=1))) / 2
    points = cell.points_within(reach + corner)
    return points[distance_to_wrapped(points, cell.vectors) <= reach]


def _overlapping(crystal: Crystal, elements: tuple[_Element, ...]) -> int:
    """At most so many spheres of nonlocal terms have a point in common."""
    lattice = crystal.lattice
    reaches = {
        symbol: element.reach
        for symbol, element in zip(crystal.pseudopotential, elements, strict=True)
    }
    reach = np.array([reaches.get(symbol, 0.0) for symbol in crystal.species])
    if not np.any(reach > 0):
        return 0
    places = lattice.wrap(crystal.cart_positions)
    size = float(np.sum(np.linalg.norm(lattice.vectors, axis=1)))
    shifts = lattice.points_within(2 * float(np.max(reach)) + size)
    most = 0
    for here, radius in zip(places, reach, strict=True):
        if radius > 0:
            far = np.linalg.norm(places[None] + shifts[:, None] - here, axis=-1)
            most = max(most, int(np.sum((far < radius + reach) & (reach > 0))))
    return most


def _legendre(x: Float[Array, "*batch"], count: int) -> Float[Array, "*batch {count}"]:
    """The first Legendre polynomials."""
    found = [jnp.ones_like(x), x]
    for l in range(1, count):
        found.append(((2 * l + 1) * x * found[l] - l * found[l - 1]) / (l + 1))
    return jnp.stack(found[:count], axis=-1)


def _ratios(
    wavefunction: AbstractWavefunction,
    psi: LogPsi,
    electrons: Electrons,
    moved: Int[Array, "groups points"],
    steps: Float[Array, "groups points 3"],
) -> Inexact[Array, "groups points"]:
    """Amplitudes with one electron moved by each step, over the amplitude without, one
    group after the other."""
    at = one_moved(wavefunction, electrons)
    rows = jax.nn.one_hot(moved, electrons.shape[0], dtype=electrons.dtype)

    def of_group(args):
        found = jax.vmap(at)(*args)
        sizes = jnp.exp(found.log - psi.log).astype(found.sign.dtype)
        return sizes * found.sign * jnp.conj(psi.sign)

    return jax.lax.map(of_group, (rows, electrons[moved] + steps))


def _drawn(
    size: Float[Array, " pairs"], points: int, count: int, key: Key
) -> tuple[Int[Array, " {count}"], Int[Array, " {count}"], Float[Array, " {count}"]]:
    r"""Draws pairs, each with one of its points, without replacement, and weights so
    that weighted sums have the mean of the sum over all points of all pairs: all pairs
    of a size that is not 0 if `count` is enough, with weights 1.

    Else a point of pair p is drawn with probability $\min(1, c\, s_p)$, the sum of
    which is `count`, by systematic sampling, and weighted with the inverse (Horvitz and
    Thompson, J. Am. Stat. Assoc. 47, 663 (1952)).
    """
    certain = min(count // points, len(size))
    padded = jnp.concatenate([size, jnp.zeros(1, size.dtype)])
    largest, _ = jax.lax.top_k(padded, certain + 1)
    # With the k largest ones certain, the factor c of the others.
    rest = jnp.sum(jnp.where(size[None] <= largest[:, None], size[None], 0.0), axis=1)
    left = count / points - jnp.arange(certain + 1, dtype=size.dtype)
    factors = left / jnp.where(rest > 0, rest, 1.0)
    # The last one does, but for rounding.
    fits = factors * largest <= 1 + 1e-6
    few = largest[-1] <= 0
    chances = jnp.where(few, 1.0, jnp.minimum(1.0, factors[jnp.argmax(fits)] * size))
    chances = jnp.where(size > 0, chances, 0.0)
    # Of numbers u, u + 1, ..., each takes the point in whose part of the sum it falls.
    ends = jnp.cumsum(points * chances)
    start = jnp.where(few, 0.5, jax.random.uniform(key, (), size.dtype))
    marks = start + jnp.arange(count, dtype=size.dtype)
    chosen = jnp.sum(ends[None] <= marks[:, None], axis=1)
    valid = chosen < len(size)
    chosen = jnp.minimum(chosen, len(size) - 1)
    chance = jnp.where(valid, chances[chosen], 1.0)
    inside = marks - (ends - points * chances)[chosen]
    point = jnp.clip(jnp.floor(inside / chance), 0, points - 1).astype(int)
    return chosen, point, jnp.where(valid, 1 / chance, 0.0)
