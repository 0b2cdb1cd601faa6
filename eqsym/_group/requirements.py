"""Conditions on operations to be a symmetry group of a crystal."""

import numpy as np
from jaxtyping import Bool, Float

from .._crystal import Crystal
from .operations import (
    is_identity,
    keeps_supercell,
    keeps_twist,
    maps_nuclei,
    Operations,
    products,
    repeated,
    Rotations,
)
from .vacuum import keeps_plane


_ADVICE = " Use `SpaceGroup.of` to find the operations of a crystal."


def check_group(
    crystal: Crystal, operations: Operations, vacuum: tuple[int, ...], lattice: str
) -> None:
    """**Raises:** `ValueError` that says which operation fails which requirement, or
    how all of them together fail to be a group modulo translations of `lattice`."""
    rotations = np.array(operations.rotations)
    translations = np.array(operations.translations)
    count = len(rotations)

    def described(i) -> str:
        shift = np.round(translations[i], 6).tolist()
        return (
            f"operation {int(i)} (rotation {rotations[i].tolist()}, translation "
            f"{shift})"
        )

    for name, good in (
        ("be an isometry", _isometric(crystal, rotations, operations.tolerance)),
        (
            "map each nucleus to one of the same species",
            maps_nuclei(crystal, rotations, translations, operations.tolerance),
        ),
        ("map the supercell lattice to itself", keeps_supercell(crystal, rotations)),
        (
            "keep the twist, up to a reciprocal vector of the supercell",
            keeps_twist(crystal, rotations),
        ),
        (
            f"keep the span of the directions without `vacuum` {vacuum}",
            keeps_plane(rotations, vacuum),
        ),
    ):
        if not np.all(good):
            i = int(np.argmin(good))
            raise ValueError(
                "`frac_rotations` and `frac_translations`: every operation must "
                f"{name}, but {int(np.sum(~good))} of {count} do not, first "
                f"{described(i)}.{_ADVICE}"
            )
    first = repeated(operations)
    if np.any(first != np.arange(count)):
        j = int(np.argmax(first != np.arange(count)))
        raise ValueError(
            "`frac_rotations` and `frac_translations` must be free of duplicates "
            f"modulo {lattice} translations, but {described(first[j])} is the same as "
            f"{described(j)}.{_ADVICE}"
        )
    if not np.any(is_identity(operations)):
        raise ValueError(
            "`frac_rotations` and `frac_translations` must contain the identity, got "
            f"{count} operations without it.{_ADVICE}"
        )
    missing = np.argwhere(products(operations).table < 0)
    if len(missing):
        i, j = missing[0]
        raise ValueError(
            "`frac_rotations` and `frac_translations` must be closed under "
            f"multiplication modulo {lattice} translations, but the product of "
            f"{described(i)} and {described(j)} is not among the {count} operations."
            f"{_ADVICE}"
        )


def check_same(own: Crystal, other: Crystal) -> None:
    """**Raises:** `ValueError` if the crystal of a group is not the other one."""
    different = own.difference(other, electrons=False)
    if different is not None:
        raise ValueError(
            "The space group must be one of this crystal, but its crystal is another "
            f"one: between them {different}. Build it with `SpaceGroup.of` from the "
            "crystal of the wave function."
        )


def cartesian(crystal: Crystal, rotations: Rotations) -> Float[np.ndarray, "ops 3 3"]:
    """Rotations on columns of Cartesian coordinates."""
    # Lattice vectors are rows, so r = A^T x.
    columns = crystal.lattice.vectors.T
    return columns @ rotations @ np.linalg.inv(columns)


def _isometric(
    crystal: Crystal, rotations: Rotations, tolerance: float
) -> Bool[np.ndarray, " ops"]:
    longest = np.max(np.linalg.norm(crystal.lattice.vectors, axis=1))
    turned = cartesian(crystal, rotations)
    square = turned @ np.swapaxes(turned, 1, 2)
    return np.max(np.abs(square - np.eye(3)), axis=(1, 2)) * longest < tolerance
