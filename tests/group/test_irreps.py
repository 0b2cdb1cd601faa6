"""Irreducible representations: labels from the textbooks, characters from spgrep, the
orthogonality relations, matrices."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from spgrep.rep.enumerate import enumerate_unitary_irreps_from_regular_representation

import eqsym as eqs
import group_toys


# The 32 point groups and their irreps, from F. A. Cotton, Chemical Applications of
# Group Theory, appendix II; complex pairs, there in braces under one name, are told
# apart by 1 and 2. Then the irreps of x, y, z and of the axial vectors.
_POINT_GROUPS = {
    "1": ("A", "A A A", "A A A"),
    "-1": ("Ag Au", "Au Au Au", "Ag Ag Ag"),
    "2": ("A B", "A B B", "A B B"),
    "m": ("A' A''", "A' A' A''", "A' A'' A''"),
    "2/m": ("Ag Bg Au Bu", "Au Bu Bu", "Ag Bg Bg"),
    "222": ("A B1 B2 B3", "B1 B2 B3", "B1 B2 B3"),
    "mm2": ("A1 A2 B1 B2", "A1 B1 B2", "A2 B1 B2"),
    "mmm": ("Ag B1g B2g B3g Au B1u B2u B3u", "B1u B2u B3u", "B1g B2g B3g"),
    "4": ("A B 1E 2E", "A 1E 2E", "A 1E 2E"),
    "-4": ("A B 1E 2E", "B 1E 2E", "A 1E 2E"),
    "4/m": ("Ag Bg 1Eg 2Eg Au Bu 1Eu 2Eu", "Au 1Eu 2Eu", "Ag 1Eg 2Eg"),
    "422": ("A1 A2 B1 B2 E", "A2 E", "A2 E"),
    "4mm": ("A1 A2 B1 B2 E", "A1 E", "A2 E"),
    "-42m": ("A1 A2 B1 B2 E", "B2 E", "A2 E"),
    "4/mmm": ("A1g A2g B1g B2g Eg A1u A2u B1u B2u Eu", "A2u Eu", "A2g Eg"),
    "3": ("A 1E 2E", "A 1E 2E", "A 1E 2E"),
    "-3": ("Ag 1Eg 2Eg Au 1Eu 2Eu", "Au 1Eu 2Eu", "Ag 1Eg 2Eg"),
    "32": ("A1 A2 E", "A2 E", "A2 E"),
    "3m": ("A1 A2 E", "A1 E", "A2 E"),
    "-3m": ("A1g A2g Eg A1u A2u Eu", "A2u Eu", "A2g Eg"),
    "6": ("A B 1E1 2E1 1E2 2E2", "A 1E1 2E1", "A 1E1 2E1"),
    "-6": ("A' 1E' 2E' A'' 1E'' 2E''", "A'' 1E' 2E'", "A' 1E'' 2E''"),
    "6/m": (
        "Ag Bg 1E1g 2E1g 1E2g 2E2g Au Bu 1E1u 2E1u 1E2u 2E2u",
        "Au 1E1u 2E1u",
        "Ag 1E1g 2E1g",
    ),
    "622": ("A1 A2 B1 B2 E1 E2", "A2 E1", "A2 E1"),
    "6mm": ("A1 A2 B1 B2 E1 E2", "A1 E1", "A2 E1"),
    "-6m2": ("A1' A2' E' A1'' A2'' E''", "A2'' E'", "A2' E''"),
    "6/mmm": (
        "A1g A2g B1g B2g E1g E2g A1u A2u B1u B2u E1u E2u",
        "A2u E1u",
        "A2g E1g",
    ),
    "23": ("A 1E 2E T", "T", "T"),
    "m-3": ("Ag 1Eg 2Eg Tg Au 1Eu 2Eu Tu", "Tu", "Tg"),
    "432": ("A1 A2 E T1 T2", "T1", "T1"),
    "-43m": ("A1 A2 E T1 T2", "T2", "T1"),
    "m-3m": ("A1g A2g Eg T1g T2g A1u A2u Eu T1u T2u", "T1u", "T1g"),
}


@functools.cache
def _hall_numbers():
    """The first Hall number of each point group and of each space group."""
    points, spaces = {}, {}
    for hall in range(1, 531):
        kind = group_toys.space_group_type(hall)
        points.setdefault(kind.pointgroup_international, hall)
        spaces.setdefault(kind.number, hall)
    return points, tuple(spaces.values())


@functools.cache
def _point_group(symbol):
    """Only rotations, about one point of a primitive cell."""
    rotations, _ = group_toys.database(_hall_numbers()[0][symbol])
    rotations = np.unique(rotations, axis=0)
    still = np.zeros((len(rotations), 3))
    return eqs.SpaceGroup(group_toys.crystal_for(rotations, still), rotations, still)


@functools.cache
def _space_group(hall):
    """All operations in the conventional cell: with centering translations, a group of
    translations by fractions of its cell."""
    operations = group_toys.database(hall)
    return eqs.SpaceGroup(group_toys.crystal_for(*operations), *operations)


@functools.cache
def _table(group):
    return group.multiplication_table


def _close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def _assert_same_rows(one, other):
    """The same characters in any order."""
    assert one.shape == other.shape
    overlap = one @ np.conj(other.T) / one.shape[1]
    # A permutation.
    _close(np.sort(overlap, axis=0)[-1], 1)
    _close(overlap @ np.conj(overlap.T), np.eye(len(one)))


def _characters(group):
    return np.array([irrep.characters for irrep in eqs.irreps(group)])


@pytest.mark.parametrize("symbol", sorted(_POINT_GROUPS))
def test_point_groups(symbol):
    group = _point_group(symbol)
    labels, polar, axial = _POINT_GROUPS[symbol]
    irreps = {irrep.label: irrep for irrep in eqs.irreps(group)}
    assert list(irreps) == labels.split()
    assert np.all(eqs.irreps(group)[0].characters == 1)
    turns = group.cart_rotations
    vector = np.trace(turns, axis1=1, axis2=2)
    _close(sum(irreps[label].characters for label in polar.split()), vector)
    vector = vector * np.round(np.linalg.det(turns))
    _close(sum(irreps[label].characters for label in axial.split()), vector)


def _spgrep(group):
    table, order = _table(group), group.order
    regular = np.zeros((order,) * 3)
    g, x = np.indices((order, order))
    regular[g, table, x] = 1
    matrices = enumerate_unitary_irreps_from_regular_representation(regular)
    return np.array([np.trace(m, axis1=1, axis2=2) for m in matrices])


@pytest.mark.parametrize("symbol", sorted(_POINT_GROUPS))
def test_characters_of_point_groups_are_those_of_spgrep(symbol):
    group = _point_group(symbol)
    _assert_same_rows(_characters(group), _spgrep(group))


# Up to 48 operations: spgrep's matrices grow with the cube.
_SPACE_GROUPS = st.deferred(
    lambda: st.sampled_from(
        [h for h in _hall_numbers()[1] if len(group_toys.database(h)[0]) <= 48]
    )
)


@settings(max_examples=25)
@given(_SPACE_GROUPS)
def test_characters_of_space_groups_are_those_of_spgrep(hall):
    group = _space_group(hall)
    _assert_same_rows(_characters(group), _spgrep(group))


@settings(max_examples=40)
@given(_SPACE_GROUPS)
def test_orthogonality(hall):
    group = _space_group(hall)
    table = eqs.character_table(group)
    dimensions = np.array([irrep.dimension for irrep in table.irreps])
    assert np.sum(dimensions**2) == group.order
    sizes = np.array([len(some) for some in table.classes])
    values = table.values
    assert values.shape == (len(sizes), len(sizes)) and sizes.sum() == group.order
    rows = (values * sizes) @ np.conj(values.T)
    _close(rows, group.order * np.eye(len(sizes)))
    columns = np.conj(values.T) @ values
    _close(columns, np.diag(group.order / sizes))
    assert len({irrep.label for irrep in table.irreps}) == len(sizes)
    assert table.irreps[0].label.startswith("A")
    assert np.all(table.irreps[0].characters == 1)


@settings(max_examples=40)
@given(_SPACE_GROUPS)
def test_matrices(hall):
    group = _space_group(hall)
    table = _table(group)
    for irrep in eqs.irreps(group):
        d, matrices = irrep.dimension, irrep.matrices
        assert matrices.shape == (group.order, d, d)
        products = np.einsum("gij,hjk->ghik", matrices, matrices)
        _close(products, matrices[table])
        adjoint = np.conj(np.swapaxes(matrices, 1, 2))
        _close(matrices @ adjoint, np.broadcast_to(np.eye(d), matrices.shape))
        _close(np.trace(matrices, axis1=1, axis2=2), irrep.characters)
        # D and its conjugate have a matrix between them, symmetric or antisymmetric,
        # or none.
        between = np.einsum("gij,gkl->ikjl", matrices, matrices).reshape(d * d, -1)
        ranks = np.linalg.matrix_rank(between, tol=1e-6)
        assert ranks == abs(irrep.indicator)
        assert np.isrealobj(matrices) == (irrep.indicator == 1)
        assert np.isrealobj(irrep.characters) == (irrep.indicator != 0)


def test_a_large_group_with_translations():
    # Rock salt in a supercell of eight cells, for a cell of its own.
    small = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", supercell=2)
    crystal = eqs.Crystal(
        small.supercell.vectors,
        ["Li", "H"] * 8,
        cart_positions=small.supercell_positions,
        unit="bohr",
    )
    group = eqs.SpaceGroup.of(crystal)
    assert group.order == 384
    irreps = eqs.irreps(group)
    dimensions = sorted(irrep.dimension for irrep in irreps)
    # Stars of k: Gamma with the ten irreps of m-3m; four L with the six of -3m; three X
    # with the ten of 4/mmm.
    gamma, l, x = [1] * 4 + [2] * 2 + [3] * 4, [4] * 4 + [8] * 2, [3] * 8 + [6] * 2
    assert dimensions == sorted(gamma + l + x)
    characters = _characters(group)
    _close(characters @ np.conj(characters.T), group.order * np.eye(len(irreps)))
    largest = irreps[-1]
    matrices = largest.matrices
    _close(np.trace(matrices, axis1=1, axis2=2), largest.characters)
    g, h = np.random.default_rng(0).integers(group.order, size=(2, 50))
    products = matrices[g] @ matrices[h]
    # Which operation is g h follows from a faithful representation.
    overlap = np.einsum("pij,oij->po", products, np.conj(matrices)).real
    _close(np.max(overlap, axis=1), largest.dimension)


def test_matrices_are_the_same_each_time():
    irrep = eqs.character_table(_point_group("m-3m"))["T1u"]
    again = irrep.matrices
    again[:] = 0
    assert not np.array_equal(irrep.matrices, again)


def test_irreps_are_values():
    one, other = (
        eqs.irreps(eqs.SpaceGroup.of(eqs.Crystal.bcc("Li", a=6.6, unit="bohr")))
        for _ in range(2)
    )
    assert one == other and hash(one) == hash(other)
    assert len(set(one)) == len(one)


def test_unknown_labels_are_answered_with_the_known_ones():
    table = eqs.character_table(_point_group("3m"))
    assert table["A2"].label == "A2"
    with pytest.raises(ValueError, match="`irrep` must be one .* A1, A2, E, got 'B1'"):
        table["B1"]


def test_tables_print():
    shown = str(eqs.character_table(_point_group("3m")))
    assert shown.splitlines() == [
        "    1 E   2 C3    3 m",
        "         [001]  [100]",
        "A1    1      1      1",
        "A2    1      1     -1",
        " E    2     -1      0",
        "",
        "Axes [...] along the lattice vectors.",
    ]
    shown = str(eqs.character_table(_point_group("3"))).splitlines()
    assert shown[3].split() == ["1E", "1", "-0.5+0.866i", "-0.5-0.866i"]
    shown = str(eqs.character_table(_point_group("4"))).splitlines()
    assert "i" in shown[4].split() and "-i" in shown[4].split()
