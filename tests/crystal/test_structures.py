"""Charges, moments and periodicity in structures of ASE and PySCF."""

import functools
import io
import logging

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from pyscf import gto as molecules
from pyscf.pbc import gto, scf

import eqsym as eqs


BOHR = 0.529177210903
CIF = """data_x
_cell_length_a 4.03
_cell_length_b 4.03
_cell_length_c 4.03
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt '{group}'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{occupancy}
{rows}
"""
COLUMN = "_atom_site_occupancy"


def from_cif(*rows, column=COLUMN, group="F m -3 m"):
    text = CIF.format(group=group, occupancy=column, rows="\n".join(rows))
    return ase.io.read(io.StringIO(text), format="cif")


LITHIUM_SODIUM = ("Li1 Li 0 0 0 0.5", "Na1 Na 0 0 0 0.5", "F1 F 0.5 0.5 0.5 1")


@pytest.mark.parametrize(
    "rows, named",
    [
        (LITHIUM_SODIUM, r"site 0 \(Na\).*'Li': 0.5"),
        (
            (LITHIUM_SODIUM[1], LITHIUM_SODIUM[0], LITHIUM_SODIUM[2]),
            r"site 0 \(Li\).*'Na': 0.5",
        ),
        (("F1 F 0.5 0.5 0.5 1.0", "Li1 Li 0 0 0 0.75"), r"site 4 \(Li\).*'Li': 0.75"),
        (("Li1 Li 0 0 0 ?", "F1 F 0.5 0.5 0.5 1"), r"site 0 \(Li\).*'\?'"),
        (("Li1 Li 0 0 0 0.9", "F1 F 0.5 0.5 0.5 1"), r"site 0 \(Li\)"),
    ],
    ids=["shared", "shared, in the other order", "vacancy", "unknown", "nearly full"],
)
def test_a_site_that_is_not_one_atom_is_an_error_that_names_it(rows, named):
    with pytest.raises(ValueError, match=named):
        eqs.Crystal.from_ase(from_cif(*rows))


@pytest.mark.parametrize(
    "rows, column",
    [
        (("Li1 Li 0 0 0 1", "H1 H 0.5 0.5 0.5 1.0000"), COLUMN),
        (("Li1 Li 0 0 0 0.9999", "H1 H 0.5 0.5 0.5 ."), COLUMN),
        (("Li1 Li 0 0 0", "H1 H 0.5 0.5 0.5"), ""),
        # Nuclei do not move, so that the isotope does not matter.
        (("Li1 Li 0 0 0 1.0", "D1 D 0.5 0.5 0.5 1.0"), COLUMN),
    ],
    ids=["full", "rounded, default", "no column", "deuterium"],
)
def test_full_sites_are_read(rows, column):
    crystal = eqs.Crystal.from_ase(from_cif(*rows, column=column))
    assert crystal.species == ("Li",) * 4 + ("H",) * 4
    assert crystal.electrons == (8, 8)


def test_occupancies_follow_the_atoms():
    # Rows of a CIF by number; atoms that are left decide.
    vacant = from_cif("F1 F 0.5 0.5 0.5 1", "Li1 Li 0 0 0 0.75")
    assert eqs.Crystal.from_ase(vacant[:4]).species == ("F",) * 4
    # A site that was given another species since.
    full = from_cif("Li1 Li 0 0 0 1", "F1 F 0.5 0.5 0.5 1")
    full.symbols[0] = "Na"
    with pytest.raises(ValueError, match="site 0 is Na, but .*del atoms.info"):
        eqs.Crystal.from_ase(full)
    del full.info["occupancy"]
    assert eqs.Crystal.from_ase(full).species[:2] == ("Na", "Li")
    # Nothing says which atoms are of the kind.
    del vacant.arrays["spacegroup_kinds"]
    with pytest.raises(ValueError, match="kind 1 of its sites.*0.75"):
        eqs.Crystal.from_ase(vacant)


def iron(**kwargs):
    places = [[0, 0, 0], [0.5, 0.5, 0.5]]
    atoms = ase.Atoms("Fe2", scaled_positions=places, cell=[2.87] * 3, pbc=True)
    for name, values in kwargs.items():
        getattr(atoms, f"set_initial_{name}")(values)
    return atoms


def test_moments_set_the_spin(caplog):
    caplog.set_level(logging.INFO, logger="eqsym")
    atoms = iron(magnetic_moments=[2.0, 2.0])
    assert eqs.Crystal.from_ase(atoms).electrons == (28, 24)
    assert "add up to 4 in the supercell: `spin` is 4" in caplog.text
    doubled = eqs.Crystal.from_ase(atoms, supercell=(1, 1, 2))
    assert doubled.electrons == (56, 48)
    # A given spin wins, whatever the moments are.
    assert eqs.Crystal.from_ase(atoms, spin=0).electrons == (26, 26)
    assert "`spin` is 0 as given" in caplog.text
    along_z = iron(magnetic_moments=[[0, 0, 2.0], [0, 0, 2.0]])
    assert eqs.Crystal.from_ase(along_z).electrons == (28, 24)


