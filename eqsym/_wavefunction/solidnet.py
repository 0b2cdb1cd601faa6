"""SolidNet: a FermiNet-like wave function for crystals."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core import (
    AbstractModule,
    checked,
    Electrons,
    Integer,
    Key,
    whole_number,
)
from .._crystal import Crystal
from .._mean_field import Occupation
from .base import AbstractMovable, Moved
from .bloch import AbstractBlochNetwork, BlochOrbitals
from .features import AbstractFeatures, Displacement
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


class SolidNet(AbstractBlochNetwork, AbstractMovable):
    r"""A neural wave function for crystals: FermiNet with periodic features, Bloch
    phases and determinants over all cells of the supercell.

    Layers mix features per electron and per pair of electrons, and
    [`eqsym.BlochOrbitals`][] makes orbitals of the last ones. A simultaneous
    translation of all electrons by a primitive lattice vector t multiplies $\psi$ by
    $e^{i K \cdot t}$, $K = \sum_j k_j$.

    Li, Li, Chen, Nat. Commun. 13, 7895 (2022); Pfau et al., Phys. Rev. Research 2,
    033429 (2020).
    """

    bloch: BlochOrbitals
    layers: tuple[Layer, ...]

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

        **Raises:** `ValueError` as [`eqsym.BlochOrbitals`][], and if no layer is asked
        for.
        """
        if len(widths) < 1:
            raise ValueError("`widths` must name at least one layer, got none.")
        sizes = [
            (whole_number("widths", one, 1), whole_number("widths", pair, 1))
            for one, pair in widths
        ]
        *keys, last_key = jax.random.split(key, len(sizes) + 1)
        self.bloch = BlochOrbitals(
            crystal,
            occupation,
            width=sizes[-1][0],
            determinants=determinants,
            full_determinant=full_determinant,
            features=features,
            real=real,
            key=last_key,
        )
        size = 1 + self.bloch.features.size
        inputs = (len(crystal.species) * size, size)
        layers = []
        for i, (width, layer_key) in enumerate(zip(sizes, keys, strict=True)):
            last = i == len(sizes) - 1
            layers.append(
                Layer(crystal.electrons, inputs, width, last=last, key=layer_key)
            )
            inputs = width
        self.layers = tuple(layers)

    def last_features(
        self, electrons: Electrons, near: Displacement
    ) -> Float[Array, "electrons width"]:
        h, g = self.rows(near), self.pairs(electrons, electrons)
        for layer in self.layers:
            h, g = layer(h, g, self.bloch.spins)
        return h

    def with_one_moved(self, electrons: Electrons) -> Moved:
        return network_with_one_moved(self, electrons)

    def rows(self, near: Displacement) -> Float[Array, "points _"]:
        """The first features of electrons."""
        h = jnp.concatenate([near.distance[..., None], near.vector], -1)
        return h.reshape(h.shape[0], -1)

    def pairs(
        self, points: Float[Array, "points 3"], others: Float[Array, "others 3"]
    ) -> Float[Array, "points others _"]:
        """The first features of pairs."""
        pairs = self.bloch.pairs(points, others)
        return jnp.concatenate([pairs.distance[..., None], pairs.vector], -1)
