"""The arguments of a crystal: checked, in Bohr, and counted."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from .._core import Integer, whole_number
from .lattice import Lattice
from .nearest import from_nearest, inner_radius


Unit: TypeAlias = Literal["angstrom", "bohr"]

# CODATA 2018, the value PySCF uses.
BOHR_PER_ANGSTROM = 1 / 0.529177210903
# Nuclei closer than this (Bohr) are not matter: the shortest bond, H2, has 1.4.
_CLOSEST_NUCLEI = 0.5


def to_bohr(unit: Unit) -> float:
    """The length of a unit."""
    if unit == "bohr":
        return 1.0
    if unit == "angstrom":
        return BOHR_PER_ANGSTROM
    raise ValueError(f"`unit` must be 'angstrom' or 'bohr', got {unit!r}.")


@functools.cache
def _atomic_numbers() -> dict[str, int]:
    # Imported with the first crystal, in 0.1 s: `import eqsym` does without.
    from pyscf.data.elements import ELEMENTS

    # The table starts with a ghost.
    return {symbol: number for number, symbol in enumerate(ELEMENTS) if number}


def atomic_number(symbol: str) -> int:
    """The nuclear charge of an element.

    **Raises:** `ValueError` if there is no such element.
    """
    try:
        return _atomic_numbers()[symbol]
    except KeyError:
        raise ValueError(
            f"`species` must be element symbols such as 'Li', got {symbol!r}."
        ) from None


def given_positions(
    lattice: Lattice, cart: Any, frac: Any, scale: float
) -> Float[np.ndarray, "..."]:
    if (cart is None) == (frac is None):
        raise ValueError("Give exactly one of `cart_positions` and `frac_positions`.")
    if cart is not None:
        return np.asarray(cart, dtype=np.float64) * scale
    frac = np.asarray(frac, dtype=np.float64)
    return lattice.to_cartesian(frac) if frac.shape[-1:] == (3,) else frac


def supercell_matrix(supercell: Any) -> Int[np.ndarray, "3 3"]:
    given = np.asarray(supercell)
    if given.shape not in ((), (3,), (3, 3)):
        raise ValueError(
            "`supercell` must be an integer, three integers or a 3x3 integer matrix, "
            f"got shape {given.shape}."
        )
    listed = given.ravel().tolist()
    numbers = [whole_number("supercell", n, floats=True) for n in listed]
    given = np.reshape(numbers, given.shape)
    matrix = given if given.ndim == 2 else np.diag(np.broadcast_to(given, (3,)))
    if round(np.linalg.det(matrix)) == 0:
        raise ValueError(f"`supercell` must not be singular, got {given.tolist()}.")
    return matrix


def cell_count(supercell: Any) -> int:
    return int(round(abs(np.linalg.det(supercell_matrix(supercell)))))


def spin_channels(nuclear: int, charge: Any, spin: Any) -> tuple[int, int]:
    charge = whole_number("charge", charge, floats=True)
    electrons = nuclear - charge
    if electrons < 1:
        raise ValueError(
            f"`charge` {charge} leaves {electrons} electrons on nuclei of total charge "
            f"{nuclear}, expected at least 1."
        )
    if spin is None:
        spin = electrons % 2
    spin = whole_number("spin", spin, floats=True)
    if (electrons + spin) % 2 or abs(spin) > electrons:
        raise ValueError(
            f"`spin` (spin-up minus spin-down electrons) must have the parity of the "
            f"{electrons} electrons and be at most as large, got {spin}."
        )
    return (electrons + spin) // 2, (electrons - spin) // 2


def vacuum_directions(vacuum: Sequence[Integer] | Integer) -> tuple[int, ...]:
    """The directions, or the one direction, in order.

    **Raises:** `ValueError` if they are not lattice directions, or all three.
    """
    given = vacuum if isinstance(vacuum, Sequence) else (vacuum,)
    directions = tuple(sorted({whole_number("vacuum", i) for i in given}))
    twice = len(directions) < len(given)
    if twice or len(directions) > 2 or not set(directions) <= {0, 1, 2}:
        raise ValueError(
            "`vacuum` must be at most two of the lattice directions 0, 1, 2, each of "
            f"them once, such as `(2,)`, got {tuple(given)}."
        )
    return directions


def check_electrons(count: int, electrons: Any) -> None:
    """**Raises:** `ValueError` unless it is one configuration of so many electrons."""
    if np.shape(electrons) != (count, 3):
        raise ValueError(
            f"`electrons` must be one configuration, of shape ({count}, 3), such as "
            f"`result.walkers[0]`, got shape {np.shape(electrons)}."
        )


def check_distances(
    lattice: Lattice, species: Sequence[str], positions: Float[np.ndarray, "atoms 3"]
) -> None:
    """**Raises:** `ValueError` if two nuclei, or a nucleus and its own image, are so
    close that something must be wrong."""
    closest = (2 * inner_radius(lattice), 0, 0)
    if len(species) > 1:
        first, second = np.triu_indices(len(species), 1)
        apart = from_nearest(lattice, positions[first] - positions[second])
        distances = np.linalg.norm(apart, axis=1)
        pair = np.argmin(distances)
        other = float(distances[pair]), int(first[pair]), int(second[pair])
        closest = min(closest, other)
    distance, i, j = closest
    if distance < _CLOSEST_NUCLEI:
        raise ValueError(
            f"`cart_positions`: nuclei {i} ({species[i]}) and {j} ({species[j]}) or "
            f"their periodic images are {distance:.3g} Bohr apart, expected at least "
            f"{_CLOSEST_NUCLEI}. Either two nuclei overlap or `unit` is not the unit "
            "of the numbers given."
        )
