"""Bravais lattices, and the only conversion between fractional and Cartesian."""

import itertools
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._core import AbstractFixed, AbstractSummarized, checked, Numbers
from .modulo import ROUNDING


def frozen(values: Any, kind: type = float) -> Any:
    """An array as nested tuples, which are hashable."""

    def freeze(rows):
        return tuple(freeze(r) for r in rows) if isinstance(rows, list) else kind(rows)

    return freeze(np.asarray(values, dtype=np.float64).tolist())


class Lattice(AbstractFixed, AbstractSummarized):
    """A three-dimensional Bravais lattice, which converts between Cartesian and
    fractional coordinates; rows of `vectors` are lattice vectors.

    The cell may be left-handed; volumes are positive. All data is static: lattices are
    hashable, compare by value, and are constants of compiled functions.
    """

    _vectors: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    @checked
    def __init__(self, vectors: Numbers):
        """**Arguments:**

        - `vectors`: 3x3 numbers, rows are lattice vectors in Bohr.

        **Raises:** `ValueError` if the vectors are not three independent ones.
        """
        self._vectors = frozen(vectors)

    def __check_init__(self):
        if self.vectors.shape != (3, 3) or not np.all(np.isfinite(self.vectors)):
            raise ValueError(
                "`vectors` of a lattice must be three finite rows of three numbers, "
                f"got {self.vectors.tolist()}."
            )
        lengths = np.linalg.norm(self.vectors, axis=1)
        if np.any(lengths == 0) or self.volume < 1e-8 * np.prod(lengths):
            raise ValueError(
                "`vectors` of a lattice must be linearly independent, got "
                f"{self.vectors.tolist()}."
            )

    def _summary(self) -> str:
        vectors = self.vectors
        lengths = np.linalg.norm(vectors, axis=1)
        units = vectors / lengths[:, None]
        pairs = [(1, 2), (2, 0), (0, 1)]
        angles = [np.degrees(np.arccos(units[i] @ units[j])) for i, j in pairs]
        sizes = ", ".join(f"{length:.6g}" for length in lengths)
        return f"{sizes} Bohr, {', '.join(f'{angle:.6g}' for angle in angles)} degrees"

    @property
    def vectors(self) -> Float[np.ndarray, "..."]:
        """Lattice vectors as rows, (3, 3), in Bohr."""
        return np.array(self._vectors, dtype=np.float64)

    @property
    def volume(self) -> float:
        """Volume of the cell in cubic Bohr."""
        return float(abs(np.linalg.det(self.vectors)))

    @property
    def reciprocal(self) -> Float[np.ndarray, "3 3"]:
        r"""Reciprocal lattice vectors as rows, $a_i \cdot b_j = 2\pi\delta_{ij}$, in
        inverse Bohr."""
        return 2 * np.pi * np.linalg.inv(self.vectors).T

    @property
    def heights(self) -> Float[np.ndarray, "3"]:
        """Distances between opposite faces of the cell, in Bohr."""
        return 2 * np.pi / np.linalg.norm(self.reciprocal, axis=1)

    def to_cartesian(
        self, frac: Float[np.ndarray, "*batch 3"]
    ) -> Float[np.ndarray, "*batch 3"]:
        """Fractional coordinates to Bohr."""
        # Not a matrix product, whose last bits depend on the processor.
        first, second, third = self.vectors
        along = np.moveaxis(np.asarray(frac)[..., None], -2, 0)
        return along[0] * first + along[1] * second + along[2] * third

    def to_fractional(
        self, cart: Float[np.ndarray, "*batch 3"]
    ) -> Float[np.ndarray, "*batch 3"]:
        """Bohr to fractional coordinates."""
        return cart @ self.reciprocal.T / (2 * np.pi)

    def wrap(
        self, cart: Float[np.ndarray, "*batch 3"]
    ) -> Float[np.ndarray, "*batch 3"]:
        """Moves points, in Bohr, into the cell by lattice vectors."""
        frac = self.to_fractional(cart)
        return self.to_cartesian(frac - np.floor(frac + ROUNDING))

    def reduced(self) -> "Lattice":
        """The same lattice with Minkowski-reduced vectors, the shortest first: none can
        be made shorter by adding others, which in three dimensions need be tried only
        once each (Semaev, 2001, "A 3-dimensional lattice reduction algorithm")."""
        # Here rather than from ASE, which is an extra, or from spglib, whose Niggli
        # reduction stops at a tolerance of its own.
        basis = self.vectors
        improved = True
        while improved:
            improved = False
            basis = basis[np.argsort(np.linalg.norm(basis, axis=1), kind="stable")]
            for i, j in ((1, 0), (2, 0), (2, 1)):
                basis[i] -= (
                    np.round(basis[i] @ basis[j] / (basis[j] @ basis[j])) * basis[j]
                )
            for i in range(3):
                for m, n in itertools.product((-1, 0, 1), repeat=2):
                    shorter = basis[i] + m * basis[i - 1] + n * basis[i - 2]
                    if shorter @ shorter < (1 - 1e-10) * (basis[i] @ basis[i]):
                        basis[i], improved = shorter, True
        return Lattice(basis[np.argsort(np.linalg.norm(basis, axis=1), kind="stable")])

    @checked
    def points_within(self, radius: float) -> Float[np.ndarray, "points 3"]:
        """Lattice points, in Bohr, that can be within `radius` (Bohr) of the origin.

        Sorted by distance, the origin first.
        """
        reach = np.ceil(radius / self.heights).astype(int)
        grid = itertools.product(*(range(-n, n + 1) for n in reach))
        points = self.to_cartesian(np.array(list(grid), dtype=np.float64))
        distance = np.linalg.norm(points, axis=1)
        order = np.argsort(distance, kind="stable")
        return points[order][distance[order] <= radius]
