"""Means with error bars from many correlated chains, for tables."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Inexact, PyTree


# Standard errors by which a share must be positive.
_PRESENT = 3


class Estimate(eqx.Module):
    """A mean and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return _with_error(self.mean, self.error)


def is_present(weight: Estimate) -> bool:
    """Whether a projection with this share of a wave function has an energy: else the
    energy would be a ratio of two numbers that are both 0 up to noise."""
    return weight.mean > _PRESENT * weight.error and weight.mean > 1e-12


def jackknife(means: PyTree, function: Callable[[Any], Any]) -> Any:
    """Functions of means, with jackknife errors over independent chains.

    The chain of one walker is one block, so that the autocorrelation of a chain,
    however long, is accounted for. The bias is of the order of one over the number of
    chains, and is removed to first order.

    **Arguments:**

    - `means`: a tree of arrays, (chains, ...): means of some moments over each chain.
    - `function`: from such a tree, with sets of means along the first axis, to a tree
        of real numbers, (sets,), a named tuple of results.

    **Returns:**

    The tree of results, of estimates.

    **Raises:** `ValueError` for fewer than two chains.
    """
    chains = len(jax.tree.leaves(means)[0])
    if chains < 2:
        raise ValueError(
            f"An error bar needs at least 2 walkers (independent chains), got {chains}."
        )

    def all_but_one(values: Inexact[np.ndarray, "chains ..."]) -> np.ndarray:
        return (np.sum(values, axis=0)[None] - values) / (chains - 1)

    def estimate(
        whole: Float[np.ndarray, "1"], without: Float[np.ndarray, " chains"]
    ) -> Estimate:
        center = np.mean(without)
        error = np.sqrt((chains - 1) * np.mean((without - center) ** 2))
        return Estimate(float(chains * whole[0] - (chains - 1) * center), float(error))

    averages = jax.tree.map(lambda x: np.mean(x, axis=0, keepdims=True), means)
    return jax.tree.map(
        estimate, function(averages), function(jax.tree.map(all_but_one, means))
    )


def _with_error(mean: float, error: float) -> str:
    """`-8.5178(21)`: the error in units of the last digits, two of them."""
    if not np.isfinite(mean) or not np.isfinite(error):
        return f"{mean:.6g}({error:.2g})"
    if error == 0:
        return f"{mean:.6g}(0)"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    if digits > 8 and abs(mean) < 1e-3:
        return f"{mean:.2e}({error:.0e})"
    scaled = round(error * 10**digits)
    if scaled == 100 and digits > 0:
        digits, scaled = digits - 1, 10
    return f"{mean:.{digits}f}({scaled})"