@pytest.mark.parametrize(
    "moments",
    [[2.2, 2.2], [1.0, 2.0], [60.0, 0.0], [[1.0, 0, 0], [0, 1.0, 0]]],
    ids=["fraction", "parity", "too many", "noncollinear"],
)
def test_moments_that_are_not_a_spin_ask_for_one(moments):
    atoms = iron(magnetic_moments=moments)
    with pytest.raises(ValueError, match="`spin`: .*moments of `atoms`.*ive"):
        eqs.Crystal.from_ase(atoms)
    assert eqs.Crystal.from_ase(atoms, spin=2).electrons == (27, 25)


def test_a_pattern_of_moments_is_announced(caplog):
    atoms = iron(magnetic_moments=[2.0, -2.0])
    assert eqs.Crystal.from_ase(atoms).electrons == (26, 26)
    assert "`MeanField.solve(unrestricted=True, moments=...)`" in caplog.text


def test_charges_set_the_charge(caplog):
    caplog.set_level(logging.INFO, logger="eqsym")
    ions = from_cif("Li1 Li 0 0 0 1", "H1 H 0.5 0.5 0.5 1")
    ions.set_initial_charges([0.9] * 4 + [-0.65] * 4)
    assert eqs.Crystal.from_ase(ions).charge == 1
    assert "add up to 1 in the supercell: `charge` is 1" in caplog.text
    assert eqs.Crystal.from_ase(ions, charge=0).charge == 0
    ions.set_initial_charges([0.9] * 4 + [-0.8] * 4)
    with pytest.raises(ValueError, match="`charge`: the initial charges.*0.4"):
        eqs.Crystal.from_ase(ions)
    assert eqs.Crystal.from_ase(ions, supercell=(1, 1, 5)).charge == 2


def graphene(vacuum):
    return ase.build.graphene(vacuum=vacuum)


def test_a_direction_without_periodicity_needs_vacuum(caplog):
    with pytest.raises(ValueError, match=r"in direction 2 .* at least 10 Bohr.*7.559"):
        eqs.Crystal.from_ase(graphene(2.0))
    assert not caplog.records
    crystal = eqs.Crystal.from_ase(graphene(4.0))
    (record,) = caplog.records
    assert "direction 2 too, with 15.1 Bohr of vacuum" in record.getMessage()
    # What the message promises.
    assert "Its `vacuum` is (2,): `SpaceGroup.of` takes" in record.getMessage()
    assert eqs.SpaceGroup.of(crystal).symbol == "p6/mmm"
    assert eqs.Crystal.from_ase(graphene(4.0), vacuum=()).vacuum == ()
    periodic = graphene(2.0)
    periodic.pbc = True
    assert eqs.Crystal.from_ase(periodic).lattice.vectors[2, 2] == pytest.approx(
        4.0 / BOHR
    )


def test_a_chain_and_a_molecule_are_announced(caplog):
    chain = ase.Atoms("H2", [[0, 0, 0], [1, 0, 0]], cell=[2.3, 8, 8], pbc=(1, 0, 0))
    assert eqs.Crystal.from_ase(chain).vacuum == (1, 2)
    assert "direction 1 and 2 too" in caplog.text and "is (1, 2)" in caplog.text
    caplog.clear()
    molecule = ase.Atoms("H2", [[0, 0, 0], [1, 0, 0]], cell=[8, 8, 8])
    assert eqs.Crystal.from_ase(molecule).vacuum == ()
    assert "No group leaves out all three directions" in caplog.text
    molecule.cell[0, 0] = 2.3
    with pytest.raises(ValueError, match="direction 0 .*`atoms.pbc = True`"):
        eqs.Crystal.from_ase(molecule)


def test_a_cell_vector_that_is_zero_is_explained():
    atoms = ase.build.graphene()
    with pytest.raises(ValueError, match=r"direction 2.*atoms.center\(vacuum=4, axis"):
        eqs.Crystal.from_ase(atoms)
    # As advised.
    atoms.center(vacuum=4, axis=2)
    assert eqs.Crystal.from_ase(atoms).lattice.vectors[2, 2] == pytest.approx(8 / BOHR)


