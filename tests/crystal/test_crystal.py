"""Geometry, supercells, k-points, readers and bad arguments."""

import itertools

import ase.io
import jaxtyping
import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from eqsym import Crystal, Lattice
from toys import cart_twist, pyscf_lih


ANGSTROM = 1 / 0.529177210903


def distances(crystal: Crystal) -> np.ndarray:
    """From the first nucleus to all others and images, sorted, in Bohr."""
    box = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    images = box @ crystal.supercell.vectors
    there = crystal.supercell_positions[:, None] + images
    all_ = np.linalg.norm(there - crystal.supercell_positions[0], axis=-1).ravel()
    return np.sort(all_)[1:]


@pytest.mark.parametrize(
    "crystal, atoms, nearest, neighbors, volume",
    [
        (Crystal.rock_salt("Li", "H", a=4.0, unit="bohr"), 2, 2.0, 6, 16.0),
        (Crystal.zinc_blende("B", "N", a=4.0, unit="bohr"), 2, np.sqrt(3), 4, 16.0),
        (Crystal.diamond("C", a=4.0, unit="bohr"), 2, np.sqrt(3), 4, 16.0),
        (Crystal.bcc("Li", a=4.0, unit="bohr"), 1, 2 * np.sqrt(3), 8, 32.0),
        (Crystal.fcc("Al", a=4.0, unit="bohr"), 1, 2 * np.sqrt(2), 12, 16.0),
        (
            Crystal.graphene(a=2.46, vacuum=20.0, unit="angstrom"),
            2,
            2.46 / np.sqrt(3) * ANGSTROM,
            3,
            2.46**2 * np.sqrt(3) / 2 * 20 * ANGSTROM**3,
        ),
        (
            Crystal.hydrogen_chain(spacing=1.8, vacuum=20.0, atoms=4, unit="bohr"),
            4,
            1.8,
            2,
            4 * 1.8 * 400,
        ),
    ],
    ids=["rock salt", "zinc blende", "diamond", "bcc", "fcc", "graphene", "chain"],
)
def test_presets(crystal, atoms, nearest, neighbors, volume):
    assert len(crystal.cart_positions) == atoms
    assert crystal.lattice.volume == pytest.approx(volume)
    found = distances(crystal)
    np.testing.assert_allclose(found[:neighbors], nearest, rtol=1e-9)
    assert found[neighbors] > 1.05 * nearest
    assert sum(crystal.electrons) == np.sum(crystal.atomic_numbers)
    assert crystal.charge == 0


def test_preset_arguments_reach_the_crystal():
    crystal = Crystal.rock_salt(
        "Li",
        "H",
        a=4.08,
        unit="angstrom",
        supercell=(1, 1, 2),
        spin=2,
        twist=(0.5, 0, 0),
    )
    assert crystal.cells == 2 and crystal.electrons == (5, 3)
    assert crystal.species == ("Li", "H")
    np.testing.assert_array_equal(crystal.supercell_charges, [3, 1, 3, 1])
    np.testing.assert_allclose(
        cart_twist(crystal),
        0.5 * crystal.supercell.reciprocal[0],
    )


def test_units():
    one = Crystal.rock_salt("Li", "H", a=4.08, unit="angstrom")
    two = Crystal.rock_salt("Li", "H", a=4.08 * ANGSTROM, unit="bohr")
    np.testing.assert_allclose(one.lattice.vectors, two.lattice.vectors)
    np.testing.assert_allclose(one.cart_positions, two.cart_positions)


def test_charge_and_spin():
    def electrons(**kwargs):
        return Crystal.bcc("Li", a=6.6, unit="bohr", **kwargs).electrons

    assert electrons() == (2, 1)
    assert electrons(spin=-1) == (1, 2)
    assert electrons(spin=3) == (3, 0)
    assert electrons(charge=1) == (1, 1)
    assert electrons(charge=-1) == (2, 2)
    # As arrays of charges are added up.
    assert electrons(charge=np.float64(1.0), spin=2.0) == (2, 0)
    assert all(isinstance(n, int) for n in electrons(charge=np.float64(1.0)))
    assert electrons(supercell=2, charge=2) == (11, 11)
    assert Crystal.bcc("Li", a=6.6, unit="bohr", supercell=2, charge=2).charge == 2


