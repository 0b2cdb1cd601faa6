"""Energies of a wave function, and the tables they print."""

from typing import Any

import equinox as eqx

from .._core import aligned
from .chain_mixing import Mixing
from .estimate import Estimate


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


def _to_dict(node: Any) -> Any:
    if isinstance(node, (eqx.Module, Estimate)):
        return {name: _to_dict(value) for name, value in vars(node).items()}
    return node
