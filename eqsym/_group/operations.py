"""Arithmetic of symmetry operations on fractions of a lattice, in numpy."""

import functools
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from .._crystal import Crystal, is_whole, length_modulo


Rotations: TypeAlias = Int[np.ndarray, "ops 3 3"]
Translations: TypeAlias = Float[np.ndarray, "ops 3"]

# Memory of intermediate arrays, in numbers.
_CHUNK = 2**20


class Operations(NamedTuple):
    """Operations `x' = R x + t` on fractions of lattice vectors, taken modulo a
    sublattice: as static data, so that results can be cached.

    - `vectors`: lattice vectors as rows, in Bohr.
    - `matrix`: the sublattice, rows in terms of the lattice vectors.
    - `rotations`, `translations`: R and t.
    - `tolerance`: in Bohr; operations closer than this are the same.
    """

    vectors: tuple[tuple[float, ...], ...]
    matrix: tuple[tuple[int, ...], ...]
    rotations: tuple[tuple[tuple[int, ...], ...], ...]
    translations: tuple[tuple[float, ...], ...]
    tolerance: float

    def length(self, frac: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "..."]:
        """Length in Bohr of a vector modulo the sublattice; exact if it is short."""
        vectors = np.array(self.matrix) @ np.array(self.vectors)
        return length_modulo(vectors, frac @ np.linalg.inv(self.matrix))


class Products(NamedTuple):
    """Products `g_i g_j`; both arrays are shared and read-only.

    - `table`: number of the operation that is the product up to a translation, or -1 if
        there is none.
    - `translations`: the translation, a vector of the sublattice as integers of the
        lattice.
    """

    table: Int[np.ndarray, "ops ops"]
    translations: Int[np.ndarray, "ops ops 3"]


def operations_of(
    crystal: Crystal,
    rotations: Any,
    translations: Any,
    tolerance: float,
    *,
    supercell: bool = False,
) -> Operations:
    """Operations of a crystal, modulo its primitive lattice or its supercell's."""
    matrix = crystal.matrix if supercell else np.eye(3, dtype=int)
    return Operations(
        static_data(crystal.lattice.vectors),
        static_data(matrix),
        static_data(rotations),
        static_data(translations),
        tolerance,
    )