LATTICE = Lattice([[5.0, 0.3, 0.1], [4.2, 4.4, 0.0], [-2.0, 3.0, 6.5]])
FLIPPED = Lattice(LATTICE.vectors[[1, 0, 2]])


@pytest.mark.parametrize("lattice", [LATTICE, FLIPPED], ids=["right", "left"])
def test_lattice(lattice):
    assert lattice.volume > 0
    product = lattice.vectors @ lattice.reciprocal.T
    np.testing.assert_allclose(product, 2 * np.pi * np.eye(3), atol=1e-12)
    cart = np.random.default_rng(0).normal(size=(4, 5, 3)) * 10
    np.testing.assert_allclose(lattice.to_cartesian(lattice.to_fractional(cart)), cart)
    wrapped = lattice.wrap(cart)
    turns = lattice.to_fractional(cart - wrapped)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-12)
    inside = lattice.to_fractional(wrapped)
    assert np.all(inside > -1e-8) and np.all(inside < 1)
    normal = np.cross(lattice.vectors[0], lattice.vectors[1])
    height = abs(lattice.vectors[2] @ normal) / np.linalg.norm(normal)
    assert lattice.heights[2] == pytest.approx(height)


def test_points_within_are_all():
    box = np.array(list(itertools.product(range(-12, 13), repeat=3)))
    points = box @ LATTICE.vectors
    count = np.sum(np.linalg.norm(points, axis=1) <= 15.0)
    found = LATTICE.points_within(15.0)
    assert len(found) == count
    np.testing.assert_array_equal(found[0], np.zeros(3))
    assert np.all(np.diff(np.linalg.norm(found, axis=1)) > -1e-12)


@given(st.integers(0, 10**6))
def test_no_reduced_vector_gets_shorter_by_adding_others(seed):
    rng = np.random.default_rng(seed)
    steps = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    # A random lattice in a skew basis: shears, one after the other.
    vectors = rng.normal(size=(3, 3)) * rng.uniform(0.2, 3, size=(3, 1)) + np.eye(3)
    for _ in range(6):
        i, j = rng.choice(3, size=2, replace=False)
        vectors[i] += rng.integers(-3, 4) * vectors[j]
    lattice = Lattice(vectors)
    found = lattice.reduced()
    change = lattice.to_fractional(found.vectors)
    np.testing.assert_allclose(change, np.round(change), atol=1e-6)
    assert abs(round(np.linalg.det(change))) == 1
    lengths = np.linalg.norm(found.vectors, axis=1)
    assert np.all(np.diff(lengths) >= 0)
    for i in range(3):
        # Minkowski: steps with a coefficient of 1 or -1 there, or further out.
        sums = steps[np.abs(steps[:, i]) == 1] @ found.vectors
        shortest = np.min(np.linalg.norm(sums, axis=1))
        assert shortest >= lengths[i] * (1 - 1e-9)


@st.composite
def supercells(draw):
    entry = st.integers(-3, 3)
    matrix = np.array(draw(st.lists(entry, min_size=9, max_size=9))).reshape(3, 3)
    assume(0 < abs(round(np.linalg.det(matrix))) <= 24)
    return matrix


def modulo_one(frac):
    return np.abs(frac - np.round(frac)).max(axis=-1) < 1e-7


def are_distinct(frac):
    same = modulo_one(frac[:, None] - frac[None])
    return np.array_equal(same, np.eye(len(frac), dtype=bool))


def sheared(**kwargs) -> Crystal:
    return Crystal(
        LATTICE.vectors,
        ("Li", "H"),
        cart_positions=[[0, 0, 0], [1.5, 1, 2]],
        unit="bohr",
        **kwargs,
    )


@given(matrix=supercells())
def test_translations_are_the_primitive_lattice_modulo_the_supercell(matrix):
    crystal = sheared(supercell=matrix)
    translations = crystal.translations
    assert len(translations) == crystal.cells
    np.testing.assert_allclose(translations[0], 0, atol=1e-12)
    assert np.all(modulo_one(crystal.lattice.to_fractional(translations)))
    assert are_distinct(crystal.supercell.to_fractional(translations))
    assert crystal.supercell.volume == pytest.approx(
        crystal.cells * crystal.lattice.volume
    )
    assert len(crystal.supercell_positions) == 2 * crystal.cells
    assert are_distinct(crystal.supercell.to_fractional(crystal.supercell_positions))
    assert sum(crystal.electrons) == 4 * crystal.cells


