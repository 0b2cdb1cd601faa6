"""Amplitudes with one electron moved, without the work that stays the same."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core import LogPsi
from .base import Moved
from .linear import Linear, residual, shares_of_spins


def network_with_one_moved(
    network: Any, electrons: Float[Array, "electrons 3"]
) -> Moved:
    """For a `SolidNet`. Pairs of the others keep their features in all layers, so that
    of the pairs of electrons only those with this one are evaluated: 2 n instead of
    n^2.
    """
    bloch = network.bloch
    spins = bloch.spins
    count = electrons.shape[0]
    near = bloch.near(electrons)
    h = network.rows(near)
    pairs = [network.pairs(electrons, electrons)]
    for layer in network.layers[:-1]:
        assert layer.pair is not None
        pairs.append(_stream(layer.pair, pairs[-1]))
    weights = jnp.asarray(shares_of_spins(count, spins), electrons.dtype)
    means = [jnp.einsum("ijf,js->isf", g, weights) for g in pairs]

    def at(one: Float[Array, " electrons"], place: Float[Array, "3"]) -> LogPsi:
        here = one[:, None] > 0
        moved = jnp.where(here, place[None], electrons)
        there = bloch.near(place[None])
        distances = jnp.where(here, there.distance, near.distance)
        rows = jnp.where(here, network.rows(there), h)
        # Pairs of it with all, and of all with it.
        out = network.pairs(place[None], moved)[0]
        back = network.pairs(moved, place[None])[:, 0]
        own = one @ weights
        for layer, g, mean in zip(network.layers, pairs, means, strict=True):
            change = back - jnp.einsum("ijf,j->if", g, one)
            others = mean + own[None, :, None] * change[:, None]
            mine = jnp.einsum("jf,js->sf", out, weights)
            mean = jnp.where(here[..., None], mine[None], others)
            rows = layer.update(rows, mean.reshape(count, -1), spins)
            if layer.pair is not None:
                out, back = _stream(layer.pair, out), _stream(layer.pair, back)
        return bloch.from_orbitals(*bloch(rows, distances, moved))

    return at


def _stream(linear: Linear, x: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
    """A layer for pairs, of any number of pairs."""
    y = x @ linear.weight.T.astype(x.dtype)
    if linear.bias is not None:
        y += jnp.broadcast_to(linear.bias.astype(x.dtype), y.shape)
    return residual(x, jnp.tanh(y))
