"""Twists at which a crystal has a closed shell."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .._core import AbstractModule, aligned, checked, Numbers
from .._crystal import Crystal, SYMPREC
from .._mean_field import shell_gaps, SMALLEST_GAP
from .twists import irreducible_twists


class ClosedShellTwists(AbstractModule):
    """Returned by [`eqsym.closed_shell_twists`][], which describes its fields."""

    crystals: tuple[Crystal, ...]
    weights: Float[np.ndarray, " twists"]
    gaps: Float[np.ndarray, " twists"]

    @property
    def twists(self) -> Float[np.ndarray, "twists 3"]:
        """k_s in fractions of the supercell's reciprocal vectors."""
        return np.array([crystal.twist for crystal in self.crystals])

    def __str__(self) -> str:
        numbers = np.column_stack([self.twists, self.weights, self.gaps])
        rows = [[f"{x:.5f}" for x in row] for row in numbers]
        return aligned([["k_1", "k_2", "k_3", "weight", "gap [Ha]"], *rows])


@checked
def closed_shell_twists(
    crystal: Crystal,
    mesh: Any,
    *,
    shift: Numbers = (0, 0, 0),
    basis: str | dict[str, str] | None = None,
    exp_to_discard: float | None = 0.1,
    symprec: float = SYMPREC,
    vacuum: Sequence[int] | int | None = None,
) -> ClosedShellTwists:
    r"""The twists of a mesh at which a metal has a closed shell: all occupied levels
    are below all empty ones, so that the occupation is unique and has the symmetry of
    the crystal.

    The levels are those of superposed atoms with local exchange. That takes seconds,
    does not depend on anything converging, and finds the order of the levels, which is
    that of Hartree-Fock in most crystals. Gaps of Hartree-Fock are larger;
    [`eqsym.MeanField.solve`][] with `closed_shell=True` has the last word.

    **Arguments:**

    - `crystal`: the crystal, whose own twist does not matter.
    - `mesh`, `shift`: the twists, as for [`eqsym.irreducible_twists`][].
    - `basis`, `exp_to_discard`: as for [`eqsym.MeanField.solve`][].
    - `symprec`, `vacuum`: as for [`eqsym.irreducible_twists`][].

    **Returns:**

    The inequivalent twists with a gap of more than 0.001 Ha, the largest gap first.
    They print as a table, with the fields

    - `crystals`: the crystal with one twist after the other.
    - `weights`: of the twists in an average, [`eqsym.twist_average`][], over those with
        a closed shell; they sum to 1.
    - `gaps`: in Hartree between the highest occupied and the lowest empty level, of
        the spin with the smaller one; infinite if no level of the basis is empty.
    - `twists`: the k in fractions of the supercell's reciprocal vectors, (twists, 3).

    **Raises:** `ValueError` if no twist of the mesh has a gap, for another `mesh` or
    `shift`, and for a basis that is unknown, too small, or linearly dependent in this
    crystal.
    """
    every = irreducible_twists(
        crystal, mesh, shift=shift, symprec=symprec, vacuum=vacuum
    )
    gaps = shell_gaps(crystal, every.twists, basis, exp_to_discard)
    order = np.argsort(-gaps, kind="stable")
    closed = order[gaps[order] > SMALLEST_GAP]
    if len(closed) == 0:
        raise ValueError(
            f"`mesh`: none of its {len(gaps)} inequivalent twists has a closed shell; "
            f"the largest gap is {np.max(gaps):.1e} Ha. Take a finer `mesh`, another "
            "`shift`, or a crystal with another supercell, spin or charge."
        )
    weights = every.weights[closed]
    return ClosedShellTwists(
        tuple(every.crystals[i] for i in closed),
        weights / np.sum(weights),
        gaps[closed],
    )
