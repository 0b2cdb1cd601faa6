"""Lattices and k-points that do not depend on the vectors a lattice is given by."""

import functools
import itertools

import numpy as np
from jaxtyping import Bool, Float

from .._crystal import Lattice


# Vectors this close in length, relative, are as long as each other: coordinates in
# structure files are rounded.
_ALIKE = 1e-3
# Not perpendicular to any vector of a lattice that people use.
DIRECTION = np.sqrt([1.0, 2.0, 3.0])
_STEPS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
_SIGNS = np.array(list(itertools.product((-1, 1), repeat=3)))
_TRIPLES = np.array(list(itertools.combinations(range(14, 27), 3)))
_PERMUTATIONS = tuple(itertools.permutations(range(3)))


@functools.lru_cache(maxsize=64)
def compact_lattice(lattice: Lattice) -> Lattice:
    """The same lattice by vectors that are as short as possible, and the same ones
    whatever vectors it was given by.

    Sums over lattice vectors, such as the features of a network, depend on the vectors.
    Of all triples of shortest vectors, with either sign, the one is chosen that most
    permutations map to itself, so that sums over it keep most of the symmetry; then the
    most obtuse one, of which periodic distances are the most isotropic; then the one
    that points most in a fixed direction. So the usual vectors of cubic, face- and
    body-centered cubic, hexagonal and orthogonal lattices stay as they are.
    """
    shortest = lattice.reduced().vectors
    limits = (1 + _ALIKE) * np.linalg.norm(shortest, axis=1)
    steps = _STEPS[_TRIPLES]
    triples = steps @ shortest
    lengths = np.sort(np.linalg.norm(triples, axis=2), axis=1)
    bases = np.round(np.abs(np.linalg.det(steps))) == 1
    triples = triples[bases & np.all(lengths <= limits, axis=1)]
    triples = (_SIGNS[None, :, :, None] * triples[:, None]).reshape(-1, 3, 3)

    metrics = triples @ np.swapaxes(triples, 1, 2) / limits[2] ** 2
    kept = [
        np.all(np.abs(metrics[:, p][:, :, p] - metrics) < _ALIKE, axis=(1, 2))
        for p in map(list, _PERMUTATIONS)
    ]
    norms = np.linalg.norm(triples, axis=2)
    cosines = np.einsum("tix,tjx->tij", triples, triples)
    cosines /= norms[:, :, None] * norms[:, None, :]
    along = triples @ DIRECTION / limits[2]
    criteria = (
        -np.sum(kept, axis=0, dtype=float),
        np.sum(cosines, axis=(1, 2)),
        -np.sum(along, axis=1),
        -np.sum(along**2, axis=1),
    )
    left = np.ones(len(triples), dtype=bool)
    for criterion in criteria:
        left &= _least(criterion, left)
    vectors = triples[np.argmax(left)]
    return Lattice(vectors[np.argsort(-along[np.argmax(left)])])


def _least(
    values: Float[np.ndarray, " triples"], left: Bool[np.ndarray, " triples"]
) -> Bool[np.ndarray, " triples"]:
    return values <= np.min(values[left]) + _ALIKE


def shortest_kpoints(
    lattice: Lattice, kpoints: Float[np.ndarray, "kpoints 3"]
) -> Float[np.ndarray, "kpoints 3"]:
    """The shortest k-points modulo reciprocal vectors, in inverse Bohr; of those on the
    boundary of the Brillouin zone the one that points most in a fixed direction.

    At most one step in each direction from the one that rounding gives, as for points
    near a lattice point in `_nearest`.
    """
    reciprocal = Lattice(lattice.reciprocal).reduced()
    inside = kpoints - reciprocal.to_cartesian(
        np.round(reciprocal.to_fractional(kpoints))
    )
    images = inside[:, None] + reciprocal.to_cartesian(_STEPS.astype(float))
    lengths = np.linalg.norm(images, axis=2)
    scale = np.linalg.norm(reciprocal.vectors[2])
    short = lengths <= np.min(lengths, axis=1, keepdims=True) + 1e-6 * scale
    along = np.where(short, images @ DIRECTION, -np.inf)
    return images[np.arange(len(kpoints)), np.argmax(along, axis=1)]
