"""Symmetrized and primitive crystals, against exact and standard ones of spglib."""

import itertools
import warnings

import numpy as np
import pytest
import spglib
from hypothesis import assume, given, settings, strategies as st

import eqsym as eqs
from eqsym._crystal import standard
from eqsym._hamiltonian.ewald import ewald_energy
from group_toys import crystal_for, database
from rounded import ROUNDED, rounded_beryllium, rounded_graphene, salt_cube
from toys import cart_twist


def _cell(crystal):
    frac = crystal.lattice.to_fractional(crystal.cart_positions)
    parts = (crystal.lattice.vectors, frac, crystal.atomic_numbers)
    return tuple(part.tolist() for part in parts)


def _spglib(function, *args, **kwargs):
    with warnings.catch_warnings():
        # spglib announces another way to report errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        return function(*args, **kwargs)


def _distances(vectors, frac):
    """Between all nuclei, modulo lattice vectors."""
    gaps = frac[:, None] - frac
    gaps = (gaps - np.round(gaps))[:, :, None] + np.array(
        list(itertools.product((-1, 0, 1), repeat=3))
    )
    return np.min(np.linalg.norm(gaps @ vectors, axis=-1), axis=-1)


@pytest.mark.parametrize("name", ROUNDED)
def test_symmetrized_crystal_has_the_whole_group(name, caplog):
    build, _, order, symbol, symprec, moved = ROUNDED[name]
    crystal = build()
    found = crystal.symmetrized(symprec)
    (message,) = caplog.messages
    assert f"with {order} operations" in message and "move by up to" in message
    group = eqs.SpaceGroup.of(found)
    assert (group.order, group.symbol) == (order, symbol)
    assert found.species == crystal.species
    # Places relative to the cell.
    old = crystal.lattice.to_fractional(crystal.cart_positions)
    gaps = found.cart_positions - old @ found.lattice.vectors
    assert np.max(np.linalg.norm(gaps, axis=1)) < moved
    # Not turned: the change of the vectors is a symmetric matrix.
    stretch = np.linalg.solve(crystal.lattice.vectors, found.lattice.vectors)
    np.testing.assert_allclose(stretch, stretch.T, atol=1e-13)
    # Once is enough.
    caplog.clear()
    again = found.symmetrized(symprec)
    np.testing.assert_allclose(again.cart_positions, found.cart_positions, atol=1e-12)
    np.testing.assert_allclose(again.lattice.vectors, found.lattice.vectors, atol=1e-12)
    assert not caplog.messages


@pytest.mark.parametrize("name", ROUNDED)
def test_symmetrized_crystal_is_the_standard_one_of_spglib_but_for_motion(name):
    crystal = ROUNDED[name][0]().symmetrized(1e-2)
    vectors, frac, _ = _spglib(
        spglib.standardize_cell, _cell(crystal), no_idealize=False, symprec=1e-2
    )
    found = np.sort(_distances(crystal.lattice.vectors, np.array(_cell(crystal)[1])))
    np.testing.assert_allclose(found, np.sort(_distances(vectors, frac)), atol=1e-9)
    assert crystal.lattice.volume == pytest.approx(abs(np.linalg.det(vectors)))


def test_symmetrized_keeps_electrons_supercell_and_twist():
    crystal = rounded_graphene(
        supercell=(2, 2, 1), charge=2, spin=4, twist=(0.1, 0.2, 0)
    )
    found = crystal.symmetrized(1e-3)
    assert found.electrons == crystal.electrons
    np.testing.assert_array_equal(found.matrix, crystal.matrix)
    np.testing.assert_array_equal(found.twist, crystal.twist)
    # The vacuum does not change.
    np.testing.assert_allclose(found.lattice.vectors[2], [0, 0, 30.0], atol=1e-12)


_HALL_NUMBERS = st.integers(1, 530).filter(lambda n: len(database(n)[0]) <= 24)


