"""Slabs and chains: operations of the matter between the vacuum, and no others."""

import itertools
import logging
import warnings

import numpy as np
import pytest
import spglib
from hypothesis import assume, given, settings, strategies as st

import eqsym as eqs
import group_toys


def _box(lengths, **kwargs):
    return eqs.Crystal(
        np.diag(lengths), ["H"], frac_positions=[[0.3, 0.2, 0.4]], unit="bohr", **kwargs
    )


def _rotations(group):
    return sorted(group.frac_rotations.tolist())


def test_graphene():
    crystal = eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr")
    group = eqs.SpaceGroup.of(crystal)
    assert (group.order, group.symbol, group.vacuum) == (24, "p6/mmm", (2,))
    assert eqs.SpaceGroup.of(crystal, vacuum=()).symbol == "P6/mmm"
    supercell = eqs.Crystal.graphene(
        a=4.65, vacuum=30.0, unit="bohr", supercell=[[2, 1, 0], [-1, 1, 0], [0, 0, 1]]
    )
    assert eqs.SpaceGroup.of(supercell).symbol == "p6/mmm"
    # Too little of it to end there.
    graphite = eqs.Crystal.graphene(a=4.65, vacuum=6.3, unit="bohr")
    assert graphite.vacuum == () and eqs.SpaceGroup.of(graphite).symbol == "P6/mmm"
    least = eqs.Crystal.graphene(a=2.46, vacuum=10 * 0.529177210903, unit="angstrom")
    assert least.vacuum == (2,) and eqs.SpaceGroup.of(least).symbol == "p6/mmm"


@pytest.mark.parametrize("vacuum", [(2,), [0, 2], (1, 0), 2])
def test_a_crystal_remembers_its_vacuum(vacuum):
    crystal = _box([12.0] * 3, vacuum=vacuum)
    assert crystal.vacuum == tuple(sorted(np.atleast_1d(vacuum)))
    assert eqs.SpaceGroup.of(crystal) == eqs.SpaceGroup.of(crystal, vacuum=vacuum)
    assert eqs.SpaceGroup.of(crystal, vacuum=()).order == 48
    # In every crystal made of it.
    assert crystal.symmetrized(1e-3).vacuum == crystal.vacuum
    assert crystal.primitive(supercell=1).vacuum == crystal.vacuum
    # It says nothing about energies.
    assert crystal != _box([12.0] * 3) and crystal.matches(_box([12.0] * 3))
    group = eqs.SpaceGroup.of(crystal)
    group.check_crystal(_box([12.0] * 3))


def test_the_primitive_cell_of_a_slab_is_a_slab():
    """Of a layer whose cell is twice its primitive cell, along and across."""
    place = [[0, 0, 0], [0.5, 0, 0.5]]
    crystal = eqs.Crystal(
        np.diag([6.0, 5.0, 40.0]),
        ["H"] * 2,
        frac_positions=place,
        unit="bohr",
        vacuum=(2,),
    )
    smaller = crystal.primitive()
    assert (len(smaller.species), smaller.vacuum) == (1, (2,))
    assert eqs.SpaceGroup.of(smaller).vacuum == (2,)


@pytest.mark.parametrize(
    "vacuum, order, symbol",
    [
        ((), 48, "Pm-3m"),
        ((0,), 16, "p4/mmm"),
        ((1,), 16, "p4/mmm"),
        ((2,), 16, "p4/mmm"),
        ((0, 1), 16, "P4/mmm"),
        ((2, 1), 16, "P4/mmm"),
    ],
)
def test_a_cube_is_no_symmetry_of_a_square_slab(vacuum, order, symbol):
    group = eqs.SpaceGroup.of(_box([12.0] * 3), vacuum=vacuum)
    assert (group.order, group.symbol) == (order, symbol)
    longer = np.full(3, 12.0)
    longer[list(vacuum)] = [19.0, 23.0][: len(vacuum)]
    if len(vacuum) == 1:
        # The length of the vacuum does not matter.
        other = eqs.SpaceGroup.of(_box(longer), vacuum=vacuum)
        assert _rotations(other) == _rotations(group)
    if len(vacuum) == 2:
        # If both lengths differ, the four-fold axis is not one any more.
        assert eqs.SpaceGroup.of(_box(longer), vacuum=vacuum).order == 8


