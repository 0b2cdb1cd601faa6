"""Cells as spglib takes them: their operations, symmetric and primitive cells."""

import itertools
import logging
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import spglib
from jaxtyping import Bool, Float, Int

from .modulo import length_modulo, ROUNDING, SYMPREC


_logger = logging.getLogger("eqsym")

# In Bohr: coarser precisions to try, up to the largest errors by rounding in structure
# files. Three digits of a fraction are off by 0.0005, 0.01 Bohr along a vector of 20
# Bohr, and two nuclei together by twice as much, which covers 0.001 Angstrom too.
_COARSE = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2)

_Operations: TypeAlias = tuple[Int[np.ndarray, "ops 3 3"], Float[np.ndarray, "ops 3"]]


class Cell(NamedTuple):
    """- `vectors`: lattice vectors as rows, in Bohr.
    - `frac`: places of nuclei in fractions of them.
    - `numbers`: atomic numbers.
    """

    vectors: Float[np.ndarray, "3 3"]
    frac: Float[np.ndarray, "atoms 3"]
    numbers: Int[np.ndarray, " atoms"]


def cell_of(crystal: Any) -> Cell:
    """The primitive cell of a crystal."""
    frac = crystal.lattice.to_fractional(crystal.cart_positions)
    return Cell(crystal.lattice.vectors, frac, crystal.atomic_numbers)


class SymmetricCell(NamedTuple):
    """- `cell`: a cell that has the operations to rounding.
    - `rotations`, `translations`: the operations, on fractions.
    - `shift`: the farthest that a nucleus moves in the cell, in Bohr.
    - `strain`: the farthest that the end of a lattice vector moves, in Bohr.
    """

    cell: Cell
    rotations: Int[np.ndarray, "ops 3 3"]
    translations: Float[np.ndarray, "ops 3"]
    shift: float
    strain: float


class PrimitiveCell(NamedTuple):
    """- `cell`: the primitive one.
    - `chosen`: the nuclei of the given cell that are in it.
    - `matrix`: the given vectors, rows in terms of the primitive ones.
    """

    cell: Cell
    chosen: Int[np.ndarray, " some"]
    matrix: Int[np.ndarray, "3 3"]


def quiet(call: Callable, *args: Any, **kwargs: Any) -> Any:
    """A call of spglib without its warnings."""
    with warnings.catch_warnings():
        # spglib 2 announces another way to report errors; both are handled.
        warnings.simplefilter("ignore", DeprecationWarning)
        return call(*args, **kwargs)


def find_operations(cell: Cell, symprec: float) -> _Operations:
    """Rotations and translations of a crystal, on fractions.

    **Raises:** `ValueError` if `symprec` is not a length, or if spglib finds no group
    within `symprec` (Bohr).
    """
    if not (symprec > 0 and np.isfinite(symprec)):
        raise ValueError(f"`symprec` must be a positive length in Bohr, got {symprec}.")
    arguments = tuple(part.tolist() for part in cell)
    try:
        dataset = quiet(spglib.get_symmetry_dataset, arguments, symprec=symprec)
        cause = None
    except spglib.error.SpglibError as error:
        dataset, cause = None, error
    if dataset is None:
        raise ValueError(
            f"`symprec` {symprec} Bohr: spglib finds no space group of the crystal "
            "to this precision. Try another one, smaller than the distances "
            "between nuclei."
        ) from cause
    rotations = np.asarray(dataset.rotations, dtype=int)
    return rotations, np.asarray(dataset.translations, dtype=np.float64)


def symmetrized_cell(cell: Cell, symprec: float) -> SymmetricCell:
    """Moves nuclei and vectors to where the operations found within `symprec` (Bohr)
    want them, and again as long as this brings more operations within `symprec`. The
    middle of all nuclei keeps its fractions, and the cell is not turned.

    **Raises:** `ValueError` if spglib finds no group, or one to which a nucleus or a
    vector would have to move farther than `symprec`.
    """
    found = _averaged(cell, find_operations(cell, symprec), symprec, cell)
    while True:
        operations = find_operations(found.cell, symprec)
        if len(operations[0]) <= len(found.rotations):
            return found
        found = _averaged(found.cell, operations, symprec, cell)


def larger_group(
    cell: Cell,
    symprec: float,
    found: int,
    kept: int,
    count: Callable[[SymmetricCell], int],
) -> tuple[float, SymmetricCell] | None:
    """The operations that a coarser `symprec` would find, up to the coarsest that
    rounding of a structure file explains.

    **Arguments:**

    - `cell`, `symprec`: a cell and a tolerance in Bohr.
    - `found`: how many operations it has within that.
    - `kept`: how many of them matter.
    - `count`: of the operations of a symmetric cell, how many matter.

    **Returns:**

    The smallest tolerance with the largest number of operations that matter, and the
    symmetric cell that has them; `None` if these are not more than `kept`.
    """
    best = None
    for level in sorted((x for x in _COARSE if x > symprec), reverse=True):
        try:
            operations = find_operations(cell, level)
            if len(operations[0]) == found:
                # So it is for nearly every crystal: one search is enough.
                break
            other = _averaged(cell, operations, level, cell)
        except ValueError:
            # Operations found so coarsely need not be a group; finer ones can be.
            continue
        number = count(other)
        if number > kept or (best is not None and number == kept):
            kept, best = number, (level, other)
        elif best is not None:
            break
    return best


