"""A linear layer that knows how many rows of one configuration pass through it, and
what surrounds it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core import AbstractModule, Key


class Linear(AbstractModule):
    """`x -> x W^T + b`, applied once per configuration to a matrix of `rows` rows.

    That it is applied once, and to how many rows, is what [`eqsym.Scores`][] relies on
    to find inner products of weight gradients without forming them. So it is for the
    networks of this library only; `check_factors` in `_training` tells if it was
    applied twice, or under `jax.vmap`.
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"] | None
    rows: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rows: int,
        scale: float,
        use_bias: bool,
        key: Key,
    ):
        """**Arguments:**

        - `inputs`, `outputs`: widths.
        - `rows`: rows of the matrix that one configuration passes.
        - `scale`: standard deviation of the initial weights; biases start at 0.
        - `use_bias`: whether there is a bias.
        - `key`: seeds the weights.
        """
        self.weight = scale * jax.random.normal(key, (outputs, inputs))
        self.bias = jnp.zeros(outputs) if use_bias else None
        self.rows = rows

    def with_rows(self, rows: int) -> "Linear":
        """The layer for matrices of another number of rows."""
        outputs, inputs = self.weight.shape
        has_bias, key = self.bias is not None, jax.random.key(0)
        made = Linear(inputs, outputs, rows=rows, scale=0.0, use_bias=has_bias, key=key)
        weights = lambda linear: (linear.weight, linear.bias)
        new = weights(self)
        return eqx.tree_at(weights, made, new, is_leaf=lambda node: node is None)

    def __call__(
        self, x: Float[Array, "*batch {self.rows} in"]
    ) -> Float[Array, "*batch rows out"]:
        """Applies the layer to all rows."""
        y = x @ self.weight.T.astype(x.dtype)
        if self.bias is None:
            return y
        return y + jnp.broadcast_to(self.bias.astype(x.dtype), y.shape)


def residual(
    x: Float[Array, "*rows in"], y: Float[Array, "*rows out"]
) -> Float[Array, "*rows out"]:
    """What a layer makes of its input and its update."""
    return (x + y) * 2**-0.5 if x.shape == y.shape else y


def shares_of_spins(
    count: int, spins: tuple[slice, ...]
) -> Float[np.ndarray, "electrons spins"]:
    """The share of each electron in the mean over each spin channel."""
    shares = np.zeros((count, len(spins)))
    for i, spin in enumerate(spins):
        shares[spin, i] = 1 / (spin.stop - spin.start)
    return shares
