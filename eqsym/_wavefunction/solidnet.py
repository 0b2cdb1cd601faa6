"""SolidNet: a FermiNet-like wave function for crystals."""

from collections.abc import Sequence

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
    sum_of_determinants,
    whole_number,
)
from .._crystal import check_electrons, Crystal, is_whole
from .._mean_field import check_real, conjugates, has_real_orbitals, Occupation
from .base import AbstractMovable, AbstractOrbitalNetwork, Moved
from .compact import compact, DIRECTION, shortest_kpoints
from .features import AbstractFeatures, Displacement, TriFeatures
from .linear import Linear, residual, shares_of_spins
from .moved import network_with_one_moved


class Layer(AbstractModule):
    """One interaction layer: every electron sees itself, the mean of each spin channel
    and the mean of its pairs with each spin channel."""

    own: Linear
    shared: Linear
    paired: Linear
    pair: Linear | None

    def __init__(
        self,
        electrons: tuple[int, int],
        inputs: tuple[int, int],
        widths: tuple[int, int],
        *,
        last: bool,
        key: Key,
    ):
        """**Arguments:**

        - `electrons`: spin-up and spin-down electrons.
        - `inputs`, `widths`: features per electron and per pair, before and after.
        - `last`: the last layer leaves the pairs alone.
        - `key`: seeds the weights.
        """
        n = sum(electrons)
        channels = sum(count > 0 for count in electrons)
        own, pair = inputs
        fan_in = own + channels * (own + pair)
        keys = jax.random.split(key, 4)

        def linear(key: Key, rows: int, inputs: int, use_bias: bool) -> Linear:
            scale = fan_in**-0.5
            return Linear(
                inputs, widths[0], rows=rows, scale=scale, use_bias=use_bias, key=key
            )

        self.own = linear(keys[0], n, own, True)
        self.shared = linear(keys[1], 1, channels * own, False)
        self.paired = linear(keys[2], n, channels * pair, False)
        self.pair = (
            None
            if last
            else Linear(
                pair,
                widths[1],
                rows=n * n,
                scale=pair**-0.5,
                use_bias=True,
                key=keys[3],
            )
        )

    def __call__(
        self,
        h: Float[Array, "electrons own"],
        g: Float[Array, "electrons electrons pair"],
        spins: tuple[slice, ...],
    ) -> tuple[Float[Array, "electrons out"], Float[Array, "electrons electrons _"]]:
        h = self.update(h, _means(g, spins), spins)
        if self.pair is not None:
            n = g.shape[0]
            update = jnp.tanh(self.pair(g.reshape(n * n, -1)))
            g = residual(g, update.reshape(n, n, -1))
        return h, g

    def update(
        self,
        h: Float[Array, "electrons own"],
        pairs: Float[Array, "electrons _"],
        spins: tuple[slice, ...],
    ) -> Float[Array, "electrons out"]:
        """The features per electron, from these and the means of their pairs."""
        means = _means(h[None], spins)[0]
        update = self.own(h) + self.shared(means[None]) + self.paired(pairs)
        return residual(h, jnp.tanh(update))


def _means(
    rows: Float[Array, "groups electrons features"], spins: tuple[slice, ...]
) -> Float[Array, "groups _"]:
    """Over each spin channel, the channels one after the other."""
    groups, n, _ = rows.shape
    weights = shares_of_spins(n, spins)
    # One product: a network is compiled by the number of its operations, and sums along
    # an axis in the middle are slow on CPUs.
    means = jnp.einsum("gef,es->gsf", rows, jnp.asarray(weights, rows.dtype))
    return means.reshape(groups, -1)


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


