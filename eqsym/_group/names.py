"""Names of symmetry operations after the International Tables."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .._core import as_fraction, in_columns
from .operations import Operations


# The order of a proper rotation by its trace.
ORDERS = {3: 1, -1: 2, 0: 3, 1: 4, 2: 6}
# How far components may be from -1, 0 and 1 in a direction of x, y and z.
_STRAIGHT = 1e-4
# Translations nearer to a fraction than this are written as one.
_NEAR = 1e-5


class OperationName(NamedTuple):
    """The parts of a name such as `3+ [111] | 1/2 0 0`; those without meaning are
    empty.

    - `symbol`: the kind of operation, `"1"`, `"-1"`, `"3"`, `"-4"`, `"m"`, or `"t"` for
        a translation.
    - `sense`: `"+"` if the rotation is counterclockwise seen against `axis`.
    - `axis`: of the rotation, or the normal of the mirror plane.
    - `shift`: the translation, in fractions of the lattice vectors.
    """

    symbol: str
    sense: str
    axis: str
    shift: str

    def __str__(self) -> str:
        shift = f"| {self.shift}" if self.shift else ""
        parts = (f"{self.symbol}{self.sense}", self.axis, shift)
        return " ".join(part for part in parts if part)


def along_cartesian(operations: Operations) -> bool:
    """Whether all axes are along x, y, z or their diagonals, as in cubic crystals:
    then they are named by these, and otherwise by the lattice vectors."""
    vectors = np.array(operations.vectors)
    axes = [_turn(rotation)[1] for rotation in np.array(operations.rotations)]
    return all(_straight(axis @ vectors) is not None for axis in axes if axis.any())


def operation_names(operations: Operations) -> list[OperationName]:
    """The names of operations in order."""
    vectors, straight = np.array(operations.vectors), along_cartesian(operations)
    names = []
    for rotation, shift in zip(
        np.array(operations.rotations), operations.translations, strict=True
    ):
        order, axis = _turn(rotation)
        proper = round(float(np.linalg.det(rotation))) == 1
        direction = axis @ vectors
        shown = _straight(direction) if straight and axis.any() else axis
        assert shown is not None
        if direction @ (shown if straight else shown @ vectors) < 0:
            direction = -direction
        sense = ""
        if order > 2:
            turn = rotation if proper else -rotation
            counter = _is_counterclockwise(turn, direction, vectors)
            sense = "+" if counter else "-"
        written = [as_fraction(x, within=_NEAR, digits=4) for x in shift]
        symbol = f"{order}" if proper else "m" if order == 2 else f"-{order}"
        names.append(
            OperationName(
                symbol,
                sense,
                f"[{''.join(map(str, shown.tolist()))}]" if axis.any() else "",
                "" if set(written) == {"0"} else " ".join(written),
            )
        )
    return [
        name._replace(symbol="t") if name.symbol == "1" and name.shift else name
        for name in names
    ]


def listing(operations: Operations) -> str:
    """The numbered list of operations."""
    names = operation_names(operations)
    width = len(str(len(names) - 1))
    numbered = in_columns([f"{i:{width}}  {name}" for i, name in enumerate(names)])
    shifted = any(name.shift for name in names)
    return "\n".join([numbered, "", caption(operations, shifted)])


def caption(operations: Operations, shifted: bool) -> str:
    """Explains the numbers in names; `shifted` if there are translations."""
    axes = "x, y, z" if along_cartesian(operations) else "the lattice vectors"
    axes = f"Axes [...] along {axes}."
    return f"{axes} Translations in fractions of lattice vectors." if shifted else axes


def shortest_along(vector: Int[np.ndarray, "3"]) -> Int[np.ndarray, "3"]:
    """Divided by the greatest common divisor, the last component positive."""
    vector = vector // math.gcd(*vector.tolist())
    return vector if vector[np.flatnonzero(vector)[-1]] > 0 else -vector


def along_rows(rows: Int[np.ndarray, "3 3"]) -> Int[np.ndarray, "3"]:
    """The shortest vector along the rows of a matrix, which are multiples of one."""
    return shortest_along(rows[np.argmax(np.any(rows != 0, axis=1))])


def _turn(rotation: Int[np.ndarray, "3 3"]) -> tuple[int, Int[np.ndarray, "3"]]:
    """The order of the rotation, up to inversion, and its axis as a lattice vector; 0
    if there is none."""
    turn = rotation * round(float(np.linalg.det(rotation)))
    order = ORDERS[int(np.trace(turn))]
    if order == 1:
        return order, np.zeros(3, dtype=int)
    # The sum of all powers projects onto the axis.
    total = np.sum([np.linalg.matrix_power(turn, k) for k in range(order)], axis=0)
    return order, along_rows(total.T)


def _straight(direction: Float[np.ndarray, "3"]) -> Int[np.ndarray, "3"] | None:
    """A direction as -1, 0 and 1 of x, y and z, the last one positive."""
    scaled = direction / np.max(np.abs(direction))
    whole = np.round(scaled).astype(int)
    if np.max(np.abs(scaled - whole)) > _STRAIGHT:
        return None
    return shortest_along(whole)


def _is_counterclockwise(
    turn: Int[np.ndarray, "3 3"],
    direction: Float[np.ndarray, "3"],
    vectors: Float[np.ndarray, "3 3"],
) -> bool:
    """Seen against a Cartesian direction of its axis."""
    across = np.eye(3)[np.argmin(np.abs(np.linalg.solve(vectors.T, direction)))]
    frame = np.array([direction, across @ vectors, (turn @ across) @ vectors])
    return bool(np.linalg.det(frame) > 0)