@settings(max_examples=10)
@given(_HALL_NUMBERS, st.integers(0, 2**16))
def test_noise_is_undone_in_every_space_group(hall, seed):
    """Against the crystal before the noise, whose operations are from the tables."""
    exact = crystal_for(*database(hall), seed)
    rng = np.random.default_rng(seed)
    noise = 5e-4 * rng.uniform(-1, 1, size=exact.cart_positions.shape)
    strain = np.eye(3) + 1e-5 * rng.uniform(-1, 1, size=(3, 3))
    # The whole is turned as well, and must stay so.
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    noisy = eqs.Crystal(
        exact.lattice.vectors @ strain @ turn,
        exact.species,
        cart_positions=(exact.cart_positions + noise) @ strain @ turn,
        unit="bohr",
        charge=exact.charge,
    )
    found = noisy.symmetrized(1e-2)
    order = eqs.SpaceGroup.of(exact).order
    # One or two nuclei always have an inversion between them.
    assert eqs.SpaceGroup.of(noisy).order < order or order <= 2
    assert eqs.SpaceGroup.of(found).order >= order
    np.testing.assert_allclose(
        found.cart_positions, exact.cart_positions @ turn, atol=3e-3
    )
    # A crystal that is exact does not move, unless its random coordinates happen to
    # be close to those of a larger group.
    assume(eqs.SpaceGroup.of(exact, symprec=1e-2).order == order)
    same = exact.symmetrized(1e-2)
    np.testing.assert_allclose(same.cart_positions, exact.cart_positions, atol=1e-10)
    np.testing.assert_allclose(same.lattice.vectors, exact.lattice.vectors, atol=1e-10)


@pytest.mark.parametrize("symprec", [0.0, -1e-3, np.nan, np.inf])
def test_precision_is_a_length(symprec):
    with pytest.raises(ValueError, match="`symprec` must be a positive length"):
        rounded_graphene().symmetrized(symprec)


def test_nuclei_are_not_moved_onto_each_other():
    crystal = eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=20.0, unit="bohr")
    with pytest.raises(ValueError, match="`symprec` 3.0 Bohr"):
        crystal.symmetrized(3.0)


def test_nothing_moves_farther_than_the_precision(monkeypatch):
    # As if spglib found the whole group of a crystal that has it at 0.01 Bohr only.
    crystal, find = rounded_graphene(3), standard.find_operations
    monkeypatch.setattr(standard, "find_operations", lambda c, _: find(c, 1e-2))
    with pytest.raises(ValueError, match="move a nucleus by 0.0027 Bohr"):
        crystal.symmetrized(1e-3)


def test_what_spglib_finds_must_be_a_group(monkeypatch):
    crystal, find = rounded_graphene(), standard.find_operations

    def incomplete(cell, symprec):
        rotations, translations = find(cell, symprec)
        return rotations[:3], translations[:3]

    monkeypatch.setattr(standard, "find_operations", incomplete)
    with pytest.raises(ValueError, match="are not a group"):
        crystal.symmetrized(1e-3)


def _nuclei_energy(crystal):
    """Of nuclei and a homogeneous background, for each nucleus, in Hartree."""
    charges = crystal.supercell_charges
    energy = ewald_energy(crystal.supercell, crystal.supercell_positions, charges)
    return energy / len(charges)


def test_conventional_cube_in_its_primitive_cell():
    cube = salt_cube()
    found = cube.primitive()
    assert (sum(cube.electrons), found.electrons) == (16, (2, 2))
    assert found.species == ("Li", "H")
    assert cube.lattice.volume == pytest.approx(4 * found.lattice.volume)
    assert found.lattice.heights == pytest.approx(
        eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom").lattice.heights
    )
    assert eqs.SpaceGroup.of(cube).order == 4 * eqs.SpaceGroup.of(found).order == 192
    assert _nuclei_energy(found) == pytest.approx(_nuclei_energy(cube), abs=1e-9)
    # The first nucleus of each element stays where it is.
    np.testing.assert_allclose(found.cart_positions, cube.cart_positions[:2], atol=1e-9)


def test_cell_can_be_kept_as_the_supercell():
    cube = salt_cube(repeat=(1, 1, 2), charge=2, spin=4, twist=(0.5, 0.25, 0.1))
    found = cube.primitive(keep_cell=True)
    assert len(found.species) == 2 and found.cells == 8
    assert (found.electrons, found.charge) == (cube.electrons, 2)
    np.testing.assert_allclose(found.supercell.vectors, cube.supercell.vectors)
    np.testing.assert_array_equal(found.twist, cube.twist)
    np.testing.assert_allclose(cart_twist(found), cart_twist(cube))
    _same_nuclei(cube, found)


def _same_nuclei(one, other):
    """Each nucleus of a supercell is one of the same element of the other."""
    gaps = one.supercell_positions[:, None] - other.supercell_positions
    gaps = one.supercell.to_fractional(gaps)
    gaps = one.supercell.to_cartesian(gaps - np.round(gaps))
    same = np.linalg.norm(gaps, axis=-1) < 1e-4
    np.testing.assert_array_equal(same.sum(axis=0), 1)
    np.testing.assert_array_equal(same.sum(axis=1), 1)
    np.testing.assert_array_equal(
        one.supercell_charges, other.supercell_charges[same.argmax(axis=1)]
    )