class SolidNet(AbstractOrbitalNetwork, AbstractMovable):
    r"""A neural wave function for crystals: FermiNet with periodic features, Bloch
    phases and determinants over all cells of the supercell.

    $\psi = \sum_d \det \phi^d$ with
    $\phi^d_j(r_i) = (u^d_j \cdot h_i + i v^d_j \cdot h_i)
    \sum_I \pi_{Ij} e^{-|\sigma_{Ij}| s_{iI}} e^{i k_j \cdot r_i}$. If the twist is its
    own negative the Hamiltonian is real. If then every $k_j$ is its own negative too,
    or comes in a pair of k and -k of the same spin, the wave function is real: the two
    orbitals of a pair are the real and the imaginary part of one $\phi$, the others
    are real parts. A simultaneous translation of all electrons by a primitive lattice
    vector t multiplies $\psi$ by $e^{i K \cdot t}$, $K = \sum_j k_j$. Features are of
    the shortest vectors of lattice and supercell, and phases of the shortest k-points,
    so that the function is the same for every description of a crystal.

    Li, Li, Chen, Nat. Commun. 13, 7895 (2022); Pfau et al., Phys. Rev. Research 2,
    033429 (2020).
    """

    crystal: Crystal
    occupation: Occupation
    features: AbstractFeatures
    layers: tuple[Layer, ...]
    orbital_sets: tuple[Orbitals | None, Orbitals | None]
    full_determinant: bool = eqx.field(static=True)
    real: bool = eqx.field(static=True)

    @checked
    def __init__(
        self,
        crystal: Crystal,
        occupation: Occupation,
        *,
        widths: Sequence[tuple[Integer, Integer]] = ((64, 16),) * 3,
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
        - `widths`: for every layer the features per electron and per pair.
        - `determinants`: number of determinants.
        - `full_determinant`: one determinant over both spins (`True`) or the product of
            a spin-up and a spin-down one.
        - `features`: [`eqsym.TriFeatures`][] by default.
        - `real`: whether the wave function is real-valued; by default if twist and
            occupation allow it.
        - `key`: seeds the parameters.

        **Raises:** `ValueError` if the occupation does not fit the crystal's
        electrons, supercell or twist, no layer or determinant is asked for, or a real
        wave function if twist or occupation do not have one; and for a last layer with
        too few features per electron: orbitals at one k-point are combinations of
        these, so that the determinants of more electrons would be zero to rounding.
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
        if len(widths) < 1:
            raise ValueError("`widths` must name at least one layer, got none.")
        sizes = [
            (whole_number("widths", one, 1), whole_number("widths", pair, 1))
            for one, pair in widths
        ]
        if real:
            check_real(crystal, occupation.cart_kpoints)
        self.crystal = crystal
        self.occupation = occupation
        self.features = TriFeatures() if features is None else features
        self.full_determinant = full_determinant
        if real is None:
            real = has_real_orbitals(crystal, occupation.cart_kpoints)
        self.real = real

        _check_width(crystal, occupation, sizes[-1][0], full_determinant, self.real)

        nuclei = len(crystal.species)
        *keys, up_key, down_key = jax.random.split(key, len(sizes) + 2)
        size = 1 + self.features.size
        inputs = (nuclei * size, size)
        layers = []
        for i, (width, layer_key) in enumerate(zip(sizes, keys, strict=True)):
            last = i == len(sizes) - 1
            layers.append(
                Layer(crystal.electrons, inputs, width, last=last, key=layer_key)
            )
            inputs = width
        self.layers = tuple(layers)

        at_gamma = all(not np.any(k) for k in occupation.cart_kpoints)

        columns = self._columns()

        def orbital_set(spin: int, key: Key) -> Orbitals | None:
            count = crystal.electrons[spin]
            if count == 0:
                return None
            return Orbitals(
                count,
                len(columns[spin][0]),
                nuclei,
                width=inputs[0],
                determinants=determinants,
                use_imaginary=not (self.real and at_gamma),
                key=key,
            )

        self.orbital_sets = (orbital_set(0, up_key), orbital_set(1, down_key))

    @checked
    def __call__(self, electrons: Electrons) -> LogPsi:
        return self.from_orbitals(*self.orbitals(electrons))

    def from_orbitals(
        self,
        up: Inexact[Array, "determinants up up_orbitals"],
        down: Inexact[Array, "determinants down down_orbitals"],
    ) -> LogPsi:
        if self.full_determinant:
            return sum_of_determinants(jnp.concatenate([up, down], axis=1))
        return sum_of_determinants(up, down)

    @full_precision()
    def orbitals(
        self, electrons: Electrons, *, phases_at: Electrons | None = None
    ) -> tuple[
        Inexact[Array, "determinants up up_orbitals"],
        Inexact[Array, "determinants down down_orbitals"],
    ]:
        check_electrons(sum(self.crystal.electrons), electrons)
        near = self.near(electrons)
        h, g = self.rows(near), self.pairs(electrons, electrons)
        for layer in self.layers:
            h, g = layer(h, g, self.spins)
        places = electrons if phases_at is None else phases_at
        return self.blocks(h, near.distance, places)

    def with_one_moved(self, electrons: Electrons) -> Moved:
        return network_with_one_moved(self, electrons)

    @property
    def spins(self) -> tuple[slice, ...]:
        """The rows of each spin that has electrons."""
        n_up, n = self.crystal.electrons[0], sum(self.crystal.electrons)
        return tuple(s for s in (slice(0, n_up), slice(n_up, n)) if s.start < s.stop)

    def near(self, points: Float[Array, "points 3"]) -> Displacement:
        """Displacements of points from the nuclei of the primitive cell."""
        lattice = compact(self.crystal.lattice)
        nuclei, rest = in_two(self.crystal.cart_positions)
        to_nuclei = nearest_displacement(
            points[:, None],
            nuclei[None],
            in_two(lattice.vectors),
            np.linalg.inv(lattice.vectors),
            rest=rest[None],
        )
        return self.features(lattice, to_nuclei)

    def rows(self, near: Displacement) -> Float[Array, "points _"]:
        """The first features of electrons."""
        h = jnp.concatenate([near.distance[..., None], near.vector], -1)
        return h.reshape(h.shape[0], -1)

    def pairs(
        self, points: Float[Array, "points 3"], others: Float[Array, "others 3"]
    ) -> Float[Array, "points others _"]:
        """The first features of pairs."""
        supercell = compact(self.crystal.supercell)
        between = nearest_displacement(
            points[:, None],
            others[None],
            in_two(supercell.vectors),
            np.linalg.inv(supercell.vectors),
        )
        pairs = self.features(supercell, between)
        return jnp.concatenate([pairs.distance[..., None], pairs.vector], -1)

    def blocks(
        self,
        h: Float[Array, "electrons width"],
        distances: Float[Array, "electrons nuclei"],
        places: Electrons,
    ) -> tuple[
        Inexact[Array, "determinants up up_orbitals"],
        Inexact[Array, "determinants down down_orbitals"],
    ]:
        """The orbitals, from the last features, with phases at some places."""
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
                precise_matmul(places[s], jnp.asarray(k.T, dtype)),
                self.real,
                columns,
            )
            for s, orbitals, (k, columns) in zip(
                channels, self.orbital_sets, self._columns(), strict=True
            )
        ]
        return blocks[0], blocks[1]

    @property
    def crystal_momentum(self) -> Float[np.ndarray, "3"]:
        """The sum of the occupied k-points, in inverse Bohr."""
        return np.sum(np.concatenate(self.occupation.cart_kpoints), axis=0)

    @property
    def determinants(self) -> int:
        """Number of determinants."""
        up, down = self.orbital_sets
        return (up or down).determinants  # pyright: ignore[reportOptionalMemberAccess]

    def _columns(
        self,
    ) -> list[tuple[Float[np.ndarray, "orbitals 3"], Int[np.ndarray, " _"] | None]]:
        """For spin-up and for spin-down rows, the k-points of the orbitals, and which
        real and then imaginary parts of them are the columns; `None` if all real parts
        are, or complex orbitals."""
        by_spin = self.occupation.cart_kpoints
        blocks = [by_spin] * 2 if self.full_determinant else [(k,) for k in by_spin]
        return [self._columns_of(block) for block in blocks]

    def _columns_of(
        self, by_spin: tuple[Float[np.ndarray, "_ 3"], ...]
    ) -> tuple[Float[np.ndarray, "orbitals 3"], Int[np.ndarray, " _"] | None]:
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
            return kpoints, None
        found = np.searchsorted(kept, np.minimum(partner, here))
        return kpoints[kept], found + len(kept) * (partner < here)


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
                f"`widths` must end with at least {needed} features per electron, got "
                f"{width}: orbitals at one k-point are combinations of these, and "
                f"determinants of {crystal.electrons[0]} spin-up and "
                f"{crystal.electrons[1]} spin-down electrons of less are zero to "
                "rounding."
            )
