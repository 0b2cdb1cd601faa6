"""Inverses, classes and subgroups, from the multiplication table of a group."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int


def inverses(
    table: Int[np.ndarray, "ops ops"], identity: int
) -> Int[np.ndarray, " ops"]:
    """The number of the inverse of each operation."""
    return np.argmax(table == identity, axis=1)


def conjugacy_classes(
    table: Int[np.ndarray, "ops ops"], inverse: Int[np.ndarray, " ops"]
) -> Int[np.ndarray, " ops"]:
    """The number of the class of each operation, by first operations."""
    conjugates = table[table, inverse[:, None]]
    _, first, label = np.unique(
        conjugates.min(axis=0), return_index=True, return_inverse=True
    )
    return np.argsort(np.argsort(first))[label]


def generated(
    table: Int[np.ndarray, "ops ops"], inside: Bool[np.ndarray, " ops"]
) -> Int[np.ndarray, " some"]:
    """The operations of the smallest subgroup that holds some of them."""
    inside = inside.copy()
    count = 0
    while count < np.sum(inside):
        some = np.flatnonzero(inside)
        count = len(some)
        inside[table[np.ix_(some, some)]] = True
    return np.flatnonzero(inside)


def check_closed(
    table: Int[np.ndarray, "ops ops"], some: Int[np.ndarray, " some"]
) -> None:
    """**Raises:** `ValueError` if a product of some operations is not among them."""
    outside = np.argwhere(~np.isin(table[np.ix_(some, some)], some))
    if len(outside):
        i, j = (int(some[k]) for k in outside[0])
        raise ValueError(
            f"`operations` must be closed under multiplication, but {i} times {j} is "
            f"{table[i, j]}, which is not among them. `SpaceGroup.generated_by` adds "
            "the missing ones."
        )


def checked_numbers(operations: Any, order: int) -> Int[np.ndarray, " some"]:
    """Numbers of operations as an array.

    **Raises:** `ValueError` if they are not numbers of operations.
    """
    numbers = np.asarray(operations)
    if numbers.size == 0:
        return np.zeros(0, dtype=int)
    if (
        numbers.ndim != 1
        or not np.issubdtype(numbers.dtype, np.integer)
        or np.any((numbers < 0) | (numbers >= order))
    ):
        raise ValueError(
            "`operations` must be a sequence of numbers of operations, 0 to "
            f"{order - 1}, got {numbers.tolist()}."
        )
    return numbers
