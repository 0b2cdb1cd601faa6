"""Twist averaging: the irreducible twists of a mesh, and means over them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import spglib
from jaxtyping import Float

from .._core import AbstractModule, aligned, checked, Numbers
from .._crystal import Crystal, quiet, SYMPREC, with_changes
from .._group import SpaceGroup, supercell_rotations
from .chain_mixing import worst
from .estimate import Estimate, estimate_from, origin_of
from .results import columns, Evaluation, QUANTITIES
from .tables import AbstractResult, Column, Table


class Twists(AbstractModule):
    """Returned by [`eqsym.irreducible_twists`][], which describes its fields."""

    crystals: tuple[Crystal, ...]
    weights: Float[np.ndarray, " twists"]

    @property
    def twists(self) -> Float[np.ndarray, "twists 3"]:
        """k_s in fractions of the supercell's reciprocal vectors."""
        return np.array([crystal.twist for crystal in self.crystals])

    def __str__(self) -> str:
        numbers = np.column_stack([self.twists, self.weights])
        rows = [[f"{x:.5f}" for x in row] for row in numbers]
        return aligned([["k_1", "k_2", "k_3", "weight"], *rows])


@checked
def irreducible_twists(
    crystal: Crystal,
    mesh: Any,
    *,
    shift: Numbers = (0, 0, 0),
    symprec: float = SYMPREC,
    vacuum: Sequence[int] | int | None = None,
) -> Twists:
    r"""The inequivalent twists of a Monkhorst-Pack mesh, with their weights.

    The mesh divides the reciprocal cell of the *supercell*: its twists are
    $k_l = (n_l + s_l) / m_l$ with integer $n_l$. Twists that an operation of the
    crystal or time reversal ($k \to -k$) maps to each other have the same energy; of
    these one is kept, and its weight is their share of the mesh. Only operations that
    map the supercell lattice to itself count. Found by spglib.

    Twist averaging: Lin, Zong and Ceperley, Phys. Rev. E 64, 016702 (2001). Meshes:
    Monkhorst and Pack, Phys. Rev. B 13, 5188 (1976).

    **Arguments:**

    - `crystal`: the crystal, whose own twist does not matter.
    - `mesh`: the three m, the numbers of twists along the reciprocal vectors.
    - `shift`: the three s, each 0 or 1/2. With 0 the mesh contains the twist 0; the
        mesh of Monkhorst and Pack has 1/2 along every vector with an even m. If not all
        operations map the mesh to itself, fewer twists are equivalent.
    - `symprec`, `vacuum`: as for [`eqsym.SpaceGroup.of`][], which finds the operations.
        It warns if nuclei are so rounded that some are missing; then more twists are
        kept than there need be.

    **Returns:**

    The twists, which print as a table, with the fields

    - `crystals`: the crystal with one twist after the other.
    - `weights`: of the twists in the average; they sum to 1.
    - `twists`: the k in fractions of the supercell's reciprocal vectors, (twists, 3).

    **Raises:** `ValueError` for another `mesh` or `shift`, and as
    [`eqsym.SpaceGroup.of`][] does.
    """
    divisions = np.asarray(mesh)
    numbers = divisions.shape == (3,) and divisions.dtype.kind in "iuf"
    if not numbers or np.any(divisions != np.round(divisions)):
        raise ValueError(f"`mesh` must be three integers, got {mesh!r}.")
    divisions = divisions.astype(int)
    if np.any(divisions < 1):
        raise ValueError(f"`mesh` must be positive, got {divisions.tolist()}.")
    offset = np.asarray(shift, dtype=np.float64)
    if offset.shape != (3,) or not np.all((offset == 0) | (offset == 0.5)):
        raise ValueError(
            "`shift` must be three numbers, each 0 or 1/2 of a step of the mesh, got "
            f"{shift!r}. The symmetry of a crystal maps no other mesh to itself."
        )
    group = SpaceGroup.of(
        with_changes(crystal, twist=(0, 0, 0)), symprec=symprec, vacuum=vacuum
    )
    rotations = np.round(supercell_rotations(crystal, group.frac_rotations))
    found = quiet(
        spglib.get_stabilized_reciprocal_mesh,
        divisions,
        np.unique(rotations.astype(np.intc), axis=0),
        is_shift=(2 * offset).astype(int),
        is_time_reversal=True,
    )
    if found is None:
        raise ValueError(f"`mesh` {divisions.tolist()}: spglib finds no twists.")
    mapping, addresses = found
    chosen, counts = np.unique(mapping, return_counts=True)
    twists = (addresses[chosen] + offset) / divisions
    return Twists(
        tuple(with_changes(crystal, twist=twist) for twist in twists),
        counts / np.sum(counts),
    )


