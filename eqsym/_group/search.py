"""The search for the operations that a crystal, its vacuum, supercell and twist admit,
with warnings about operations that are excluded or missed by rounding."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from .._core import as_fraction
from .._crystal import (
    cell_of,
    Crystal,
    find_operations,
    in_bohr,
    into_cell,
    is_whole,
    larger_group,
    ROUNDING,
    SymmetricCell,
    with_cell,
    with_changes,
)
from .international_tables import group_symbol
from .operations import (
    keeps_supercell,
    keeps_twist,
    operations_of,
    Rotations,
    supercell_rotations,
    Translations,
)
from .vacuum import keeps_vacuum


_logger = logging.getLogger("eqsym")

# In fractions of reciprocal vectors: how far rounding may have moved a twist. Two
# decimals of 1/3 are 0.0033 off; 0.3 is a twist of its own.
_TWIST_REACH = 5e-3


def admitted_operations(
    crystal: Crystal, symprec: float, vacuum: tuple[int, ...]
) -> tuple[Rotations, Translations]:
    """All operations of a crystal that vacuum, supercell and twist admit.

    Warns of operations that are not admitted, of a twist next to one that admits more,
    and of operations that only appear at a coarser precision.

    **Raises:** `ValueError` if spglib finds no group within `symprec` (Bohr).
    """
    cell = cell_of(crystal)
    rotations, translations = find_operations(cell, symprec)
    translations = into_cell(translations)
    keep, enough = _warned(crystal, rotations, translations, vacuum)

    def admits(moved: Crystal, other: SymmetricCell) -> Bool[np.ndarray, " ops"]:
        found = _restrictions(moved, other.rotations, other.translations, vacuum)
        return np.all([good for good, _ in found], axis=0)

    def exact(other: SymmetricCell) -> Crystal:
        """The crystal without rounding of nuclei, lattice and twist."""
        moved = with_cell(crystal, other.cell)
        found = _restrictions(moved, other.rotations, other.translations, vacuum)
        others = np.all([good for good, _ in found[:-1]], axis=0)
        kept = int(np.sum(admits(moved, other)))
        better = _better_twist(moved, other.rotations[others], kept)
        return moved if better is None else with_changes(moved, twist=better[0])

    kept = int(np.sum(keep))
    coarser = larger_group(
        cell,
        symprec,
        len(keep),
        enough,
        lambda other: int(np.sum(admits(exact(other), other))),
    )
    if coarser is not None:
        level, other = coarser
        meant = exact(other)
        admitted = admits(meant, other)
        _warn_of_rounding(crystal, symprec, kept, level, other, meant, admitted, vacuum)
    return rotations[keep], translations[keep]


def _restrictions(
    crystal: Crystal,
    rotations: Rotations,
    translations: Translations,
    vacuum: tuple[int, ...],
) -> Sequence[tuple[Bool[np.ndarray, " ops"], str]]:
    """Which operations each requirement admits, and how the others violate it."""
    return (
        (
            keeps_vacuum(crystal, rotations, translations, vacuum),
            f"do not leave the vacuum in directions {list(vacuum)} alone.",
        ),
        (
            keeps_supercell(crystal, rotations),
            "do not map the lattice of the supercell "
            f"{crystal.matrix.tolist()} to itself.",
        ),
        (
            keeps_twist(crystal, rotations),
            f"map the twist {crystal.twist.tolist()} to another one.",
        ),
    )


def _warned(
    crystal: Crystal,
    rotations: Rotations,
    translations: Translations,
    vacuum: tuple[int, ...],
) -> tuple[Bool[np.ndarray, " ops"], int]:
    """Which operations are admitted, and how many would be with the best twist."""
    restrictions = _restrictions(crystal, rotations, translations, vacuum)
    keep = np.ones(len(rotations), dtype=bool)
    for good, reason in restrictions:
        dropped = int(np.sum(keep & ~good))
        if dropped:
            _logger.warning(
                "%d of %d symmetry operations are dropped: they %s",
                dropped,
                len(rotations),
                reason,
            )
        keep &= good
    # The twist is the last of them.
    others = np.all([good for good, _ in restrictions[:-1]], axis=0)
    enough = int(np.sum(keep))
    better = _better_twist(crystal, rotations[others], enough)
    if better is not None:
        twist, enough = better
        away = np.max(np.abs(twist - crystal.twist))
        _logger.warning(
            "The twist %s is %.1g (in fractions) from (%s), which keeps %d operations "
            "instead of %d. If it is rounded, use that one.",
            crystal.twist.tolist(),
            away,
            _listed(twist),
            enough,
            int(np.sum(keep)),
        )
    return keep, enough


def _better_twist(
    crystal: Crystal, rotations: Rotations, kept: int
) -> tuple[Float[np.ndarray, "3"], int] | None:
    """The twist within reach that most operations keep, and how many do; `None` if
    these are not more than `kept`."""
    turns = supercell_rotations(crystal, rotations)
    steps = turns - np.eye(3)
    change = crystal.twist @ steps
    change -= np.round(change)
    sizes = np.max(np.abs(change), axis=1)
    best = None
    # Fewer and fewer operations that nearly keep the twist: the smallest change after
    # which all of them keep it, if there is one.
    for level in np.unique(np.round(sizes, 9))[::-1]:
        near = sizes < level + 1e-8
        if np.sum(near) <= kept:
            break
        equations = np.concatenate(list(steps[near]), axis=1).T
        move, *_ = np.linalg.lstsq(equations, -change[near].reshape(-1), rcond=1e-9)
        if np.max(np.abs(move)) > _TWIST_REACH:
            continue
        twist = crystal.twist + move
        number = int(np.sum(is_whole(twist @ steps, ROUNDING)))
        if number > kept:
            best, kept = (twist, number), number
    return best


def _listed(twist: Float[np.ndarray, "3"]) -> str:
    return ", ".join(map(as_fraction, twist.tolist()))


def _warn_of_rounding(
    crystal: Crystal,
    symprec: float,
    kept: int,
    level: float,
    other: SymmetricCell,
    meant: Crystal,
    admitted: Bool[np.ndarray, " ops"],
    vacuum: tuple[int, ...],
) -> None:
    more = int(np.sum(admitted))
    away = np.max(np.abs(meant.twist - crystal.twist))
    twist, also = "", ","
    if away > 0:
        twist = (
            f" and the twist ({_listed(meant.twist)}), {away:.1g} (in fractions) from "
            "the given one"
        )
        also = " and of the twist, give the crystal that twist and"
    operations = operations_of(
        crystal, other.rotations[admitted], other.translations[admitted], level
    )
    symbol = group_symbol(meant, operations, vacuum)
    _logger.warning(
        "Symmetry operations found with `symprec` %g Bohr: %d; with %g%s: %d%s. If "
        "that is rounding of the coordinates%s use `crystal.symmetrized(%g)`, which "
        "moves nuclei by up to %s Bohr and lattice vectors by up to %s; or pass "
        "`symprec=%g`, which takes these operations as they are.",
        symprec,
        kept,
        level,
        twist,
        more,
        f" ({symbol})" if symbol else "",
        also,
        level,
        in_bohr(other.shift),
        in_bohr(other.strain),
        level,
    )