def static_data(values: Any) -> Any:
    """Nested tuples, which are hashable, of an array."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return tuple(map(static_data, values)) if isinstance(values, list) else values


def ordered(operations: Operations) -> tuple[Rotations, Translations]:
    """The identity first, and the others in order; with translations as
    `about_fixed_point` chooses them."""
    rotations = np.array(operations.rotations)
    translations = about_fixed_point(operations)
    identity = pure_translations(rotations) & np.all(translations == 0, axis=1)
    order = np.argsort(~identity, kind="stable")
    return rotations[order], translations[order]


def checked_operations(
    frac_rotations: Any, frac_translations: Any
) -> tuple[Rotations, Translations]:
    """Rotations and translations as arrays.

    **Raises:** `ValueError` if they have another shape or kind.
    """
    given = np.asarray(frac_rotations)
    translations = np.asarray(frac_translations, dtype=np.float64)
    if given.ndim != 3 or given.shape[1:] != (3, 3) or len(given) == 0:
        raise ValueError(
            "`frac_rotations` must be 3x3 matrices, of shape (ops, 3, 3) with at least "
            f"one operation, got shape {given.shape}."
        )
    if translations.shape != (len(given), 3) or not np.all(np.isfinite(translations)):
        raise ValueError(
            "`frac_translations` must be three finite numbers for each of the "
            f"{len(given)} `frac_rotations`, got shape {translations.shape}."
        )
    integers = np.round(given).astype(int)
    if not np.array_equal(integers, given):
        raise ValueError(
            "`frac_rotations` must be integers: they act on fractions of the primitive "
            "lattice vectors, not on Cartesian coordinates."
        )
    return integers, translations


def pure_translations(rotations: Rotations) -> Bool[np.ndarray, " ops"]:
    """Which operations are translations."""
    return np.all(rotations == np.eye(3, dtype=int), axis=(1, 2))


def is_identity(operations: Operations) -> Bool[np.ndarray, " ops"]:
    """Which operation is the identity, up to a vector of the sublattice."""
    moved = operations.length(np.array(operations.translations))
    pure = pure_translations(np.array(operations.rotations))
    return pure & (moved < operations.tolerance)


def _alike(
    rotations: Rotations,
) -> tuple[
    Int[np.ndarray, "kinds 3 3"], Int[np.ndarray, " ops"], Int[np.ndarray, "rows most"]
]:
    """The different rotations, the number of the rotation of each operation, and for
    each rotation the operations that have it, filled up with -1; one more row of -1 at
    the end."""
    flat, label = np.unique(rotations.reshape(-1, 9), axis=0, return_inverse=True)
    label = label.reshape(-1)
    members = np.full((len(flat) + 1, np.max(np.bincount(label))), -1)
    for kind in range(len(flat)):
        found = np.flatnonzero(label == kind)
        members[kind, : len(found)] = found
    return flat.reshape(-1, 3, 3), label, members


@functools.lru_cache(maxsize=32)
def products(operations: Operations) -> Products:
    """All products of operations. Cached, because groups ask when they are built and
    whenever their tables are wanted."""
    rotations = np.array(operations.rotations)
    translations = np.array(operations.translations)
    kinds, label, members = _alike(rotations)
    numbers = {kind.tobytes(): i for i, kind in enumerate(kinds)}
    which = np.array(
        [[numbers.get(both.tobytes(), -1) for both in one @ kinds] for one in kinds]
    )
    count = len(rotations)
    everything = np.arange(count)
    table = np.empty((count, count), dtype=int)
    left = np.zeros((count, count, 3), dtype=int)
    for i in range(count):
        candidates = members[which[label[i], label]]
        moved = translations @ rotations[i].T + translations[i]
        change = moved[:, None] - translations[candidates]
        good = (candidates >= 0) & (operations.length(change) < operations.tolerance)
        first = good.argmax(axis=1)
        found = good.any(axis=1)
        table[i] = np.where(found, candidates[everything, first], -1)
        left[i, found] = np.round(change[everything, first][found]).astype(int)
    table.setflags(write=False)
    left.setflags(write=False)
    return Products(table, left)


def repeated(operations: Operations) -> Int[np.ndarray, " ops"]:
    """For each operation the number of the first one that is the same."""
    translations = np.array(operations.translations)
    _, label, members = _alike(np.array(operations.rotations))
    candidates = members[label]
    change = translations[:, None] - translations[candidates]
    good = (candidates >= 0) & (operations.length(change) < operations.tolerance)
    return candidates[np.arange(len(label)), good.argmax(axis=1)]


def distinct(operations: Operations) -> Operations:
    """Of operations that are the same the first."""
    new = repeated(operations)
    keep = new == np.arange(len(new))
    return operations._replace(
        rotations=static_data(np.array(operations.rotations)[keep]),
        translations=static_data(np.array(operations.translations)[keep]),
    )


def with_translations(crystal: Crystal, operations: Operations) -> Operations:
    """All operations, each followed by all primitive translations in the supercell."""
    inside = crystal.lattice.to_fractional(crystal.translations)
    shifts = np.round(inside)[:, None] + np.array(operations.translations)
    rotations = np.tile(np.array(operations.rotations), (len(inside), 1, 1))
    shifts = shifts.reshape(-1, 3)
    tolerance = operations.tolerance
    return operations_of(crystal, rotations, shifts, tolerance, supercell=True)


def seen_from_fixed_point(operations: Operations) -> Operations:
    """The operations with the origin in a point that all of them fix modulo the
    lattice, if there is one: none has a translation then."""
    shifts = about_fixed_point(operations)
    matrix = (np.eye(3) - np.array(operations.rotations)).reshape(-1, 3)
    point = np.linalg.lstsq(matrix, shifts.reshape(-1), rcond=1e-9)[0]
    left = (shifts.reshape(-1) - matrix @ point).reshape(-1, 3)
    if np.any(operations.length(left) >= operations.tolerance):
        return operations
    return operations._replace(translations=static_data(np.zeros_like(shifts)))


def about_fixed_point(operations: Operations) -> Translations:
    """The translations; if all operations fix a point modulo the lattice, changed by
    lattice vectors so that products of operations are operations exactly."""
    rotations = np.array(operations.rotations)
    translations = np.array(operations.translations)
    point = _fixed_point(rotations, translations)
    change = rotations @ point + translations - point
    if np.any(operations.length(change) >= operations.tolerance):
        return translations
    return translations - np.round(change)


def _fixed_point(
    rotations: Rotations, translations: Translations
) -> Float[np.ndarray, "3"]:
    """A point with `(1 - R) p = t` modulo integers for all operations; any point if
    there is none."""
    rows = (np.eye(3, dtype=int) - rotations).reshape(-1, 3)
    values = translations.reshape(-1).copy()
    # Row echelon form in integers, by Euclid's algorithm: values stay defined modulo 1.
    pivots: list[int] = []
    for column in range(3):
        top = len(pivots)
        while np.any(left := rows[top:, column]):
            sizes = np.where(left == 0, np.iinfo(int).max, np.abs(left))
            first = top + int(np.argmin(sizes))
            rows[[top, first]], values[[top, first]] = (
                rows[[first, top]],
                values[[first, top]],
            )
            times = rows[top + 1 :, column] // rows[top, column]
            rows[top + 1 :] -= times[:, None] * rows[top]
            values[top + 1 :] -= times * values[top]
            values -= np.round(values)
            if not np.any(rows[top + 1 :, column]):
                pivots.append(column)
                break
    point = np.zeros(3)
    for row, column in reversed(list(enumerate(pivots))):
        point[column] = (values[row] - rows[row] @ point) / rows[row, column]
    return point


def maps_nuclei(
    crystal: Crystal, rotations: Rotations, translations: Translations, tolerance: float
) -> Bool[np.ndarray, " ops"]:
    """Whether operations map each nucleus to one of the same species."""
    charges = crystal.atomic_numbers
    alike = charges[:, None] == charges
    good = np.empty(len(rotations), dtype=bool)
    for some in chunks(len(rotations), len(charges) ** 2):
        gaps = gaps_of(crystal, rotations[some], translations[some])
        onto = (length_modulo(crystal.lattice.vectors, gaps) < tolerance) & alike
        good[some] = np.all(onto.any(axis=2) & onto.any(axis=1), axis=1)
    return good


def keeps_supercell(crystal: Crystal, rotations: Rotations) -> Bool[np.ndarray, " ops"]:
    """Whether rotations map the supercell lattice to itself."""
    # Supercell vectors have integer y, so their images must be integer too. R^-1 is a
    # power of R, so the lattice is then mapped onto itself.
    inside = supercell_rotations(crystal, rotations)
    return np.all(is_whole(inside), axis=1)


def keeps_twist(crystal: Crystal, rotations: Rotations) -> Bool[np.ndarray, " ops"]:
    """Whether rotations map the twist to itself, up to a reciprocal vector of the
    supercell."""
    # k.r is the same before and after, so the row of fractions k goes to k Q^-1; this
    # is k modulo integers if k Q is, because Q and Q^-1 are integer.
    change = crystal.twist @ supercell_rotations(crystal, rotations) - crystal.twist
    return is_whole(change)


def supercell_rotations(
    crystal: Crystal, rotations: Rotations
) -> Float[np.ndarray, "ops 3 3"]:
    """The same rotations on columns of fractions of the supercell vectors: S^-T R S^T,
    as the two kinds of fractions are related by x = S^T y."""
    columns = crystal.matrix.T
    return np.linalg.inv(columns) @ rotations @ columns


def chunks(count: int, size: int) -> list[slice]:
    """Parts of `count` operations that need `size` vectors each."""
    step = max(1, _CHUNK // size)
    return [slice(start, start + step) for start in range(0, count, step)]


def gaps_of(
    crystal: Crystal, rotations: Rotations, translations: Translations, frac: Any = None
) -> Float[np.ndarray, "ops nuclei nuclei 3"]:
    """From each nucleus to the images of each, `[g, i, j]` from j to g of i."""
    if frac is None:
        frac = crystal.lattice.to_fractional(crystal.cart_positions)
    images = np.einsum("gij,nj->gni", rotations, frac) + translations[:, None]
    return images[:, :, None] - frac