def primitive_cell(cell: Cell) -> PrimitiveCell:
    """The smallest cell that repeats, in the given orientation. Lattice vectors along
    which nothing repeats stay as they are: a slab keeps its vacuum. The others are
    Niggli-reduced, in the order of the given vectors that they resemble.

    A warning says if there is a smaller one but for rounding.

    **Raises:** `ValueError` if spglib finds no group.
    """
    rotations, translations = find_operations(cell, SYMPREC)
    pure = _pure(rotations)
    coarser = _coarser_repetitions(cell, rotations)
    if coarser is not None:
        level, count = coarser
        _logger.warning(
            "The primitive cell has %d atoms, but %d if nuclei may be %g Bohr from "
            "their places. If that is rounding, take "
            "`crystal.symmetrized(%g).primitive()`.",
            len(cell.frac) // np.sum(pure),
            len(cell.frac) // count,
            level,
            level,
        )
    onto, whole = _images(cell, rotations[pure], translations[pure])
    # The whole steps of all nuclei together: the translation without its noise.
    count = len(onto)
    steps = np.round(count * np.mean(whole, axis=1)).astype(int)
    basis = _shortest(cell.vectors, steps, count)
    matrix = np.round(np.linalg.inv(basis)).astype(int)
    # Columns of nuclei that are the same, the first one of each on top.
    chosen = np.flatnonzero(np.min(onto, axis=0) == np.arange(len(cell.frac)))
    if round(abs(np.linalg.det(matrix))) != count or count * len(chosen) != len(
        cell.frac
    ):
        raise ValueError(
            f"The {count} translations that spglib finds in the crystal are not a "
            f"lattice to {SYMPREC} Bohr. Try `crystal.symmetrized({_COARSE[0]})` first."
        )
    # Each at the mean of its copies, moved back.
    back = cell.frac[onto[:, chosen]] + whole[:, chosen] - steps[:, None] / count
    frac = np.mean(back, axis=0) @ np.linalg.inv(basis)
    return PrimitiveCell(
        Cell(basis @ cell.vectors, frac, cell.numbers[chosen]), chosen, matrix
    )


def repetitions(cell: Cell) -> tuple[int, float | None]:
    """How many primitive cells a cell holds; and how far, in Bohr, nuclei are from
    their places then, `None` if they are exactly there.

    **Raises:** `ValueError` if spglib finds no group.
    """
    rotations, _ = find_operations(cell, SYMPREC)
    coarser = _coarser_repetitions(cell, rotations)
    if coarser is None:
        return int(np.sum(_pure(rotations))), None
    level, count = coarser
    return count, level


def _coarser_repetitions(
    cell: Cell, rotations: Int[np.ndarray, "ops 3 3"]
) -> tuple[float, int] | None:
    """A coarser tolerance at which a cell holds more primitive cells, and how many."""
    count = int(np.sum(_pure(rotations)))
    coarser = larger_group(
        cell,
        SYMPREC,
        len(rotations),
        count,
        lambda other: int(np.sum(_pure(other.rotations))),
    )
    if coarser is None:
        return None
    level, other = coarser
    return level, int(np.sum(_pure(other.rotations)))


def in_bohr(length: float) -> str:
    """A length to two digits; rounding of float64 is 0."""
    return f"{length:.2g}" if length > ROUNDING else "0"


def _pure(rotations: Int[np.ndarray, "ops 3 3"]) -> Bool[np.ndarray, " ops"]:
    return np.all(rotations == np.eye(3, dtype=int), axis=(1, 2))


