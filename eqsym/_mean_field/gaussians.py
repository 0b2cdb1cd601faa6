"""Orbitals of a crystal as sums of primitive Gaussians."""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Inexact

from .._crystal import Lattice


# Gaussians that nowhere in the cell add more than this to an orbital are left out.
_NEGLIGIBLE = 1e-10


@dataclasses.dataclass
class Gaussians:
    """Primitive Gaussians of one angular momentum l, for the cell around the origin,
    with weights that hold contraction, normalization, lattice sum, Bloch phases and
    orbital coefficients. Cartesian components in the order xx, xy, xz, yy, .."""

    l: int
    exponents: np.ndarray  # (terms,)
    centers: np.ndarray  # (terms, 3)
    weights: np.ndarray  # (components, terms, orbitals)


@dataclasses.dataclass
class Shell:
    """One contracted shell of the basis, with spherical harmonics in terms of Cartesian
    powers."""

    center: np.ndarray  # (3,)
    l: int
    exponents: np.ndarray  # (primitives,)
    # Coefficients of the Cartesian primitives in the basis functions.
    functions: np.ndarray  # (primitives, components, functions)


def shells_of(cell: Any) -> list[Shell]:
    from pyscf.gto import cart2sph

    shells = []
    for index in range(cell.nbas):
        l = cell.bas_angular(index)
        # libcint keeps the angular factors of s and p apart from the others.
        angular = cart2sph(l) if l < 2 else cart2sph(l, normalized="sp")
        contraction = cell._libcint_ctr_coeff(index)
        functions = np.einsum("pf,cm->pcfm", contraction, angular)
        shells.append(
            Shell(
                center=np.array(cell.bas_coord(index)),
                l=l,
                exponents=np.array(cell.bas_exp(index)),
                functions=functions.reshape(*functions.shape[:2], -1),
            )
        )
    return shells


def expand(
    lattice: Lattice,
    shells: list[Shell],
    kpoints: Float[np.ndarray, "orbitals 3"],
    coefficients: Inexact[np.ndarray, "functions orbitals"],
) -> tuple[Gaussians, ...]:
    """The orbitals as sums over all Gaussians that reach into the cell around the
    origin, -1/2 to 1/2 in fractions."""
    primitives: dict[int, dict[tuple, np.ndarray]] = {}
    start = 0
    for shell in shells:
        stop = start + shell.functions.shape[-1]
        weights = shell.functions @ coefficients[start:stop]
        same_l = primitives.setdefault(shell.l, {})
        for exponent, weight in zip(shell.exponents, weights, strict=True):
            key = (*shell.center.tolist(), float(exponent))
            same_l[key] = same_l.get(key, 0) + weight
        start = stop
    images = functools.partial(_images, lattice, kpoints)
    return tuple(
        _lattice_sum(l, same_l, images) for l, same_l in sorted(primitives.items())
    )


def _lattice_sum(l: int, primitives: dict[tuple, np.ndarray], images: Any) -> Gaussians:
    exponents, centers, weights = [], [], []
    for (*center, exponent), weight in primitives.items():
        points, phased = images(np.array(center), l, exponent, weight)
        exponents.append(np.full(len(points), exponent))
        centers.append(points)
        weights.append(phased)
    return Gaussians(
        l,
        np.concatenate(exponents),
        np.concatenate(centers),
        np.concatenate(weights, axis=1),
    )


def _images(
    lattice: Lattice,
    kpoints: Float[np.ndarray, "orbitals 3"],
    center: Float[np.ndarray, "3"],
    l: int,
    exponent: float,
    weight: Inexact[np.ndarray, "components orbitals"],
) -> tuple[
    Float[np.ndarray, "images 3"], Inexact[np.ndarray, "components images orbitals"]
]:
    """Centers of the images of one Gaussian that reach into the cell around the origin,
    and their weights with Bloch phases."""
    largest = float(np.max(np.abs(weight), initial=0.0))
    peak = np.sqrt(l / (2 * exponent))

    def reach(distance):
        distance = np.maximum(distance, peak)
        return largest * distance**l * np.exp(-exponent * distance**2)

    radii = np.arange(0.0, peak + np.sqrt(100 / exponent), 0.05)
    radius = float(radii[np.sum(reach(radii) > _NEGLIGIBLE) - 1]) + 0.05
    half_diagonal = 0.5 * float(np.sum(np.linalg.norm(lattice.vectors, axis=1)))
    shifts = lattice.points_within(
        radius + half_diagonal + float(np.linalg.norm(center))
    )
    distance = _distance_from_cell(lattice, center + shifts)
    keep = reach(distance) > _NEGLIGIBLE
    # One image at least, so that amplitudes deep in a vacuum are tiny but not zero.
    keep[np.argmin(distance)] = True
    shifts = shifts[keep]
    phases = np.exp(1j * shifts @ kpoints.T)
    if not np.iscomplexobj(weight):
        phases = np.real(phases)
    return center + shifts, weight[:, None] * phases[None]


def _distance_from_cell(
    lattice: Lattice, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, " points"]:
    """Distances of points from the parallelepiped of fractions -1/2 to 1/2.

    The nearest point is the foot of the perpendicular on the inside, a face, an edge or
    a corner: the nearest of the (up to 27) feet that exist.
    """
    best = np.full(len(points), np.inf)
    for sides in itertools.product((-0.5, 0.0, 0.5), repeat=3):
        fixed = np.array(sides)
        free = fixed == 0
        offset = points - fixed @ lattice.vectors
        frac = offset @ np.linalg.pinv(lattice.vectors[free])
        inside = np.all(np.abs(frac) <= 0.5 + 1e-9, axis=1)
        foot = frac @ lattice.vectors[free]
        distance = np.linalg.norm(offset - foot, axis=1)
        best = np.where(inside, np.minimum(best, distance), best)
    return best
