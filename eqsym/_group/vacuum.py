"""Slabs and chains: crystals that are finite in some lattice directions."""

import itertools

import numpy as np
from jaxtyping import Bool, Int

from .._crystal import Crystal, length_modulo, ROUNDING, widest_gap
from .operations import chunks, gaps_of, Rotations, Translations


def check_vacuum(crystal: Crystal, vacuum: tuple[int, ...], least: float) -> None:
    """**Raises:** `ValueError` if a crystal is not finite in these directions, for lack
    of vacuum (`least`, in Bohr) or because the supercell repeats it."""
    for direction in vacuum:
        gap = vacuum_gap(crystal, direction)[0]
        if gap < least - ROUNDING:
            raise ValueError(
                f"`vacuum`: between nuclei and their periodic images in direction "
                f"{direction} there must be at least `min_vacuum` = {least:g} Bohr, "
                f"got {gap:.4g}. Make the lattice vector longer, or leave the "
                "direction out of `vacuum`, such as `vacuum=()`."
            )
    along = crystal.matrix[:, list(vacuum)]
    if vacuum and not _generates_all(along):
        raise ValueError(
            f"`vacuum` {vacuum}: the supercell {crystal.matrix.tolist()} repeats the "
            "crystal in these directions, in which it is said to be finite. Use a "
            "supercell of the other directions only, or leave them out of `vacuum`, "
            "such as `vacuum=()`."
        )


def _generates_all(rows: Int[np.ndarray, "3 directions"]) -> bool:
    """Whether integer combinations of the rows give all integer vectors."""
    count = rows.shape[1]
    minors = [
        round(np.linalg.det(rows[list(some)]))
        for some in itertools.combinations(range(3), count)
    ]
    return int(np.gcd.reduce(minors)) == 1


def keeps_plane(
    rotations: Rotations, vacuum: tuple[int, ...]
) -> Bool[np.ndarray, " ops"]:
    """Whether rotations map the span of the lattice vectors without vacuum to
    itself."""
    rest = [i for i in range(3) if i not in vacuum]
    return np.all(rotations[:, list(vacuum)][:, :, rest] == 0, axis=(1, 2))


def keeps_vacuum(
    crystal: Crystal,
    rotations: Rotations,
    translations: Translations,
    vacuum: tuple[int, ...],
) -> Bool[np.ndarray, " ops"]:
    """Whether operations of a crystal are operations of the slab or chain alone: they
    keep the span of the other directions, and take all nuclei to the same periodic
    image of it."""
    if not vacuum:
        return np.ones(len(rotations), dtype=bool)
    along = list(vacuum)
    inside = crystal.lattice.to_fractional(crystal.cart_positions)
    for direction in along:
        start = vacuum_gap(crystal, direction)[1]
        place = inside[:, direction]
        inside[:, direction] = start + (place - start) % 1.0
    good = np.empty(len(rotations), dtype=bool)
    for some in chunks(len(rotations), len(inside) ** 2):
        gaps = gaps_of(crystal, rotations[some], translations[some], inside)
        lengths = length_modulo(crystal.lattice.vectors, gaps)
        alike = crystal.atomic_numbers[:, None] == crystal.atomic_numbers
        nearest = np.argmin(np.where(alike, lengths, np.inf), axis=2)
        change = np.take_along_axis(gaps, nearest[:, :, None, None], axis=2)
        image = np.round(change[:, :, 0, along])
        good[some] = np.all(image == image[:, :1], axis=(1, 2))
    return good & keeps_plane(rotations, vacuum)


def vacuum_gap(crystal: Crystal, direction: int) -> tuple[float, float]:
    """The widest layer without nuclei between planes of the two other lattice vectors:
    its width in Bohr, and the fraction in its middle."""
    return widest_gap(crystal.lattice.vectors, crystal.cart_positions, direction)