def test_equal_layers_are_not_exchanged_through_the_vacuum():
    def layers(height):
        return eqs.Crystal(
            np.diag([6.0, 6.0, 24.0]),
            ["H", "H"],
            frac_positions=[[0, 0, 0], [0, 0, height]],
            unit="bohr",
        )

    crystal = layers(0.5)
    # As a crystal, it repeats after half of the lattice vector.
    assert eqs.SpaceGroup.of(crystal).order == 32
    assert eqs.SpaceGroup.of(crystal, vacuum=(2,)).order == 16
    for height in (0.2, 0.6):
        group = eqs.SpaceGroup.of(layers(height), vacuum=(2,))
        assert (group.order, group.symbol) == (16, "p4/mmm")


def test_dropped_operations_are_logged(caplog):
    with caplog.at_level(logging.INFO, logger="eqsym"):
        eqs.SpaceGroup.of(
            _box([12.0] * 3, supercell=(1, 2, 1), twist=(0.3, 0, 0)), vacuum=(2,)
        )
    vacuum, supercell, twist = (record.getMessage() for record in caplog.records)
    assert "32 of 48" in vacuum and "vacuum in directions [2]" in vacuum
    assert "8 of 48" in supercell and "4 of 48" in twist


@settings(max_examples=40)
@given(
    st.integers(1, 116),
    st.integers(0, 2**16),
    st.sampled_from(list(itertools.permutations(range(3)))),
)
def test_layer_groups_of_slabs(setting, seed, order):
    """Against spglib's search for layer groups, with the layer in any orientation and
    anywhere."""
    rotations, translations = group_toys.database(-setting)
    rng = np.random.default_rng(seed)
    vectors = group_toys.lattice_for(rotations, rng, 30.0)
    vectors[2] *= 30.0 / (vectors[2] @ np.cross(*vectors[:2]) / _area(vectors))
    points = rng.uniform(size=(2, 3)) * [1, 1, 0.1]
    images = np.concatenate([rotations @ p + translations for p in points])
    gaps = images[:, None] - images
    gaps = np.linalg.norm((gaps - np.round(gaps)) @ vectors, axis=-1)
    assume(np.min(gaps + 10 * np.eye(len(gaps))) > 0.6)
    images = (images + rng.uniform(size=3))[:, list(order)]
    crystal = eqs.Crystal(
        vectors[list(order)],
        np.repeat(["H", "He"], len(rotations)).tolist(),
        frac_positions=images % 1,
        unit="bohr",
    )
    direction = order.index(2)
    group = eqs.SpaceGroup.of(crystal, vacuum=(direction,))
    # spglib wants a layer that is not cut by the faces of the cell.
    cell = (crystal.lattice.vectors.tolist(), images.tolist())
    cell = (*cell, crystal.atomic_numbers.tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = spglib.get_symmetry_layerdataset(cell, direction, 1e-5)
    assert group.order == len(expected.rotations) == len(rotations)
    if np.any(rotations[:, 2, 2] < 0):
        assert group.symbol == expected.international
    same = np.all(group.frac_rotations[:, None] == expected.rotations, axis=(2, 3))
    change = group.frac_translations[:, None] - expected.translations
    change = crystal.lattice.to_cartesian(change - np.round(change))
    same &= np.linalg.norm(change, axis=-1) < 1e-3
    np.testing.assert_array_equal(same.sum(axis=1), 1)


def _area(vectors):
    return np.linalg.norm(np.cross(*vectors[:2]))


def _prism(radius, height, twist):
    """A chain of triangles, turned against each other, with a hexagonal lattice across
    it and vacuum on both sides."""
    a, c = 30.0, 8.0
    lattice = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]]
    angles = np.arange(3) * 2 * np.pi / 3
    cart = [
        [radius * np.cos(v + turn), radius * np.sin(v + turn), z]
        for turn, z in ((0.0, 0.0), (twist, height))
        for v in angles
    ]
    middle = np.array([0.1, 0.9, 0.3]) @ np.array(lattice)
    positions = np.array(cart) + middle
    return eqs.Crystal(lattice, ["H"] * 6, cart_positions=positions, unit="bohr")