class TwistAverage(AbstractResult):
    """The mean of evaluations at several twists; [`eqsym.twist_average`][] describes
    the fields. It prints as a table."""

    mean: Evaluation
    evaluations: tuple[Evaluation, ...]
    weights: Float[np.ndarray, " twists"]

    def _table(self) -> Table:
        names = (*map(str, range(len(self.evaluations))), "mean")
        weights = [*self.weights.tolist(), ""]
        note = f"{len(self.evaluations)} twists; {self.mean.samples} samples"
        found = (
            Column("weight", "weight", weights, shown=_digits),
            *columns([*self.evaluations, self.mean]),
        )
        return Table(names, found, (note,))

    def _summary(self) -> str:
        return f"energy={self.mean.energy} Ha, {len(self.evaluations)} twists"


def _digits(weight: Any) -> str:
    return f"{weight:.4f}" if isinstance(weight, float) else weight


@checked
def twist_average(
    evaluations: Sequence[Evaluation], weights: Float[np.ndarray, " twists"]
) -> TwistAverage:
    r"""Averages evaluations at several twists, which removes most of the error
    from the boundary of a small supercell.

    Different twists are independent runs, so that the error of the mean
    $\sum_s w_s E_s$ is $\sqrt{\sum_s w_s^2 \sigma_s^2}$. How well the mesh of twists
    represents all of them is not part of it.

    **Arguments:**

    - `evaluations`: one for each twist, from runs with different keys.
    - `weights`: as many, of [`eqsym.irreducible_twists`][].

    **Returns:**

    The mean, which prints as a table together with the evaluations; `to_frame()` makes
    a data frame of pandas, `to_dict()` numbers for JSON. The fields are

    - `mean`: an [`eqsym.Evaluation`][] of all quantities. Its variance and symmetry
        measure are means over the twists too, `None` if one of them is. `samples` and
        `invalid_samples` are sums; `mixing` is taken from the evaluation whose chains
        have mixed least.
    - `evaluations`, `weights`: as they were given.

    **Raises:** `ValueError` if the weights do not fit the evaluations, are negative, or
    do not sum to 1; and if two evaluations come from the same samples, or were made
    with the same key, so that their errors do not add up.
    """
    evaluations = tuple(evaluations)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(evaluations),) or not evaluations:
        raise ValueError(
            f"`weights` must be one for each of the {len(evaluations)} `evaluations`, "
            f"and at least one, got shape {weights.shape}."
        )
    if np.any(weights < 0) or not abs(np.sum(weights) - 1) < 1e-6:
        raise ValueError(
            "`weights` must not be negative and must sum to 1, got "
            f"{weights.tolist()}. Evaluate every twist of `irreducible_twists`, or "
            "divide the weights that are left by their sum."
        )
    _check_independent(evaluations)

    def mean(name: str) -> Estimate | None:
        parts = [getattr(one, name) for one in evaluations]
        if any(part is None for part in parts):
            return None
        means = np.array([part.mean for part in parts])
        errors = np.array([part.error for part in parts])
        error = np.hypot.reduce(weights * errors)
        return estimate_from(origin_of(*parts), weights @ means, error)

    quantities: Any = {name: mean(name) for name in QUANTITIES}
    whole = Evaluation(
        **quantities,
        samples=sum(one.samples for one in evaluations),
        invalid_samples=sum(one.invalid_samples for one in evaluations),
        mixing=worst([one.mixing for one in evaluations if one.mixing is not None]),
    )
    return TwistAverage(whole, evaluations, weights)


def _check_independent(evaluations: Sequence[Evaluation]) -> None:
    first: dict[str, int] = {}
    for i, one in enumerate(evaluations):
        for samples in origin_of(one.energy):
            if samples in first:
                raise ValueError(
                    f"`evaluations[{first[samples]}]` and `evaluations[{i}]` come from "
                    "the same samples, or from the same random numbers, so that their "
                    "errors do not add up as those of independent runs. Give the "
                    "`eqs.Chains` of each twist a key of its own, such as one of "
                    f"`jax.random.split(key, {len(evaluations)})`; without errors, "
                    "compute with `float(...)` of their energies."
                )
            first[samples] = i