_CRYSTALS = (
    salt_cube,
    lambda: eqs.Crystal.diamond("C", a=6.7, unit="bohr"),
    lambda: eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr"),
    lambda: eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=20.0, atoms=4, unit="bohr"),
    rounded_beryllium,
)
_MATRICES = (
    np.diag([1, 1, 2]),
    np.diag([2, 2, 1]),
    np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
    np.array([[2, 1, 0], [-1, 1, 0], [0, 0, -1]]),
    np.array([[1, 0, 0], [2, 3, 0], [0, 1, 1]]),
)


@settings(max_examples=15)
@given(st.sampled_from(_CRYSTALS), st.sampled_from(_MATRICES), st.integers(0, 2**16))
def test_primitive_cells_against_spglib(build, matrix, seed):
    rng = np.random.default_rng(seed)
    small = build()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    cells = eqs.Crystal(
        small.lattice.vectors,
        small.species,
        cart_positions=small.cart_positions,
        unit="bohr",
        supercell=matrix,
    )
    nuclei = cells.supercell_positions + rng.uniform(size=3)
    order = rng.permutation(len(nuclei))
    given = eqs.Crystal(
        cells.supercell.vectors @ turn,
        [(small.species * cells.cells)[i] for i in order],
        cart_positions=nuclei[order] @ turn,
        unit="bohr",
        supercell=(1, 2, 1),
        twist=(0.3, 0, 0.5),
    )
    found = given.primitive(keep_cell=True)
    expected = _spglib(spglib.find_primitive, _cell(given))
    assert len(found.species) == len(expected[2])
    assert found.lattice.volume == pytest.approx(abs(np.linalg.det(expected[0])))
    np.testing.assert_allclose(
        found.supercell.vectors, given.supercell.vectors, atol=1e-9
    )
    _same_nuclei(given, found)
    assert found.primitive() is found
    # As elements come first in the given cell.
    assert list(dict.fromkeys(found.species)) == list(dict.fromkeys(given.species))


def test_directions_of_the_vacuum_stay():
    chain = eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=20.0, atoms=4, unit="bohr")
    np.testing.assert_allclose(
        chain.primitive().lattice.vectors, np.diag([1.8, 20.0, 20.0]), atol=1e-12
    )
    # A slab with a rectangle of two cells, thinner than these are wide.
    a, tilt = 9.3, [1.0, 2.0, 12.0]
    lattice = [[a, 0, 0], [0, a * np.sqrt(3), 0], tilt]
    frac = np.array([[0, 0, 0], [0, 1 / 3, 0]])
    slab = eqs.Crystal(
        lattice,
        ["C"] * 4,
        frac_positions=np.concatenate([frac, frac + [0.5, 0.5, 0]]),
        unit="bohr",
    )
    found = slab.primitive()
    np.testing.assert_allclose(found.lattice.vectors[2], tilt, atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.norm(found.lattice.vectors[:2], axis=1), a, atol=1e-9
    )
    np.testing.assert_allclose(found.lattice.vectors[:2, 2], 0, atol=1e-12)


def test_primitive_cell_takes_what_a_crystal_takes():
    found = salt_cube(charge=1, twist=(0.5, 0, 0)).primitive(
        supercell=2, charge=0, twist=(0.5, 0.5, 0.5)
    )
    assert found.cells == 8 and found.electrons == (16, 16)
    np.testing.assert_array_equal(found.twist, 0.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"supercell": 2}, "`supercell` of the crystal is .*; .* `keep_cell=True`"),
        ({"charge": 4}, "`charge` of the crystal is 4"),
        ({"spin": 4}, "`spin` of the crystal is 4"),
        ({"twist": (0.5, 0, 0)}, r"`twist` of the crystal is \[0.5, 0.0, 0.0\]"),
    ],
)
def test_what_is_not_known_of_the_primitive_cell_is_asked_for(arguments, message):
    cube = salt_cube(**arguments)
    with pytest.raises(ValueError, match=message):
        cube.primitive()
    with pytest.raises(ValueError, match="`keep_cell` takes supercell, charge"):
        cube.primitive(keep_cell=True, **arguments)


def test_rounding_that_hides_the_primitive_cell_is_announced(caplog):
    cube = salt_cube(noise=1e-3)
    assert cube.primitive() is cube
    (message,) = caplog.messages
    assert "has 8 atoms, but 2" in message
    assert "`crystal.symmetrized(0.01).primitive()`" in message
    assert sum(cube.symmetrized(1e-2).primitive().electrons) == 4
    caplog.clear()
    salt_cube().primitive()
    assert not caplog.messages