def test_a_conventional_cell_is_announced(caplog):
    cube = from_cif("Li1 Li 0 0 0 1", "H1 H 0.5 0.5 0.5 1")
    assert eqs.Crystal.from_ase(cube).electrons == (8, 8)
    (record,) = caplog.records
    assert "`atoms` is 4 primitive cells" in record.getMessage()
    assert "`crystal.primitive()`" in record.getMessage()
    caplog.clear()
    eqs.Crystal.from_ase(ase.build.bulk("LiH", "rocksalt", a=4.03))
    eqs.Crystal.from_ase(from_cif("H1 H 0 0 0 1", group="P m -3 m"))
    assert not caplog.records


def test_a_conventional_cell_is_announced_if_it_is_rounded(caplog):
    atoms = ase.build.bulk("LiH", "rocksalt", a=4.03, cubic=True)
    atoms.positions += 1e-3 * np.random.default_rng(0).normal(size=(8, 3))
    crystal = eqs.Crystal.from_ase(atoms)
    (message,) = caplog.messages
    assert "is 4 primitive cells of its crystal, if it is rounded by up to" in message
    assert "`crystal.symmetrized(0.01).primitive()`" in message
    assert sum(crystal.symmetrized(0.01).primitive().electrons) == 4


def test_atoms_of_opposite_moments_are_not_repetitions(caplog):
    """The primitive cell could not hold their order."""
    eqs.Crystal.from_ase(iron(magnetic_moments=[2.0, -2.0]))
    assert not any("primitive cells" in message for message in caplog.messages)
    caplog.clear()
    eqs.Crystal.from_ase(iron(magnetic_moments=[2.0, 2.0]))
    assert "`atoms` is 2 primitive cells" in caplog.text


def test_moments_of_a_calculation_are_announced(caplog):
    atoms = iron()
    atoms.calc = SinglePointCalculator(atoms, magmoms=[2.0, 2.0])
    assert eqs.Crystal.from_ase(atoms).electrons == (26, 26)
    assert "set_initial_magnetic_moments(atoms.get_magnetic_moments())" in caplog.text
    with_order = cell("H 0 0 0; H 2 2 2", magmom=[1, -1])
    eqs.Crystal.from_pyscf(with_order)
    assert "`cell.magmom` is not used" in caplog.text


@pytest.mark.parametrize("atoms", [[iron()], None])
def test_one_structure_is_asked_for(atoms):
    with pytest.raises(ValueError, match="path of a file, or one `ase.Atoms`, got"):
        eqs.Crystal.from_ase(atoms)


def test_a_file_is_read_by_its_path(tmp_path):
    atoms = ase.build.bulk("LiH", "rocksalt", a=4.03)
    path = tmp_path / "LiH.vasp"
    ase.io.write(path, atoms)
    for given in (path, str(path)):
        read = eqs.Crystal.from_ase(given, supercell=2)
        assert read.matches(eqs.Crystal.from_ase(atoms, supercell=2))
    with pytest.raises(FileNotFoundError, match="missing.cif"):
        eqs.Crystal.from_ase("missing.cif")
    # Neither by its name nor by its content.
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("LiH")
    with pytest.raises(ValueError, match="cannot read the file .*nothing.txt.*format="):
        eqs.Crystal.from_ase(nothing)
    empty = tmp_path / "empty.cif"
    empty.write_text("")
    with pytest.raises(ValueError, match=r"`atoms`: .*empty.cif"):
        eqs.Crystal.from_ase(empty)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone.cif' in /"):
        eqs.Crystal.from_ase("gone.cif")
    with pytest.raises(ValueError, match="`atoms` must be one file, got the folder"):
        eqs.Crystal.from_ase(tmp_path)


def test_what_a_structure_says_itself_is_not_given(caplog):
    for name in ("unit", "lattice", "species", "cart_positions", "frac_positions"):
        with pytest.raises(ValueError, match=f"Leave out `{name}`: the structure says"):
            eqs.Crystal.from_ase(graphene(15.0), **{name: "angstrom"})
    with pytest.raises(ValueError, match="Leave out `unit`"):
        eqs.Crystal.from_pyscf(cell(), unit="bohr")


def test_a_preset_says_that_its_vacuum_is_none(caplog):
    make = functools.partial(eqs.Crystal.hydrogen_chain, spacing=1.8, unit="bohr")
    assert make(vacuum=10.0).vacuum == (1, 2) and not caplog.messages
    assert make(vacuum=8.0).vacuum == ()
    (message,) = caplog.messages
    assert message.startswith("`vacuum` is 8 Bohr: with less than 10 Bohr, matter does")


