"""Orbitals with Bloch phases, and networks that end in them."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from .._core import (
    AbstractModule,
    checked,
    Electrons,
    full_precision,
    in_two,
    Integer,
    Key,
    LogPsi,
    nearest_displacement,
    precise_matmul,
    safe_sqrt,
    sum_of_determinants,
    whole_number,
)
from .._crystal import check_electrons, Crystal, is_whole
from .._mean_field import check_real, conjugates, has_real_orbitals, Occupation
from .base import AbstractOrbitalNetwork
from .compact import compact_lattice, DIRECTION, shortest_kpoints
from .features import AbstractFeatures, Displacement, TriFeatures
from .linear import Linear


# In Bohr. A pseudopotential is finite at its nucleus, and so the wave function has no
# cusp there: lengths are those of a displacement with this across it.
_SOFTENED = 0.5


class Orbitals(AbstractModule):
    """The orbitals that electrons of one spin can occupy, for all determinants: linear
    in the last features, with isotropic envelopes around nuclei and Bloch phases."""

    real_part: Linear
    imaginary_part: Linear | None
    weights: Float[Array, "orbitals nuclei"]
    exponents: Float[Array, "orbitals nuclei"]
    determinants: int = eqx.field(static=True)

    def __init__(
        self,
        electrons: int,
        orbitals: int,
        nuclei: int,
        *,
        width: int,
        determinants: int,
        use_imaginary: bool,
        key: Key,
    ):
        """**Arguments:**

        - `electrons`, `orbitals`: electrons, and orbitals of each matrix.
        - `nuclei`: nuclei of the primitive cell.
        - `width`: features per electron.
        - `determinants`: number of matrices.
        - `use_imaginary`: whether coefficients are complex.
        - `key`: seeds the weights.
        """
        count = determinants * orbitals
        keys = jax.random.split(key)

        def linear(key: Key) -> Linear:
            scale = width**-0.5
            return Linear(
                width, count, rows=electrons, scale=scale, use_bias=False, key=key
            )

        self.real_part = linear(keys[0])
        self.imaginary_part = linear(keys[1]) if use_imaginary else None
        self.weights = jnp.ones((count, nuclei))
        self.exponents = jnp.ones((count, nuclei))
        self.determinants = determinants

    def __call__(
        self,
        h: Float[Array, "electrons width"],
        distances: Float[Array, "electrons nuclei"],
        angles: Float[Array, "electrons orbitals"],
        real: bool,
        columns: Int[np.ndarray, " columns"] | None,
    ) -> Inexact[Array, "determinants electrons columns"]:
        """The matrices; if real, their columns are the real parts of all orbitals, or
        those that `columns` names: of the real and then the imaginary parts."""
        dtype = h.dtype
        decay = jnp.abs(self.exponents.astype(dtype))
        envelope = jnp.sum(
            self.weights.astype(dtype)[None]
            * jnp.exp(-decay[None] * distances[:, None, :]),
            axis=-1,
        )
        if self.imaginary_part is None:
            return self._split(self.real_part(h) * envelope)
        # Of one electron each: a kinetic energy multiplies them before they meet the
        # features, which depend on all electrons.
        angles = jnp.tile(angles, (1, self.determinants))
        cos, sin = envelope * jnp.cos(angles), envelope * jnp.sin(angles)
        re, im = self.real_part(h), self.imaginary_part(h)
        real_part = self._split(re * cos - im * sin)
        if real and columns is None:
            return real_part
        imaginary_part = self._split(re * sin + im * cos)
        if real:
            both = jnp.concatenate([real_part, imaginary_part], axis=-1)
            return both[..., columns]
        return jax.lax.complex(real_part, imaginary_part)

    def _split(
        self, x: Float[Array, "electrons columns"]
    ) -> Float[Array, "determinants electrons orbitals"]:
        return jnp.swapaxes(x.reshape(x.shape[0], self.determinants, -1), 0, 1)


class Columns(NamedTuple):
    """Of a matrix inside a determinant.

    - `kpoints`: of the orbitals, in inverse Bohr.
    - `spins`: whose orbitals they are, 0 for up.
    - `parts`: which real parts of all orbitals, and then imaginary parts, are the
        columns; `None` if all real parts are, or complex orbitals.
    """

    kpoints: Float[np.ndarray, "orbitals 3"]
    spins: Int[np.ndarray, " orbitals"]
    parts: Int[np.ndarray, " columns"] | None


class BlochOrbitals(AbstractModule):
    r"""The end of a network: orbitals of a crystal made of features of the electrons,
    and determinants of them over all cells of the supercell.

    With features $h_i$ of each electron, which may depend on all the others,
    $\psi = \sum_d \det \phi^d$ and
    $\phi^d_j(r_i) = (u^d_j \cdot h_i + i v^d_j \cdot h_i)
    \sum_I \pi_{Ij} e^{-|\sigma_{Ij}| s_{iI}} e^{i k_j \cdot r_i}$, with distances
    $s_{iI}$ from the nuclei of the primitive cell. If the twist is its own negative the
    Hamiltonian is real. If then every $k_j$ is its own negative too, or comes in a pair
    of k and -k of the same spin, the wave function is real: the two orbitals of a pair
    are the real and the imaginary part of one $\phi$, the others are real parts. Phases
    are of the shortest k-points, and displacements of the shortest vectors of lattice
    and supercell, so that the function is the same for every description of a crystal.
    Near nuclei with a pseudopotential distances are smooth: there is no cusp.

    [`eqsym.AbstractBlochNetwork`][] makes a wave function of it and of features.

    Li, Li, Chen, Nat. Commun. 13, 7895 (2022).
    """

    crystal: Crystal
    occupation: Occupation
    features: AbstractFeatures
    orbital_sets: tuple[Orbitals | None, Orbitals | None]
    full_determinant: bool = eqx.field(static=True)
    real: bool = eqx.field(static=True)

    @checked
    def __init__(
        self,
        crystal: Crystal,
        occupation: Occupation,
        *,
        width: Integer,
        determinants: Integer = 4,
        full_determinant: bool = True,
        features: AbstractFeatures | None = None,
        real: bool | None = None,
        key: Key,
    ):
        """**Arguments:**

        - `crystal`: where the electrons live.
        - `occupation`: the occupied k-points, of a mean field of the crystal, see
            [`eqsym.MeanField`][].
        - `width`: features of an electron.
        - `determinants`: number of determinants.
        - `full_determinant`: one determinant over both spins (`True`) or the product of
            a spin-up and a spin-down one.
        - `features`: of displacements, [`eqsym.TriFeatures`][] by default.
        - `real`: whether the wave function is real-valued; by default if twist and
            occupation allow it.
        - `key`: seeds the parameters.

        **Raises:** `ValueError` if the occupation does not fit the crystal's
        electrons, supercell or twist, no determinant is asked for, or a real
        wave function if twist or occupation do not have one; and for too few features
        of an electron: orbitals at one k-point are combinations of these, so that the
        determinants of more electrons would be zero to rounding.
        """
        for spin, (count, k) in enumerate(
            zip(crystal.electrons, occupation.cart_kpoints, strict=True)
        ):
            if k.shape[0] != count:
                raise ValueError(
                    f"`occupation` must have as many k-points as electrons, {count} of "
                    f"spin {spin}, got {k.shape[0]}. It belongs to another crystal."
                )
            inside = k @ crystal.supercell.vectors.T / (2 * np.pi) - crystal.twist
            wrong = ~is_whole(inside)
            if np.any(wrong):
                raise ValueError(
                    "`occupation` must have k-points with the twist of the crystal, "
                    f"{crystal.twist.tolist()}, modulo reciprocal vectors of its "
                    f"supercell, got {k[wrong][0].tolist()} in inverse Bohr. It is "
                    "of another crystal."
                )
        determinants = whole_number("determinants", determinants, 1)
        width = whole_number("width", width, 1)
        if real:
            check_real(crystal, occupation.cart_kpoints)
        self.crystal = crystal
        self.occupation = occupation
        self.features = TriFeatures() if features is None else features
        self.full_determinant = full_determinant
        if real is None:
            real = has_real_orbitals(crystal, occupation.cart_kpoints)
        self.real = real

        _check_width(crystal, occupation, width, full_determinant, self.real)

        at_gamma = all(not np.any(k) for k in occupation.cart_kpoints)

        def orbital_set(spin: int, key: Key) -> Orbitals | None:
            count = crystal.electrons[spin]
            if count == 0:
                return None
            return Orbitals(
                count,
                len(self.columns(spin).kpoints),
                len(crystal.species),
                width=width,
                determinants=determinants,
                use_imaginary=not (self.real and at_gamma),
                key=key,
            )

        up_key, down_key = jax.random.split(key)
        self.orbital_sets = (orbital_set(0, up_key), orbital_set(1, down_key))

    def near(self, points: Float[Array, "points 3"]) -> Displacement:
        """Displacements of points from the nuclei of the primitive cell.

        **Arguments:**

        - `points`: in Bohr.

        **Returns:**

        Distances, (points, nuclei), and vectors, (points, nuclei, size of `features`),
        as [`eqsym.AbstractFeatures`][] has them; but from nuclei with a pseudopotential
        smooth distances, which are 0.5 Bohr at the nucleus.
        """
        lattice = compact_lattice(self.crystal.lattice)
        nuclei, rest = in_two(self.crystal.cart_positions)
        to_nuclei = nearest_displacement(
            points[:, None],
            nuclei[None],
            in_two(lattice.vectors),
            np.linalg.inv(lattice.vectors),
            rest=rest[None],
        )
        near = self.features(lattice, to_nuclei)
        soft = np.array(
            [n in self.crystal.pseudopotential for n in self.crystal.species]
        )
        if not np.any(soft):
            return near
        square = near.distance**2 + jnp.asarray(soft * _SOFTENED**2, points.dtype)[None]
        return Displacement(safe_sqrt(square), near.vector)

    def pairs(
        self, points: Float[Array, "points 3"], others: Float[Array, "others 3"]
    ) -> Displacement:
        """Displacements of points from other points, modulo the supercell.

        **Arguments:**

        - `points`, `others`: in Bohr.

        **Returns:**

        Distances, (points, others), and vectors, (points, others, size of `features`).
        """
        supercell = compact_lattice(self.crystal.supercell)
        between = nearest_displacement(
            points[:, None],
            others[None],
            in_two(supercell.vectors),
            np.linalg.inv(supercell.vectors),
        )
        return self.features(supercell, between)

    @property
    def spins(self) -> tuple[slice, ...]:
        """The rows of each spin that has electrons."""
        n_up, n = self.crystal.electrons[0], sum(self.crystal.electrons)
        return tuple(s for s in (slice(0, n_up), slice(n_up, n)) if s.start < s.stop)

    def __call__(
        self,
        h: Float[Array, "electrons width"],
        distances: Float[Array, "electrons nuclei"],
        places: Electrons,
    ) -> tuple[
        Inexact[Array, "determinants up up_orbitals"],
        Inexact[Array, "determinants down down_orbitals"],
    ]:
        """The matrices inside the determinants, see
        [`eqsym.AbstractOrbitalNetwork.orbitals`][].

        **Arguments:**

        - `h`: features of the electrons.
        - `distances`: from the nuclei, of `near`.
        - `places`: at which the Bloch phases are taken, in Bohr.
        """
        n_up, n = self.crystal.electrons[0], sum(self.crystal.electrons)
        channels = (slice(0, n_up), slice(n_up, n))
        dtype = h.dtype
        empty = jnp.zeros(
            (self.determinants, 0, n if self.full_determinant else 0), dtype
        )
        if not self.real:
            empty = jax.lax.complex(empty, empty)
        blocks = [
            empty
            if orbitals is None
            else orbitals(
                h[s],
                distances[s],
                precise_matmul(places[s], jnp.asarray(columns.kpoints.T, dtype)),
                self.real,
                columns.parts,
            )
            for s, orbitals, columns in zip(
                channels, self.orbital_sets, map(self.columns, (0, 1)), strict=True
            )
        ]
        return blocks[0], blocks[1]

    def from_orbitals(
        self,
        up: Inexact[Array, "determinants up up_orbitals"],
        down: Inexact[Array, "determinants down down_orbitals"],
    ) -> LogPsi:
        """The amplitude that belongs to such matrices."""
        if self.full_determinant:
            return sum_of_determinants(jnp.concatenate([up, down], axis=1))
        return sum_of_determinants(up, down)

    @property
    def determinants(self) -> int:
        """Number of determinants."""
        up, down = self.orbital_sets
        return (up or down).determinants  # pyright: ignore[reportOptionalMemberAccess]

    @property
    def width(self) -> int:
        """Features of an electron."""
        up, down = self.orbital_sets
        return (up or down).real_part.weight.shape[1]  # pyright: ignore[reportOptionalMemberAccess]

    def columns(self, spin: int) -> "Columns":
        """Of the matrix of the spin-up (0) or spin-down (1) electrons."""
        spins = np.array([0, 1]) if self.full_determinant else np.array([spin])
        by_spin = [self.occupation.cart_kpoints[i] for i in spins]
        spins = np.repeat(spins, [len(k) for k in by_spin])
        kpoints = shortest_kpoints(self.crystal.lattice, np.concatenate(by_spin))
        here = np.arange(len(kpoints))
        partner, start = here, 0
        if self.real:
            partner = np.zeros_like(here)
            for k in by_spin:
                pairs = conjugates(self.crystal, k)
                assert pairs is not None
                partner[start : start + len(k)] = start + pairs
                start += len(k)
        # The earlier orbital of two has the phases.
        kept = np.flatnonzero(partner >= here)
        if len(kept) == len(here):
            return Columns(kpoints, spins, None)
        found = np.searchsorted(kept, np.minimum(partner, here))
        parts = found + len(kept) * (partner < here)
        return Columns(kpoints[kept], spins[kept], parts)


class AbstractBlochNetwork(AbstractOrbitalNetwork):
    """A network that ends in orbitals with Bloch phases: all that is left to write are
    features of the electrons.

    A network of your own has a field `bloch` and the method `last_features`, and is
    antisymmetric, periodic, twisted, pretrained and averaged like those of the library;
    see [Your own wave function](../your-own-wave-function.md#a-network-of-orbitals).
    """

    bloch: eqx.AbstractVar[BlochOrbitals]

    @abc.abstractmethod
    def last_features(
        self, electrons: Electrons, near: Displacement
    ) -> Float[Array, "electrons width"]:
        """What orbitals are made of.

        **Arguments:**

        - `electrons`: positions in Bohr.
        - `near`: their displacements from nuclei, of `bloch.near`.

        **Returns:**

        Features of each electron, as many as `bloch` was told. They must not change if
        an electron moves by a vector of the supercell, or all by a vector of the
        lattice; if two electrons of one spin are exchanged, so must be their features.
        """

    @property
    def crystal(self) -> Crystal:
        """Where the electrons live."""
        return self.bloch.crystal

    @property
    def occupation(self) -> Occupation:
        """The occupied k-points."""
        return self.bloch.occupation

    @property
    def full_determinant(self) -> bool:
        """Whether the orbitals of both spins form one determinant."""
        return self.bloch.full_determinant

    @property
    def real(self) -> bool:
        """Whether the wave function is real-valued."""
        return self.bloch.real

    @property
    def determinants(self) -> int:
        """Number of determinants."""
        return self.bloch.determinants

    @property
    def crystal_momentum(self) -> Float[np.ndarray, "3"]:
        """The sum of the occupied k-points, in inverse Bohr."""
        return np.sum(np.concatenate(self.occupation.cart_kpoints), axis=0)

    @checked
    def __call__(self, electrons: Electrons) -> LogPsi:
        return self.from_orbitals(*self.orbitals(electrons))

    @full_precision()
    def orbitals(
        self, electrons: Electrons, *, phases_at: Electrons | None = None
    ) -> tuple[
        Inexact[Array, "determinants up up_orbitals"],
        Inexact[Array, "determinants down down_orbitals"],
    ]:
        check_electrons(sum(self.crystal.electrons), electrons)
        near = self.bloch.near(electrons)
        h = self.last_features(electrons, near)
        expected = len(electrons), self.bloch.width
        if h.shape != expected:
            raise ValueError(
                f"`last_features` of {type(self).__name__} must return features of "
                f"each electron, as many as `bloch` was made for, {expected}, got "
                f"shape {h.shape}."
            )
        places = electrons if phases_at is None else phases_at
        return self.bloch(h, near.distance, places)

    def from_orbitals(
        self,
        up: Inexact[Array, "determinants up up_orbitals"],
        down: Inexact[Array, "determinants down down_orbitals"],
    ) -> LogPsi:
        return self.bloch.from_orbitals(up, down)


def _check_width(
    crystal: Crystal,
    occupation: Occupation,
    width: int,
    full_determinant: bool,
    real: bool,
) -> None:
    """Raises `ValueError` if determinants are zero to rounding: if envelopes are
    alike, as at the start, rows of electrons are a product with a matrix of features,
    whose rank is at most its width at each k-point, and twice that at k and -k
    together if real and imaginary parts are taken, or at a k that is both."""
    columns = [shortest_kpoints(crystal.lattice, k) for k in occupation.cart_kpoints]
    if real:
        # One of k and -k.
        opposite = [shortest_kpoints(crystal.lattice, -k) for k in columns]
        columns = [
            np.where(((k - m) @ DIRECTION > 0)[:, None], k, m)
            for k, m in zip(columns, opposite, strict=True)
        ]
    blocks = [(count, k) for count, k in zip(crystal.electrons, columns, strict=True)]
    if full_determinant:
        both = np.concatenate(columns)
        blocks = [(count, both) for count in crystal.electrons]
        blocks.append((sum(crystal.electrons), both))
    for i, (rows, kpoints) in enumerate(blocks):
        k, counts = np.unique(np.round(kpoints, 6), axis=0, return_counts=True)
        ranks = np.where(real & np.any(k != 0, axis=1), 2, 1) * (1 + (i == 2))
        if rows > np.sum(np.minimum(counts, ranks * width)):
            needed = next(
                w
                for w in range(width, rows + 1)
                if rows <= np.sum(np.minimum(counts, ranks * w))
            )
            raise ValueError(
                f"`width`, for a `SolidNet` the last of its `widths`, must be at least "
                f"{needed} features per electron, got {width}: orbitals at one k-point "
                "are combinations of these, and "
                f"determinants of {crystal.electrons[0]} spin-up and "
                f"{crystal.electrons[1]} spin-down electrons of less are zero to "
                "rounding."
            )