def _brute_force(crystal, vacuum):
    """Operations that map the chain, as an infinite set of points that is not repeated
    across the vacuum, to itself."""
    full = eqs.SpaceGroup.of(crystal)
    frac = crystal.lattice.to_fractional(crystal.cart_positions)
    middle = np.angle(np.mean(np.exp(2j * np.pi * frac), axis=0)) / (2 * np.pi)
    frac = frac - np.round(frac - middle)
    along = [i for i in range(3) if i not in vacuum]
    shifts = np.zeros((9, 3))
    shifts[:, vacuum] = list(itertools.product((-1, 0, 1), repeat=2))
    keep = []
    for i in range(full.order):
        moved = frac @ full.frac_rotations[i].T + full.frac_translations[i]
        gaps = moved[:, None] + shifts[:, None, None] - frac
        gaps[..., along] -= np.round(gaps[..., along])
        onto = np.linalg.norm(crystal.lattice.to_cartesian(gaps), axis=-1) < 1e-3
        keep.append(np.any(np.all(onto.any(axis=2), axis=1)))
    return full, np.array(keep)


@pytest.mark.parametrize(
    "twist, height, order",
    [
        # Mirrors across and along: as the triangles are all the same.
        (0.0, 0.5, 24),
        (0.0, 0.3, 12),
        # A screw axis of order six.
        (np.pi / 3, 0.5, 24),
        (np.pi / 3, 0.3, 12),
        # Two-fold axes of the chain are not axes of the lattice across.
        (0.2, 0.3, 3),
    ],
)
def test_chains_in_hexagonal_vacuum(twist, height, order):
    crystal = _prism(2.5, height * 8.0, twist)
    group = eqs.SpaceGroup.of(crystal, vacuum=(0, 1))
    full, keep = _brute_force(crystal, [0, 1])
    assert group.order == keep.sum() == order
    np.testing.assert_array_equal(group.frac_rotations, full.frac_rotations[keep])


def test_chain_of_hydrogen():
    crystal = eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=20.0, unit="bohr")
    group = eqs.SpaceGroup.of(crystal)
    assert group.vacuum == (1, 2)
    # The full group of the square across, and half of the lattice vector.
    assert group.order == 32
    assert group.translations().order == 2