twists = st.sampled_from([(0.0, 0.0, 0.0), (0.5, 0.0, 0.5), (0.1, -0.3, 0.7)])


@given(matrix=supercells(), twist=twists)
def test_kpoints_fold_to_the_twist(matrix, twist):
    crystal = sheared(supercell=matrix, twist=twist)
    kpoints = crystal.frac_kpoints
    assert len(kpoints) == crystal.cells
    assert are_distinct(kpoints)
    assert np.all(kpoints <= 0.5 + 1e-8) and np.all(kpoints > -0.5 - 1e-8)
    # exp(i k.L) = exp(i k_s.L) for the supercell's lattice vectors L.
    cart = kpoints @ crystal.lattice.reciprocal
    phases = (cart - cart_twist(crystal)) @ crystal.supercell.vectors.T / (2 * np.pi)
    assert np.all(modulo_one(phases))


CIF = """data_LiH
_cell_length_a 4.08
_cell_length_b 4.08
_cell_length_c 4.08
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
_space_group_IT_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Li1 Li 0 0 0
H1 H 0.5 0.5 0.5
"""

POSCAR = """LiH
4.08
0.0 0.5 0.5
0.5 0.0 0.5
0.5 0.5 0.0
Li H
1 1
Direct
0.0 0.0 0.0
0.5 0.5 0.5
"""


def test_from_cif_by_ase(tmp_path):
    path = tmp_path / "LiH.cif"
    path.write_text(CIF)
    crystal = Crystal.from_ase(ase.io.read(path))
    assert sorted(crystal.species) == ["H"] * 4 + ["Li"] * 4
    assert crystal.lattice.volume == pytest.approx((4.08 * ANGSTROM) ** 3)
    np.testing.assert_allclose(distances(crystal)[:6], 2.04 * ANGSTROM)
    assert crystal.electrons == (8, 8)


def test_from_poscar_by_ase(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR)
    crystal = Crystal.from_ase(ase.io.read(path), supercell=2, spin=2)
    preset = Crystal.rock_salt("Li", "H", a=4.08, unit="angstrom", supercell=2, spin=2)
    np.testing.assert_allclose(
        crystal.lattice.vectors, preset.lattice.vectors, atol=1e-9
    )
    np.testing.assert_allclose(crystal.cart_positions, preset.cart_positions, atol=1e-9)
    assert crystal.species == preset.species
    assert crystal.electrons == preset.electrons


def test_from_pyscf():
    crystal = Crystal.from_pyscf(pyscf_lih())
    preset = Crystal.rock_salt("Li", "H", a=4.08, unit="angstrom")
    np.testing.assert_allclose(crystal.lattice.vectors, preset.lattice.vectors)
    np.testing.assert_allclose(crystal.cart_positions, preset.cart_positions)
    assert crystal.species == ("Li", "H") and crystal.electrons == (2, 2)


def test_from_pyscf_takes_charge_and_spin():
    cell = pyscf_lih(charge=1, spin=1)
    assert Crystal.from_pyscf(cell).electrons == (2, 1)
    # Both counted over all k-points, as PySCF does.
    assert Crystal.from_pyscf(cell, supercell=(1, 1, 2)).electrons == (4, 3)
    assert Crystal.from_pyscf(cell, charge=0, spin=0).electrons == (2, 2)


def test_from_pyscf_takes_effective_core_potentials_and_no_separable_ones():
    """Which are integrals over all of space, and not over spheres."""
    crystal = Crystal.from_pyscf(pyscf_lih(ecp="ccecp"))
    assert crystal.electrons == (1, 1)
    assert list(crystal.pseudopotential) == ["Li", "H"]
    with pytest.raises(ValueError, match="`cell.pseudo` is a separable one.*ccecp"):
        Crystal.from_pyscf(pyscf_lih(pseudo="gth-pade"))


