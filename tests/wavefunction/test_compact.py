"""Lattice vectors and k-points that do not depend on how a lattice is described."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from eqsym._wavefunction.compact import compact_lattice, shortest_kpoints


_PRESETS = {
    "fcc": eqs.Crystal.fcc("Li", a=4.0, unit="bohr").lattice,
    "bcc": eqs.Crystal.bcc("Li", a=4.0, unit="bohr").lattice,
    "hexagonal": eqs.Crystal.graphene(a=2.46, vacuum=9.0, unit="bohr").lattice,
    "flat hexagonal": eqs.Crystal.graphene(a=2.46, vacuum=2.0, unit="bohr").lattice,
    "orthogonal": eqs.Lattice(np.diag([3.0, 5.0, 4.0])),
    "cubic": eqs.Lattice(3.0 * np.eye(3)),
}
_SEEDS = st.integers(0, 2**16)


def _described(lattice, seed):
    """By other vectors."""
    rng, numbers = np.random.default_rng(seed), np.eye(3)
    for _ in range(4):
        i, j = rng.choice(3, 2, replace=False)
        numbers[i] += rng.integers(-2, 3) * numbers[j]
        numbers *= rng.choice([-1, 1], 3)[:, None]
    return eqs.Lattice(rng.permutation(numbers) @ lattice.vectors)


@pytest.mark.parametrize("name", sorted(_PRESETS))
@settings(max_examples=20, deadline=None)
@given(seed=_SEEDS)
def test_usual_vectors_are_found_from_any(name, seed):
    usual = _PRESETS[name].vectors
    found = compact_lattice(_described(_PRESETS[name], seed)).vectors
    order = [np.argmin(np.linalg.norm(found - vector, axis=1)) for vector in usual]
    np.testing.assert_allclose(found[order], usual, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(vectors=_SEEDS, seed=_SEEDS)
def test_one_choice_for_every_lattice(vectors, seed):
    lattice = eqs.Lattice(np.random.default_rng(vectors).normal(size=(3, 3)))
    other = _described(lattice, seed)
    found = compact_lattice(lattice)
    np.testing.assert_allclose(compact_lattice(other).vectors, found.vectors, atol=1e-8)
    # The same lattice, and no vector longer than the shortest that there are.
    numbers = lattice.to_fractional(found.vectors)
    np.testing.assert_allclose(numbers, np.round(numbers), atol=1e-8)
    assert round(abs(np.linalg.det(numbers))) == 1
    lengths = np.sort(np.linalg.norm(found.vectors, axis=1))
    shortest = np.linalg.norm(lattice.reduced().vectors, axis=1)
    np.testing.assert_array_less(lengths, 1.0011 * shortest)


@settings(max_examples=30, deadline=None)
@given(seed=_SEEDS)
def test_shortest_kpoints(seed):
    rng = np.random.default_rng(seed)
    lattice = _described(_PRESETS["fcc"], seed)
    # Among them some at the centers of faces of the Brillouin zone.
    k = rng.integers(-4, 5, (3, 3)) / 4 @ lattice.reciprocal
    found = shortest_kpoints(lattice, k)
    turns = (found - k) @ lattice.vectors.T / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-9)
    box = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    images = found[:, None] + box @ _PRESETS["fcc"].reciprocal
    naive = np.min(np.linalg.norm(images, axis=2), axis=1)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), naive, atol=1e-9)
    # The same one from any other.
    moved = k + rng.integers(-2, 3, (3, 3)) @ lattice.reciprocal
    again = shortest_kpoints(_described(lattice, seed), moved)
    np.testing.assert_allclose(again, found, atol=1e-9)
