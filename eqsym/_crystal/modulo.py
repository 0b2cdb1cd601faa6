"""Fractions modulo a lattice, and the tolerances within which they are equal."""

import itertools

import numpy as np
from jaxtyping import Bool, Float, Int


# Equal numbers differ for one of four reasons, each with a tolerance of its own.
# Arithmetic of float64, on fractions and lengths in Bohr up to thousands.
ROUNDING = 1e-9
# Two descriptions of one thing, in Bohr or in fractions: processors differ by 1e-14,
# files with eight digits by 1e-7. Forces are far below 1 Hartree per Bohr, so that no
# energy changes by 1e-6 Hartree.
SAME = 1e-6
# Nuclei that are not exactly at their symmetric places, in Bohr, unless the user asks
# for another precision.
SYMPREC = 1e-5
# Axes and planes, in fractions: they follow from operations that are as precise as the
# nuclei. Different ones are a twelfth apart, or a twelfth divided by the number of
# fractional translations.
SAME_ELEMENT = 1e-3


def is_whole(
    frac: Float[np.ndarray, "*batch n"], within: float = SAME
) -> Bool[np.ndarray, "*batch"]:
    """Whether vectors are lattice vectors: all their fractions are whole numbers."""
    return np.asarray(np.all(np.abs(frac - np.round(frac)) <= within, axis=-1))


def into_cell(
    frac: Float[np.ndarray, "..."], within: float = ROUNDING
) -> Float[np.ndarray, "..."]:
    """Fractions moved into [0, 1); 0 if they are 0 or 1 up to rounding, and just below
    0 if they are just below a whole number."""
    inside = frac - np.floor(frac + within)
    return np.where(np.abs(inside) < ROUNDING, 0.0, inside)


def length_modulo(
    vectors: Float[np.ndarray, "3 3"], frac: Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch"]:
    """Lengths in Bohr modulo lattice vectors, to be compared with a tolerance: exact
    for short vectors in any basis, and never too small. `from_nearest` is exact for
    long ones too."""
    return np.asarray(np.linalg.norm((frac - np.round(frac)) @ vectors, axis=-1))


def cosets(
    matrix: Int[np.ndarray, "3 3"], inverse: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "cells 3"]:
    """Integer vectors n with `n @ inverse` in the unit cube: one of each class modulo
    the rows of `matrix`; 0 first."""
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ matrix
    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    ranges = [range(a, b + 1) for a, b in zip(lowest, highest, strict=True)]
    points = np.array(list(itertools.product(*ranges)), dtype=np.float64)
    frac = points @ inverse
    inside = np.all((frac > -ROUNDING) & (frac < 1 - ROUNDING), axis=1)
    found = points[inside]
    return found[np.lexsort(found.T[::-1] ** 2)]