GOOD = {
    "lattice": np.diag([4.0, 5.0, 6.0]),
    "species": ("Li", "H"),
    "unit": "bohr",
    "cart_positions": [[0, 0, 0], [2.0, 2.0, 2.0]],
}


@pytest.mark.parametrize(
    "change, named",
    [
        ({"lattice": np.ones((3, 3))}, "`vectors`"),
        ({"lattice": np.diag([4.0, 0.0, 6.0])}, "`vectors`"),
        ({"lattice": np.diag([4.0, np.nan, 6.0])}, "`vectors`"),
        ({"lattice": np.eye(2)}, "`vectors`"),
        ({"species": ("Li", "Xx")}, "`species`"),
        ({"species": ("Li", "h")}, "`species`"),
        ({"cart_positions": [[0, 0, 0], [0.1, 0, 0]]}, "`cart_positions`"),
        # Overlapping across the boundary of the cell, and by a wrong unit.
        ({"cart_positions": [[0, 0, 0], [3.9, 0, 0]]}, "`cart_positions`"),
        ({"cart_positions": [[0, 0, 0], [4.0, 5.0, 0]]}, "`cart_positions`"),
        ({"lattice": np.diag([0.2, 5.0, 6.0])}, "`cart_positions`|`lattice`|`vectors`"),
        ({"cart_positions": [[0, 0, 0]]}, "`cart_positions`"),
        ({"cart_positions": [[0, 0], [2, 2]]}, "`cart_positions`"),
        ({"cart_positions": [0, 0, 0]}, "`cart_positions`"),
        ({"cart_positions": [[0, 0, 0], [np.inf, 0, 0]]}, "`cart_positions`"),
        ({"cart_positions": None}, "`cart_positions`"),
        ({"frac_positions": [[0, 0, 0], [0.5, 0.5, 0.5]]}, "`frac_positions`"),
        ({"cart_positions": None, "frac_positions": [[0, 0], [1, 1]]}, "positions`"),
        ({"species": (), "cart_positions": np.zeros((0, 3))}, "`species`"),
        ({"supercell": 0}, "`supercell`"),
        ({"supercell": (2, 2)}, "`supercell`"),
        ({"supercell": [[1, 1, 0], [1, 1, 0], [0, 0, 1]]}, "`supercell`"),
        ({"supercell": (1.5, 1, 1)}, "`supercell`"),
        ({"charge": 4}, "`charge`"),
        ({"charge": 0.5}, "`charge` must be an integer, got 0.5"),
        ({"spin": 0.5}, "`spin` must be an integer"),
        ({"spin": 1}, "`spin`"),
        ({"spin": 6}, "`spin`"),
        ({"charge": 1, "spin": 0}, "`spin`"),
        ({"twist": (0.0, 0.0)}, "`twist`"),
        ({"twist": (0.0, 0.0, np.nan)}, "`twist`"),
    ],
)
def test_bad_arguments_are_named(change, named):
    Crystal(**GOOD)
    with pytest.raises(ValueError, match=named):
        Crystal(**GOOD | change)


def test_unknown_units_are_named():
    # Without the type checker of the tests, which would be first.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="`unit`"):
            Crystal(**GOOD | {"unit": "nm"})
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_overlap_is_found_in_skewed_cells():
    """Rounding fractions does not find the nearest image here."""
    vectors = [[5.0, 0, 0], [14.0, 3.0, 0], [0, 0, 6.0]]
    lattice = Lattice(vectors)
    second = lattice.to_cartesian(np.array([2.0, -1.0, 0.0])) + [0.3, 0, 0]
    with pytest.raises(ValueError, match="overlap"):
        Crystal(vectors, ("H", "H"), cart_positions=[[0, 0, 0], second], unit="bohr")
    # One nucleus and its own image: 3 (5, 0, 0) - (14.8, 0.1, 0).
    with pytest.raises(ValueError, match="apart"):
        Crystal(
            [[5.0, 0, 0], [14.8, 0.1, 0], [0, 0, 6.0]],
            ("H",),
            cart_positions=[[0, 0, 0]],
            unit="bohr",
        )


def test_crystals_compare_by_value():
    assert sheared() == sheared()
    assert hash(sheared()) == hash(sheared())
    assert sheared() != sheared(supercell=2)
