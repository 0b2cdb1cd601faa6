"""Means with error bars from many correlated chains, and the tables they print."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Inexact, PyTree

from .._core import aligned
from .chain_mixing import Mixing


# Standard errors by which a share must be positive.
_PRESENT = 3


class Estimate(eqx.Module):
    """A mean and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return _with_error(self.mean, self.error)


class Evaluation(eqx.Module):
    r"""The energy of a wave function with its error bar, and whether to trust it.
    Energies are in Hartree per primitive cell. It prints as a table.

    - `energy`: real part of the mean local energy.
    - `variance`: of the local energy per primitive cell, in Hartree squared; 0 for an
        exact eigenstate. `None` if it was not measured.
    - `kinetic`, `potential`: the two parts of the energy.
    - `imaginary`: imaginary part of the mean local energy, 0 up to noise.
    - `symmetry`: Var[Pf/f] for a projector P onto functions with the symmetry of a
        group, the measure of Huang et al. (2025): 0 for a symmetric wave function.
        `None` if no group was given.
    - `samples`: number of configurations.
    - `invalid_samples`: configurations left out because a local energy was not finite;
        more than a few spoil the estimates. The others are averaged walker by walker,
        and a walker without a finite local energy is left out as a whole. This is right
        only if energies are as often finite in one place as in another: else it is a
        bias, which no error bar shows.
    - `mixing`: whether the chains have mixed, so that means do not depend on where the
        walkers started; `None` for numbers from elsewhere.

    The last one says in a word whether all is well, `mixing.mixed`, and why not:

    - `energy_rhat`, `potential_rhat`, `symmetry_rhat`: split R-hat of the local energy,
        of the potential energy and of the symmetry measure, `None` if there is none. It
        compares halves of all chains, and is 1 if these are distributed alike.
    - `bound`, `slow_bound`: at most allowed for the energy, and for the other two.
    - `beyond`: those that are beyond their bounds, with these, by name.
    - `drift`: by how many of its standard errors the mean over all walkers changed from
        the first half of the samples to the second.
    - `drifts`: whether this happens in equilibrium less than once in a million times.
    - `burn_in`: steps before the first sample, with those that were added.
    """

    energy: Estimate
    variance: Estimate | None
    kinetic: Estimate
    potential: Estimate
    imaginary: Estimate
    symmetry: Estimate | None
    samples: int
    invalid_samples: int
    mixing: Mixing | None = None

    def to_dict(self) -> dict[str, Any]:
        """Numbers only, for JSON: `{"energy": {"mean": .., "error": ..}, ..}`."""
        return _to_dict(self)

    def __str__(self) -> str:
        return table({"": self})


def is_present(weight: Estimate) -> bool:
    """Whether a projection with this share of a wave function has an energy: else the
    energy would be a ratio of two numbers that are both 0 up to noise."""
    return weight.mean > _PRESENT * weight.error and weight.mean > 1e-12


# Heads of table columns by names of fields.
QUANTITIES = {
    "energy": "energy [Ha]",
    "variance": "variance [Ha^2]",
    "kinetic": "kinetic [Ha]",
    "potential": "potential [Ha]",
    "imaginary": "imaginary [Ha]",
    "symmetry": "Var[Pf/f]",
}


def table(rows: dict[str, Evaluation | None]) -> str:
    """A text table of evaluations, one row each. The column `R-hat` is split R-hat of
    the energy, and what is beyond its bound; see [`eqsym.Evaluation`][]. If samples
    were left out, a last column has their number.

    **Arguments:**

    - `rows`: evaluations by name; `None` for a row without energy, such as an average
        that is zero.
    """
    lines = [["", *QUANTITIES.values(), "R-hat"]]
    for name, row in rows.items():
        columns = (*QUANTITIES, "mixing")
        values = [getattr(row, column, None) for column in columns]
        lines.append([name, *("-" if v is None else str(v) for v in values)])
    invalid = [row.invalid_samples if row is not None else 0 for row in rows.values()]
    if any(invalid):
        column = ["left out", *map(str, invalid)]
        lines = [[*line, cell] for line, cell in zip(lines, column, strict=True)]
    return aligned(lines)


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


def _to_dict(node: Any) -> Any:
    if isinstance(node, eqx.Module):
        return {name: _to_dict(value) for name, value in vars(node).items()}
    return node
