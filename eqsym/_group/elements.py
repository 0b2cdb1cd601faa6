"""Symmetry elements: the axes, planes and inversion centers of space groups."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from .._core import AbstractSummarized, as_fraction, checked
from .._crystal import into_cell, is_whole, SAME_ELEMENT
from .names import along_rows, ORDERS
from .space_group import SpaceGroup


_T = TypeVar("_T")


class SymmetryAxis(AbstractSummarized):
    """A rotation, screw or rotoinversion axis; see `symmetry_elements`."""

    order: int
    screw: int
    rotoinversion: int
    direction: Int[np.ndarray, "3"]
    point: Float[np.ndarray, "3"]

    def _summary(self) -> str:
        return f"{self.symbol} along {_listed(self.direction)} at {_listed(self.point)}"

    @property
    def symbol(self) -> str:
        """As printed: `"6"`, `"6_3"`, `"-4"`."""
        if self.rotoinversion > self.order or self.rotoinversion == self.order == 3:
            return f"-{self.rotoinversion}"
        return f"{self.order}_{self.screw}" if self.screw else f"{self.order}"


class SymmetryPlane(AbstractSummarized):
    """A mirror or glide plane; see `symmetry_elements`."""

    normal: Int[np.ndarray, "3"]
    offset: float
    glide: Float[np.ndarray, "3"]

    def _summary(self) -> str:
        kind = "mirror" if self.is_mirror else f"glide by {_listed(self.glide)}"
        return f"{kind}, normal {_listed(self.normal)} at {as_fraction(self.offset)}"

    @property
    def is_mirror(self) -> bool:
        """Whether it is a mirror plane and not a glide plane."""
        return bool(np.all(np.abs(self.glide) < SAME_ELEMENT))


class SymmetryElements(AbstractSummarized):
    """The symmetry elements of one primitive cell; see `symmetry_elements`."""

    axes: tuple[SymmetryAxis, ...]
    planes: tuple[SymmetryPlane, ...]
    centers: Float[np.ndarray, "centers 3"]

    def _summary(self) -> str:
        mirrors = sum(plane.is_mirror for plane in self.planes)
        counts = list(Counter(axis.symbol for axis in self.axes).items())
        counts += [("mirror", mirrors), ("glide", len(self.planes) - mirrors)]
        counts += [("center", len(self.centers))]
        return ", ".join(f"{n}x {name}" for name, n in counts if n)


@checked
def symmetry_elements(group: SpaceGroup) -> SymmetryElements:
    r"""Finds where the axes, planes and inversion centers of a space group are, one of
    each class modulo lattice translations.

    An operation $x' = R x + t$ moves the points of its axis or plane by the intrinsic
    part $w = n^{-1} \sum_{k<n} R^k t$ of its translation, with n the order of R; their
    places follow from $(1 - R) x = t - w$. Translations $t + L$ by all lattice vectors
    L count: next to every six-fold axis there are two three-fold and three two-fold
    ones.

    International Tables for Crystallography A (2016), chapter 1.2, and 2.1.2 for the
    symbols.

    **Arguments:**

    - `group`: the space group.

    **Returns:**

    All places, directions and shifts are in fractions of the primitive lattice vectors.

    - `axes`: the axes, of the highest order first, each with
        - `order`: the largest order N of rotations about it;
        - `screw`: p for the screw axis N_p, whose rotation by 2 pi / N,
            counterclockwise seen against `direction`, comes with a shift of p / N of
            `direction`; 0 for a rotation axis;
        - `rotoinversion`: the largest order (3, 4 or 6) of rotoinversions about it, or
            0;
        - `direction`: the shortest lattice vector along it;
        - `point`: one of its points;
        - `symbol`: as printed, `"6"`, `"6_3"`, `"-4"`.
    - `planes`: the planes, mirrors before glide planes, each with
        - `normal`: its Miller indices h, relatively prime;
        - `offset`: the plane is the set of points x with h . x = `offset`;
        - `glide`: the shortest shift that comes with the reflection, 0 for a mirror;
        - `is_mirror`: whether it is a mirror plane and not a glide plane.
    - `centers`: the inversion centers, (centers, 3).

    **Raises:** `ValueError` for arguments of the wrong kind.
    """
    vectors = group.crystal.lattice.vectors
    lines: list[_Line] = []
    planes: list[SymmetryPlane] = []
    centers: list[np.ndarray] = []
    for rotation, translation in zip(
        group.frac_rotations, group.frac_translations, strict=True
    ):
        proper = round(float(np.linalg.det(rotation))) == 1
        turn = rotation if proper else -rotation
        order = ORDERS[int(np.trace(turn))]
        # Lattice vectors that are multiples of this move no element to a new place.
        box = itertools.product(range(max(order, 2)), repeat=3)
        shifts = translation + np.array(list(box))
        if order == 1:
            centers.extend(() if proper else shifts / 2)
        elif order == 2 and not proper:
            planes.extend(_plane(rotation, shift, vectors) for shift in shifts)
        else:
            lines.extend(_lines(turn, order, proper, shifts, vectors))
    axes = [_merged_axis(same) for same in _classes(lines, _line_key)]
    flat = [_merged_plane(same, vectors) for same in _classes(planes, _plane_key)]
    points = [same[0] for same in _classes(centers, lambda point: ((), point))]
    return SymmetryElements(
        tuple(sorted(axes, key=lambda a: (-a.order, -a.rotoinversion, a.screw))),
        tuple(sorted(flat, key=lambda p: not p.is_mirror)),
        into_cell(np.array(points).reshape(-1, 3), SAME_ELEMENT),
    )


def _listed(numbers: np.ndarray) -> str:
    rounded = np.round(numbers, 9).astype(float).tolist()
    return f"({', '.join(map(as_fraction, rounded))})"


def integer_complement(vector: Int[np.ndarray, "3"]) -> Int[np.ndarray, "2 3"]:
    """A basis of the integer vectors orthogonal to one with relatively prime
    components. It maps all points of a line along the vector to the same numbers, and
    lines a lattice vector apart to numbers that differ by integers."""
    a, b, c = vector.tolist()
    if a == b == 0:
        return np.array([[1, 0, 0], [0, 1, 0]])
    divisor, p, q = _bezout(a, b)
    return np.array([[b // divisor, -a // divisor, 0], [p * c, q * c, -divisor]])


def _bezout(a: int, b: int) -> tuple[int, int, int]:
    """`(d, p, q)` with `p a + q b = d`, the greatest common divisor up to its sign."""
    if b == 0:
        return a, 1, 0
    divisor, p, q = _bezout(b, a % b)
    return divisor, q, p - (a // b) * q


class _Line(NamedTuple):
    """One operation with an axis; `screw` is its shift in units of `direction`, for the
    rotation in the positive sense."""

    direction: Int[np.ndarray, "3"]
    point: Float[np.ndarray, "3"]
    order: int
    screw: float
    proper: bool


def _lines(
    turn: Int[np.ndarray, "3 3"],
    order: int,
    proper: bool,
    shifts: Float[np.ndarray, "shifts 3"],
    vectors: Float[np.ndarray, "3 3"],
) -> list[_Line]:
    """The axes of the operations with the proper rotation `turn`, or with its product
    with the inversion, and these translations."""
    rotation = turn if proper else -turn
    powers = [np.linalg.matrix_power(turn, k) for k in range(order)]
    total = np.sum(powers, axis=0)
    # The sum projects onto the axis: its columns are multiples of the direction.
    direction = along_rows(total.T)
    intrinsic = shifts @ total.T / order if proper else np.zeros_like(shifts)
    points = (shifts - intrinsic) @ np.linalg.pinv(np.eye(3) - rotation).T
    across = np.eye(3)[np.argmin(np.abs(direction))]
    frame = np.array([direction, across, turn @ across]) @ vectors
    sense = 1 if order == 2 or np.linalg.det(frame) > 0 else -1
    screws = into_cell(
        sense * (intrinsic @ direction) / (direction @ direction), SAME_ELEMENT
    )
    return [
        _Line(direction, point, order, float(screw), proper)
        for point, screw in zip(points, screws, strict=True)
    ]


def _line_key(line: _Line) -> tuple[tuple[int, ...], np.ndarray]:
    across = integer_complement(line.direction)
    return tuple(line.direction.tolist()), across @ line.point


def _merged_axis(lines: Sequence[_Line]) -> SymmetryAxis:
    order = max(line.order for line in lines if line.proper)
    inversions = [line.order for line in lines if not line.proper]
    # More than one shift: `direction` is a multiple of a translation of the group.
    shifts = sorted(line.screw for line in lines if line.proper and line.order == order)
    different = 1 + int(np.sum(np.diff(shifts) > SAME_ELEMENT))
    screw = round(order * different * shifts[0])
    first = lines[0]
    return SymmetryAxis(
        order,
        screw,
        max(inversions, default=0),
        first.direction,
        into_cell(first.point, SAME_ELEMENT),
    )


def _plane(
    rotation: Int[np.ndarray, "3 3"],
    translation: Float[np.ndarray, "3"],
    vectors: Float[np.ndarray, "3 3"],
) -> SymmetryPlane:
    # h R = -h: the rows of 1 - R are multiples of h.
    rows = np.eye(3, dtype=int) - rotation
    normal = along_rows(rows)
    glide = (translation + rotation @ translation) / 2
    inside = integer_complement(normal)
    nearest = np.round(glide @ np.linalg.pinv(inside))
    box = np.array(list(itertools.product(range(-2, 3), repeat=2)))
    candidates = glide - (nearest + box) @ inside
    lengths = np.linalg.norm(candidates @ vectors, axis=1)
    shortest = candidates[np.argmin(np.round(lengths, 6))]
    return SymmetryPlane(normal, float(normal @ translation / 2), shortest)


def _plane_key(plane: SymmetryPlane) -> tuple[tuple[int, ...], np.ndarray]:
    return tuple(plane.normal.tolist()), np.array([plane.offset])


def _merged_plane(
    planes: Sequence[SymmetryPlane], vectors: Float[np.ndarray, "3 3"]
) -> SymmetryPlane:
    # More than one glide: a translation of the group lies in the plane.
    best = min(planes, key=lambda p: round(np.linalg.norm(p.glide @ vectors), 6))
    offset = float(into_cell(np.array(best.offset), SAME_ELEMENT))
    return SymmetryPlane(best.normal, offset, np.round(best.glide, 9) + 0.0)


def _classes(
    items: Sequence[_T], key: Callable[[_T], tuple[tuple[int, ...], np.ndarray]]
) -> list[list[_T]]:
    """Sets of items whose keys agree: the first part exactly, the second modulo
    integers."""
    found: list[tuple[tuple[int, ...], np.ndarray, list[_T]]] = []
    for item in items:
        kind, place = key(item)
        for other, first, same in found:
            if other == kind and is_whole(place - first, SAME_ELEMENT):
                same.append(item)
                break
        else:
            found.append((kind, place, [item]))
    return [same for *_, same in found]
