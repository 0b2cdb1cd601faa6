"""AttentionNet: electrons that attend to each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core import AbstractModule, checked, Electrons, Integer, Key, whole_number
from .._crystal import Crystal, Lattice
from .._mean_field import Occupation
from .bloch import AbstractBlochNetwork, BlochOrbitals
from .compact import compact_lattice
from .features import AbstractFeatures, Displacement
from .linear import Linear


class Norm(AbstractModule):
    """Shifts and scales the features of each electron to mean 0 and variance 1, and
    then by what is learned. Ba, Kiros, Hinton, arXiv 1607.06450 (2016)."""

    scale: Float[Array, " width"]
    shift: Float[Array, " width"]

    def __init__(self, width: int):
        self.scale = jnp.ones(width)
        self.shift = jnp.zeros(width)

    def __call__(
        self, h: Float[Array, "electrons width"]
    ) -> Float[Array, "electrons width"]:
        h = h - jnp.mean(h, axis=1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(h**2, axis=1, keepdims=True) + 1e-5)
        scale, shift = (x.astype(h.dtype)[None] for x in (self.scale, self.shift))
        return h * inverse * scale + shift


class AttentionLayer(AbstractModule):
    """Self-attention of the electrons with several heads, and a perceptron.

    If it is split, queries and keys come from features of one electron each, which have
    a perceptron of their own in all layers but the last.
    """

    query_key: Linear
    value: Linear
    output: Linear
    perceptron: Linear
    own_perceptron: Linear | None
    norms: tuple[Norm, Norm] | None
    heads: int = eqx.field(static=True)
    split: bool = eqx.field(static=True)

    def __init__(
        self,
        electrons: int,
        width: int,
        heads: int,
        *,
        layer_norm: bool,
        split: bool,
        last: bool,
        key: Key,
    ):
        """**Arguments:**

        - `electrons`, `width`: rows and columns of the features.
        - `heads`: divides the width.
        - `layer_norm`: whether features of all electrons are normalized before use.
        - `split`: whether queries and keys come from features of one electron each.
        - `last`: the last layer leaves these as they are.
        - `key`: seeds the weights.
        """
        keys = jax.random.split(key, 5)

        def linear(key: Key, outputs: int, use_bias: bool) -> Linear:
            scale = width**-0.5
            return Linear(
                width, outputs, rows=electrons, scale=scale, use_bias=use_bias, key=key
            )

        self.query_key = linear(keys[0], 2 * width, False)
        self.value = linear(keys[1], width, False)
        self.output = linear(keys[2], width, False)
        self.perceptron = linear(keys[3], width, True)
        has_own = split and not last
        self.own_perceptron = linear(keys[4], width, True) if has_own else None
        self.norms = (Norm(width), Norm(width)) if layer_norm else None
        self.heads = heads
        self.split = split

    def __call__(
        self,
        h: Float[Array, "electrons width"],
        one: Float[Array, "electrons width"],
        bias: Float[Array, "heads electrons electrons"],
    ) -> tuple[Float[Array, "electrons width"], Float[Array, "electrons width"]]:
        """The next features, and those of one electron each, if it is split."""
        before, after = (None, None) if self.norms is None else self.norms
        x = h if before is None else before(h)
        logits = self._logits(one if self.split else x) + bias
        # No exponential is large, and derivatives of the shift cancel.
        shift = jnp.max(jax.lax.stop_gradient(logits), axis=2, keepdims=True)
        weights = jnp.exp(logits - shift)
        # Divided last: before, weights may depend on two electrons only.
        mean = weights @ self._by_head(self.value(x))
        mean = mean / jnp.sum(weights, axis=2)[..., None]
        h = h + self.output(jnp.swapaxes(mean, 0, 1).reshape(h.shape))
        h = h + jnp.tanh(self.perceptron(h if after is None else after(h)))
        if self.own_perceptron is not None:
            one = one + jnp.tanh(self.own_perceptron(one))
        return h, one

    def _logits(
        self, x: Float[Array, "electrons width"]
    ) -> Float[Array, "heads electrons electrons"]:
        both, width = self.query_key(x), x.shape[1]
        query, key = self._by_head(both[:, :width]), self._by_head(both[:, width:])
        return query.shape[2] ** -0.5 * query @ jnp.swapaxes(key, 1, 2)

    def _by_head(
        self, x: Float[Array, "electrons width"]
    ) -> Float[Array, "heads electrons _"]:
        return jnp.swapaxes(x.reshape(x.shape[0], self.heads, -1), 0, 1)


class AttentionNet(AbstractBlochNetwork):
    r"""A neural wave function for crystals: electrons that attend to each other,
    periodic features, Bloch phases and determinants over all cells of the supercell.

    $h_i$ starts as a linear map of the displacements of electron i from the nuclei of
    the primitive cell, and of its spin. In each layer

    $h_i \leftarrow h_i + W_o \sum_j a_{ij} W_v h_j, \quad
    a_{ij} \propto e^{(W_q h_i) \cdot (W_k h_j) / \sqrt{d} + \beta(r_i - r_j)}, \quad
    h_i \leftarrow h_i + \tanh(W h_i + c)$

    for each of several heads, and [`eqsym.BlochOrbitals`][] makes orbitals of the last
    $h$. Without the bias $\beta$, a small network of the displacement modulo the
    supercell and of the two spins, electrons would not know which cells they are in.
    All features of pairs are smooth: the network has no cusp where electrons meet, and
    is meant to be trained with [`eqsym.Jastrow`][] around it. The features of electrons
    do not depend on their number, so that a trained network can be the start for
    another supercell or twist, see [`eqsym.transfer`][].

    Psiformer: von Glehn, Spencer, Pfau, ICLR 2023, arXiv 2211.13672. With `split`, the
    default, queries and keys are made of features $g_i$ of one electron each instead,
    $g_i \leftarrow g_i + \tanh(W' g_i + c')$, which makes kinetic energies cheaper, as
    in LapNet: Li et al., Nat. Mach. Intell. 6, 209 (2024), arXiv 2307.08214.
    """

    bloch: BlochOrbitals
    first: Linear
    pair_layers: tuple[Linear, Linear]
    layers: tuple[AttentionLayer, ...]

    @checked
    def __init__(
        self,
        crystal: Crystal,
        occupation: Occupation,
        *,
        width: Integer = 64,
        layers: Integer = 3,
        heads: Integer = 4,
        pair_width: Integer = 16,
        layer_norm: bool = False,
        split: bool = True,
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
        - `width`: features per electron.
        - `layers`: number of layers.
        - `heads`: of the attention; they share the features.
        - `pair_width`: hidden features of the bias of a pair.
        - `layer_norm`: whether features are normalized before values and perceptrons
            are made of them, and queries and keys unless these are split.
        - `split`: whether queries and keys are made of features of one electron each.
        - `determinants`, `full_determinant`, `features`, `real`: as for
            [`eqsym.SolidNet`][].
        - `key`: seeds the parameters.

        **Raises:** `ValueError` as [`eqsym.BlochOrbitals`][], for heads that do not
        divide the width, and if there is no layer.
        """
        width = whole_number("width", width, 1)
        count = whole_number("layers", layers, 1)
        heads = whole_number("heads", heads, 1)
        pair_width = whole_number("pair_width", pair_width, 1)
        if width % heads:
            raise ValueError(
                f"`heads` must divide the `width`, {width}, of which each takes its "
                f"share, got {heads}."
            )
        *keys, first, hidden, last, bloch = jax.random.split(key, count + 4)
        self.bloch = BlochOrbitals(
            crystal,
            occupation,
            width=width,
            determinants=determinants,
            full_determinant=full_determinant,
            features=features,
            real=real,
            key=bloch,
        )
        n, size = sum(crystal.electrons), self.bloch.features.size

        def linear(key: Key, inputs: int, outputs: int, rows: int) -> Linear:
            scale = inputs**-0.5
            return Linear(
                inputs, outputs, rows=rows, scale=scale, use_bias=True, key=key
            )

        inputs = len(crystal.species) * (2 + size) + 1
        self.first = linear(first, inputs, width, n)
        self.pair_layers = (
            linear(hidden, 2 + size, pair_width, n * n),
            linear(last, pair_width, count * heads, n * n),
        )
        self.layers = tuple(
            AttentionLayer(
                n,
                width,
                heads,
                layer_norm=layer_norm,
                split=split,
                last=i == count - 1,
                key=layer_key,
            )
            for i, layer_key in enumerate(keys)
        )

    def last_features(
        self, electrons: Electrons, near: Displacement
    ) -> Float[Array, "electrons width"]:
        n_up, n = self.crystal.electrons[0], len(electrons)
        spins = jnp.asarray(np.where(np.arange(n) < n_up, 1, -1), electrons.dtype)
        h = self.first(jnp.concatenate([self._rows(near), spins[:, None]], axis=1))
        biases = self._biases(electrons, spins)
        one = h
        for layer, bias in zip(self.layers, biases, strict=True):
            h, one = layer(h, one, bias)
        return h

    def _rows(self, near: Displacement) -> Float[Array, "electrons _"]:
        smooth = self._smooth(near, self.crystal.lattice)
        length = jax.lax.rsqrt(1 + near.distance**2) * near.distance
        rows = jnp.concatenate([length[..., None], smooth], axis=-1)
        return rows.reshape(len(rows), -1)

    def _biases(
        self, electrons: Electrons, spins: Float[Array, " electrons"]
    ) -> list[Float[Array, "heads electrons electrons"]]:
        n = len(electrons)
        pairs = self.bloch.pairs(electrons, electrons)
        smooth = self._smooth(pairs, self.crystal.supercell)
        alike = spins[:, None] * spins[None]
        rows = jnp.concatenate([smooth, alike[..., None]], axis=-1)
        hidden, last = self.pair_layers
        biases = last(jnp.tanh(hidden(rows.reshape(n * n, -1))))
        heads = self.layers[0].heads
        return [
            biases[:, i * heads : (i + 1) * heads].T.reshape(heads, n, n)
            for i in range(len(self.layers))
        ]

    def _smooth(
        self, displacement: Displacement, lattice: Lattice
    ) -> Float[Array, "points others features"]:
        """Features of displacements that grow slowly, and are functions of squares: the
        logarithm of the length, and the vector without its value at the origin."""
        distance, vector = displacement
        zero = jnp.zeros((1, 1, 3), distance.dtype)
        origin = self.bloch.features(compact_lattice(lattice), zero).vector
        square = 1 + distance**2
        scaled = (vector - origin) * jax.lax.rsqrt(square)[..., None]
        return jnp.concatenate([0.5 * jnp.log(square)[..., None], scaled], axis=-1)