def test_of_several_structures_in_a_file_none_is_guessed(tmp_path):
    path = tmp_path / "steps.traj"
    steps = [ase.build.bulk("LiH", "rocksalt", a=a) for a in (4.0, 4.1)]
    ase.io.write(path, steps)
    with pytest.raises(ValueError, match=r"2 structures.*`ase.io.read\(file, index=-1"):
        eqs.Crystal.from_ase(path)
    # The way in which ASE names one of them.
    last = eqs.Crystal.from_ase(f"{path}@-1")
    assert last.matches(eqs.Crystal.from_ase(steps[-1]))


def cell(atom="Li 0 0 0; H 2 2 2", a=4.0, **kwargs):
    return gto.M(
        a=np.diag(np.broadcast_to(a, 3)),
        atom=atom,
        basis={"default": [[0, [1.0, 1.0]]]},
        unit="A",
        verbose=0,
        **kwargs,
    )


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(spin=2),
        dict(charge=1, spin=1),
        dict(charge=-2, spin=0),
        dict(spin=-4),
        # Per cell, unlike the charge.
        dict(nelectron=6),
    ],
    ids=str,
)
@pytest.mark.parametrize("mesh", [(1, 1, 1), (1, 1, 2), (1, 1, 3)])
def test_electrons_are_those_of_pyscf_at_as_many_k_points(options, mesh):
    count = options.pop("nelectron", None)
    one = cell(**options)
    if count is not None:
        one.nelectron = count
    crystal = eqs.Crystal.from_pyscf(one, supercell=mesh)
    assert crystal.electrons == scf.KUHF(one, one.make_kpts(mesh)).nelec


def test_a_spin_that_the_supercell_cannot_have():
    one = cell("Li 0 0 0", spin=1)
    assert eqs.Crystal.from_pyscf(one).electrons == (2, 1)
    # PySCF refuses it, too.
    with pytest.raises(RuntimeError):
        _ = scf.KUHF(one, one.make_kpts((1, 1, 2))).nelec
    with pytest.raises(ValueError, match="`spin`: `cell.spin` is 1.*over all k-points"):
        eqs.Crystal.from_pyscf(one, supercell=(1, 1, 2))
    crystal = eqs.Crystal.from_pyscf(one, supercell=(1, 1, 2), spin=2)
    assert crystal.electrons == (4, 2)


def test_molecules_and_unbuilt_cells_are_refused():
    with pytest.raises(ValueError, match=r"`cell` must be a .*pyscf.gto.mole.Mole`"):
        eqs.Crystal.from_pyscf(molecules.M(atom="He 0 0 0", verbose=0))
    unbuilt = gto.Cell()
    unbuilt.atom, unbuilt.a = "He 0 0 0", 4 * np.eye(3)
    with pytest.raises(ValueError, match=r"`cell.build\(\)`"):
        eqs.Crystal.from_pyscf(unbuilt)


def test_a_slab_of_pyscf_needs_vacuum(caplog):
    slab = cell(dimension=2)
    with pytest.raises(ValueError, match="`dimension` 2, .*direction 2 .*got 3.779"):
        eqs.Crystal.from_pyscf(slab)
    slab = cell(a=(4.0, 4.0, 14.0), dimension=2)
    crystal = eqs.Crystal.from_pyscf(slab)
    np.testing.assert_allclose(crystal.lattice.vectors, slab.lattice_vectors())
    assert "`cell` has `dimension` 2. The crystal is periodic" in caplog.text
    assert crystal.vacuum == (2,)
    chain = eqs.Crystal.from_pyscf(
        cell(a=(4.0, 14.0, 15.0), dimension=1, low_dim_ft_type="inf_vacuum")
    )
    assert chain.vacuum == (1, 2) and eqs.SpaceGroup.of(chain).vacuum == (1, 2)


def test_positions_of_pyscf(caplog):
    caplog.set_level(logging.INFO, logger="eqsym")
    fractional = cell("Li 0 0 0; H 0.5 0.5 0.5", fractional=True)
    crystal = eqs.Crystal.from_pyscf(fractional)
    np.testing.assert_allclose(crystal.cart_positions[1], 2 / BOHR)
    np.testing.assert_allclose(crystal.lattice.vectors, 4 / BOHR * np.eye(3))
    assert not caplog.records
    # Numbered, tagged, by charge; and basis functions without a nucleus.
    named = cell("Li1 0 0 0; H@2 2 2 2; 1 0 2 0; ghost-Li 2 0 0; X-H 0 0 2", spin=1)
    assert eqs.Crystal.from_pyscf(named).species == ("Li", "H", "H")
    assert "2 ghost atoms" in caplog.text
    cubes = cell("H 0 0 0; H 2 2 2")
    assert eqs.Crystal.from_pyscf(cubes).electrons == (1, 1)
    assert "`cell` is 2 primitive cells" in caplog.text