def _averaged(
    cell: Cell, operations: _Operations, symprec: float, start: Cell
) -> SymmetricCell:
    """The mean of a cell over operations that it nearly has.

    **Raises:** `ValueError` if they are not a group, or if the mean is farther than
    `symprec` from `start`.
    """
    vectors, frac, _ = cell
    rotations, translations = operations
    turns = np.swapaxes(rotations, 1, 2)
    metric = np.mean(turns @ (vectors @ vectors.T) @ rotations, axis=0)
    # Of all lattices with this metric the one that stretches and does not turn:
    # vectors U with U U^T = vectors^-1 metric vectors^-T and symmetric U.
    inverse = np.linalg.inv(vectors)
    squares, axes = np.linalg.eigh(inverse @ metric @ inverse.T)
    stretched = vectors @ (axes * np.sqrt(squares)) @ axes.T

    # Seen from the middle of all nuclei, which every operation keeps, nucleus i goes to
    # R u_i + t = u_j + n_i with whole n_i. The mean over nuclei says t exactly: it is
    # the mean of the n_i. With it the operations are a group that acts on all places
    # together, and the mean over the group is fixed by it.
    middle = np.mean(frac, axis=0)
    around = frac - middle
    turned_middle = rotations @ middle
    moves = translations + turned_middle - middle
    centered = cell._replace(frac=around)
    onto, whole = _images(centered, rotations, moves)
    exact = np.mean(whole, axis=1)
    images = around @ turns + exact[:, None] - whole
    order = np.argsort(onto, axis=1)
    placed = np.mean(np.take_along_axis(images, order[:, :, None], axis=1), axis=0)

    again = placed @ turns + exact[:, None] - whole - placed[onto]
    change = turns @ metric @ rotations - metric
    if max(np.max(np.abs(again)), np.max(np.abs(change)) / np.max(metric)) > ROUNDING:
        raise ValueError(
            f"`symprec` {symprec} Bohr: the operations that spglib finds to this "
            "precision are not a group. Try a smaller one."
        )
    moved = placed + middle
    shift = np.max(np.linalg.norm((moved - start.frac) @ stretched, axis=1))
    strain = np.max(np.linalg.norm(stretched - start.vectors, axis=1))
    if max(shift, strain) > symprec:
        raise ValueError(
            f"`symprec` {symprec} Bohr: the {len(rotations)} operations that spglib "
            f"finds to this precision would move a nucleus by {shift:.2g} Bohr and the "
            f"end of a lattice vector by {strain:.2g}. Try a smaller one, or a larger "
            "one if the crystal is meant to have these operations."
        )
    return SymmetricCell(
        Cell(stretched, moved, cell.numbers),
        rotations,
        exact + middle - turned_middle,
        float(shift),
        float(strain),
    )


def _images(
    cell: Cell,
    rotations: Int[np.ndarray, "ops 3 3"],
    translations: Float[np.ndarray, "ops 3"],
) -> tuple[Int[np.ndarray, "ops atoms"], Float[np.ndarray, "ops atoms 3"]]:
    """The nucleus that each one goes to, and the lattice vector, in whole fractions,
    from there to the image.

    **Raises:** `ValueError` if two nuclei go to the same one.
    """
    unlike: Bool[np.ndarray, "atoms atoms"] = cell.numbers[:, None] != cell.numbers
    onto = np.empty((len(rotations), len(cell.frac)), dtype=int)
    whole = np.empty((*onto.shape, 3))
    everything = np.arange(len(cell.frac))
    for i, (rotation, translation) in enumerate(
        zip(rotations, translations, strict=True)
    ):
        gaps = (cell.frac @ rotation.T + translation)[:, None] - cell.frac
        rest = length_modulo(cell.vectors, gaps)
        onto[i] = np.argmin(np.where(unlike, np.inf, rest), axis=1)
        whole[i] = np.round(gaps[everything, onto[i]])
    if np.any(np.sort(onto, axis=1) != everything):
        raise ValueError(
            "`symprec`: an operation that spglib finds to this precision takes two "
            "nuclei to the same place. Try a smaller one."
        )
    return onto, whole


def _shortest(
    vectors: Float[np.ndarray, "3 3"], steps: Int[np.ndarray, "some 3"], count: int
) -> Float[np.ndarray, "3 3"]:
    """Rows of fractions of the lattice vectors: a short basis of these and of the
    translations `steps / count`."""
    moving = np.flatnonzero(np.any(steps % count, axis=0))
    basis = np.eye(3)
    if not len(moving):
        return basis
    rows = np.vstack([count * np.eye(3, dtype=int), steps])[:, moving]
    rows = _echelon(rows)[: len(moving)] / count
    # Directions that stay are replaced by long normal ones, which come last in the
    # order of lengths and are not mixed with the others.
    part = rows @ vectors[moving]
    normal = np.linalg.svd(vectors[moving])[2][len(moving) :]
    length = 10 * np.max(np.linalg.norm(vectors, axis=1))
    try:
        reduced = quiet(spglib.niggli_reduce, np.vstack([part, length * normal]))
    except spglib.error.SpglibError:
        reduced = None
    if reduced is not None:
        part = reduced[: len(moving)]
    cosines = part @ vectors[moving].T
    cosines /= np.linalg.norm(part, axis=1)[:, None]
    cosines /= np.linalg.norm(vectors[moving], axis=1)
    places = range(len(moving))
    order = max(
        itertools.permutations(places),
        key=lambda rows: round(sum(abs(cosines[rows[i], i]) for i in places), 6),
    )
    sign = np.sign(np.sum(cosines[list(order), places])) or 1.0
    found = sign * part[list(order)] @ np.linalg.pinv(vectors[moving])
    basis[np.ix_(moving, moving)] = np.round(count * found) / count
    return basis


def _echelon(rows: Int[np.ndarray, "rows n"]) -> Int[np.ndarray, "rows n"]:
    """Rows with the same integer combinations, all zero after the n-th: by Euclid's
    algorithm, column by column."""
    rows = rows.copy()
    for column in range(rows.shape[1]):
        while np.any(left := rows[column + 1 :, column]):
            sizes = np.abs(rows[column:, column])
            first = column + int(np.argmin(np.where(sizes == 0, np.inf, sizes)))
            rows[[column, first]] = rows[[first, column]]
            left = rows[column + 1 :, column]
            rows[column + 1 :] -= (left // rows[column, column])[:, None] * rows[column]
    return rows
