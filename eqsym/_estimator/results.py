"""Energies of a wave function, and the tables they print."""

from collections.abc import Iterable

from .._core import checked
from .chain_mixing import Mixing
from .estimate import Estimate
from .tables import AbstractResult, Column, Table


class Evaluation(AbstractResult):
    r"""The energy of a wave function with its error bar, and whether to trust it.
    Energies are in Hartree per primitive cell. It prints as a table.

    - `energy`: real part of the mean local energy.
    - `variance`: of the local energy per primitive cell, in Hartree squared; 0 for an
        exact eigenstate. `None` if it was not measured.
    - `kinetic`, `potential`, `pseudopotential`: the parts of the energy, see
        [`eqsym.LocalEnergy`][]; the last one is `None` without pseudopotentials.
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
    pseudopotential: Estimate | None = None

    def _table(self) -> Table:
        return table({"": self})

    def _summary(self) -> str:
        parts = [f"energy={self.energy} Ha"]
        if self.variance is not None:
            parts.append(f"variance={self.variance} Ha^2")
        parts.append(f"{self.samples} samples")
        if self.mixing is not None and not self.mixing.mixed:
            parts.append("chains not mixed")
        return ", ".join(parts)


# Heads of table columns by names of fields.
QUANTITIES = {
    "energy": "energy [Ha]",
    "variance": "variance [Ha^2]",
    "kinetic": "kinetic [Ha]",
    "potential": "potential [Ha]",
    "pseudopotential": "pseudopot. [Ha]",
    "imaginary": "imaginary [Ha]",
    "symmetry": "Var[Pf/f]",
}


@checked
def table(rows: dict[str, Evaluation | None]) -> Table:
    """A table of evaluations, one row each. The column `R-hat` is split R-hat of the
    energy, and what is beyond its bound; see [`eqsym.Evaluation`][]. If samples were
    left out, a last column has their number.

    **Arguments:**

    - `rows`: evaluations by name; `None` for a row without energy, such as an average
        that is zero.

    **Returns:**

    The table: `print` and notebooks show it, `to_frame()` makes a data frame of pandas,
    with errors as columns of their own, `energy` and `energy_error`.

    **Raises:** `ValueError` for arguments of the wrong kind.
    """
    return Table(tuple(rows), tuple(columns(rows.values())))


def columns(rows: Iterable[Evaluation | None]) -> list[Column]:
    """The numbers of evaluations."""
    rows = list(rows)

    def of(name: str) -> list:
        return [getattr(row, name, None) for row in rows]

    mixings = of("mixing")
    invalid = [count or 0 for count in of("invalid_samples")]
    heads = dict(QUANTITIES)
    if all(value is None for value in of("pseudopotential")):
        del heads["pseudopotential"]
    return [
        *(Column(name, head, of(name), True) for name, head in heads.items()),
        Column(None, "R-hat", mixings),
        Column("rhat", None, [getattr(one, "energy_rhat", None) for one in mixings]),
        Column("mixed", None, [getattr(one, "mixed", None) for one in mixings]),
        Column("samples", None, of("samples")),
        Column("invalid_samples", None, of("invalid_samples")),
        Column(None, "left out" if any(invalid) else None, invalid),
    ]