def test_tilted_lattice_across_the_vacuum():
    # The third vector of the lattice is not normal to the square layer.
    place = [[0.1, 0.2, 0.3]]
    crystal = eqs.Crystal(
        [[6.0, 0, 0], [0, 6.0, 0], [3.0, 3.0, 20.0]],
        ["H"],
        frac_positions=place,
        unit="bohr",
    )
    group = eqs.SpaceGroup.of(crystal, vacuum=(2,))
    assert (group.order, group.symbol) == (16, "p4/mmm")
    # Not even if the supercell is tilted as well.
    supercell = eqs.Crystal(
        crystal.lattice.vectors,
        ["H"],
        frac_positions=place,
        unit="bohr",
        supercell=[[3, 0, 0], [0, 3, 0], [1, 1, 1]],
    )
    whole = eqs.SpaceGroup.of(supercell, vacuum=(2,)).with_translations()
    assert (whole.order, whole.symbol) == (144, "p4/mmm")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"vacuum": (3,)}, "`vacuum` must be at most two of the lattice directions"),
        ({"vacuum": (-1,)}, "`vacuum` must be at most two"),
        ({"vacuum": 3}, "`vacuum` must be at most two"),
        ({"vacuum": (0, 1, 2)}, "`vacuum` must be at most two"),
        ({"vacuum": (0, 0, 1)}, "each of them once"),
        ({"vacuum": (1,)}, "direction 1 there must be .* = 10 Bohr, got 8"),
        ({"vacuum": (2,), "min_vacuum": 20.5}, "direction 2 .* = 20.5 Bohr, got 20"),
    ],
)
def test_refuses_what_is_not_finite(arguments, message):
    with pytest.raises(ValueError, match=message):
        eqs.SpaceGroup.of(_box([5.0, 8.0, 20.0]), **arguments)
    assert eqs.SpaceGroup.of(_box([5.0, 8.0, 20.0]), vacuum=(1,), min_vacuum=7.9)


@pytest.mark.parametrize(
    "supercell, vacuum",
    [
        (2, (2,)),
        ([[1, 0, 0], [0, 1, 0], [1, 1, 3]], (2,)),
        ((1, 1, 2), (1, 2)),
        ([[1, 0, 0], [0, 1, 1], [0, 1, -1]], (1, 2)),
    ],
)
def test_refuses_supercells_across_the_vacuum(supercell, vacuum):
    crystal = _box([5.0, 20.0, 20.0], supercell=supercell)
    with pytest.raises(ValueError, match="repeats the crystal in these directions"):
        eqs.SpaceGroup.of(crystal, vacuum=vacuum)
    assert eqs.SpaceGroup.of(crystal).vacuum == ()
    slab = _box([5.0, 20.0, 20.0], supercell=supercell, vacuum=vacuum)
    with pytest.raises(ValueError, match=r"such as `vacuum=\(\)`"):
        eqs.SpaceGroup.of(slab)
    assert eqs.SpaceGroup.of(slab, vacuum=()).order == eqs.SpaceGroup.of(crystal).order


@pytest.mark.parametrize(
    "supercell, vacuum",
    [
        ((2, 3, 1), (2,)),
        ([[2, 0, 0], [0, 1, 0], [1, 1, 1]], (2,)),
        ((3, 1, 1), (1, 2)),
        ([[2, 0, 0], [0, 1, 1], [0, 0, -1]], (1, 2)),
    ],
)
def test_accepts_supercells_along_the_matter(supercell, vacuum):
    crystal = _box([5.0, 20.0, 20.0], supercell=supercell)
    group = eqs.SpaceGroup.of(crystal, vacuum=vacuum)
    assert group.order >= 2


def test_no_symbol_of_a_layer_group_that_is_none():
    # A screw axis with half of the vacuum, which `SpaceGroup.of` would not take.
    crystal = eqs.Crystal(
        np.diag([6.0, 7.0, 24.0]),
        ["H", "H"],
        frac_positions=[[0.1, 0.2, 0], [-0.1, -0.2, 0.5]],
        unit="bohr",
    )
    turns, moves = [np.eye(3), np.diag([-1, -1, 1])], [[0, 0, 0], [0, 0, 0.5]]
    group = eqs.SpaceGroup(crystal, turns, moves, vacuum=(2,))
    assert group.symbol == "2 operations"
    assert eqs.SpaceGroup(crystal, turns, moves).symbol == "P2_1"


def test_operations_across_the_vacuum_are_refused():
    crystal = _box([12.0] * 3)
    group = eqs.SpaceGroup.of(crystal)
    with pytest.raises(ValueError, match="without `vacuum` \\(2,\\), but 32 of 48"):
        eqs.SpaceGroup(
            crystal, group.frac_rotations, group.frac_translations, vacuum=(2,)
        )
