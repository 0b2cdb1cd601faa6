"""Crystals with effective core potentials: what may be given, and what is kept."""

import json
import re

import ase
import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf.gto import basis
from pyscf.pbc import gto

import eqsym as eqs
from eqsym._crystal import with_changes
from eqsym._storage.serialize import decode, dumps, encode
from toys import hydrogen, pyscf_lih, waves


# As published, in the format of NWChem.
LITHIUM = """
Li nelec 2
Li ul
1 15.0 1.0
3 15.0479971422127 15.0
2 1.80605426846072 -1.24272969818004
Li s
2 1.33024777689591 6.75286789026804
"""


def rock_salt(cation="Li", anion="H", **kwargs):
    kwargs = {"pseudopotential": "ccecp"} | kwargs
    return eqs.Crystal.rock_salt(cation, anion, a=4.08, unit="angstrom", **kwargs)


def diamond(element="Si", **kwargs):
    return eqs.Crystal.diamond(element, a=5.43, unit="angstrom", **kwargs)


def lithium(**kwargs):
    return eqs.Crystal.bcc("Li", a=3.44, unit="angstrom", **kwargs)


def terms_of_pyscf(name, element):
    """Core electrons, and rows (l, n, a, c) but for those without a coefficient."""
    core, blocks = basis.load_ecp(name, element)
    rows = {
        (l, n, *row)
        for l, powers in blocks
        for n, found in enumerate(powers)
        for row in map(tuple, found)
        if row[1]
    }
    return core, rows


@pytest.mark.parametrize("name", ["ccecp", "ccECP", "cc-ECP", " CCecp"])
def test_names_are_compared_as_by_pyscf(name):
    crystal = rock_salt(pseudopotential=name)
    assert crystal == rock_salt(pseudopotential="ccecp")
    assert {one.name for one in crystal.pseudopotential.values()} == {"ccecp"}


@pytest.mark.parametrize(
    "name, element",
    [("ccecp", "Li"), ("ccecp", "Si"), ("ccecp", "H"), ("bfd", "Cl"), ("ccecp", "Fe")],
)
def test_terms_are_those_of_pyscf(name, element):
    found = diamond(element, pseudopotential=name).pseudopotential[element]
    expected = terms_of_pyscf(name, element)
    assert (found.core, {*found.terms}) == expected
    assert len(found.terms) == len(expected[1])
    core, blocks = found.as_pyscf()
    rows = {
        (l, n, *row)
        for l, powers in blocks
        for n, there in enumerate(powers)
        for row in map(tuple, there)
    }
    assert (core, rows) == expected


def test_format_of_pyscf():
    found = diamond(pseudopotential="ccecp").pseudopotential["Si"]
    assert found.as_pyscf() == basis.load_ecp("ccecp", "Si")


def test_text_is_the_same_potential_without_a_name():
    named = lithium(pseudopotential="ccecp")
    for text in (LITHIUM, LITHIUM.replace("e", "E").replace("15.0 1.0", "1.5D1 1D0")):
        given = lithium(pseudopotential=text)
        one = given.pseudopotential["Li"]
        assert one.terms == named.pseudopotential["Li"].terms
        assert (one.core, one.name) == (2, None)
        assert given.matches(named) and given.difference(named) is None
        # The name chooses the basis, so they are not the same values.
        assert given != named
    # Text of several elements serves all of them.
    hydrogen_text = "H nelec 0\nH ul\n2 2.0 -1.0\n"
    crystal = rock_salt(pseudopotential=LITHIUM + hydrogen_text)
    assert crystal.pseudopotential["H"].terms == ((-1, 2, 2.0, -1.0),)
    assert crystal.pseudopotential["Li"] == one


def test_one_for_each_element():
    mixed = rock_salt("Na", "Cl", pseudopotential={"Na": "ccecp", "Cl": "BFD"})
    names = {symbol: one.name for symbol, one in mixed.pseudopotential.items()}
    assert names == {"Na": "ccecp", "Cl": "bfd"}
    half = rock_salt(pseudopotential={"H": None, "Li": "ccecp"})
    assert list(half.pseudopotential) == ["Li"]
    assert half.charges.tolist() == [1, 1]
    none = rock_salt(pseudopotential={"H": None, "Li": None})
    assert none == rock_salt(pseudopotential=None)
    assert none.pseudopotential == {} and sum(none.electrons) == 4


def test_what_a_crystal_has_may_be_given_again():
    first = rock_salt()
    assert rock_salt(pseudopotential=first.pseudopotential) == first
    one = first.pseudopotential["Li"]
    assert lithium(pseudopotential=one) == lithium(pseudopotential="ccecp")
    own = eqs.EffectiveCorePotential("Li", 2, [list(row) for row in one.terms], "ccecp")
    assert own == one and hash(own) == hash(one)


@pytest.mark.parametrize(
    "crystal, charges, electrons",
    [
        (lambda **given: rock_salt(**given), [1, 1], (1, 1)),
        (lambda **given: rock_salt("Na", "Cl", **given), [1, 7], (4, 4)),
        (lambda **given: diamond(pseudopotential="ccecp", **given), [4, 4], (4, 4)),
        (lambda **given: lithium(pseudopotential="ccecp", **given), [1], (1, 0)),
    ],
    ids=["LiH", "NaCl", "Si", "Li"],
)
def test_electrons_are_the_valence_electrons(crystal, charges, electrons):
    one = crystal()
    assert one.charges.tolist() == charges
    assert (one.electrons, one.charge) == (electrons, 0)
    number = sum(electrons)
    for charge in (-1, 1) if number > 1 else (-1,):
        ion = crystal(charge=charge)
        assert (sum(ion.electrons), ion.charge) == (number - charge, charge)
    for spin in (number % 2 + 1, -(number % 2) - 1):
        with pytest.raises(ValueError, match="`spin`"):
            crystal(spin=spin)
    with pytest.raises(ValueError, match="`charge`"):
        crystal(charge=number + 1)
    many = crystal(supercell=(2, 1, 1))
    assert sum(many.electrons) == 2 * number
    assert many.supercell_charges.tolist() == 2 * charges


def test_atomic_numbers_stay():
    """Symmetry tells elements apart that have the same charge."""
    crystal = rock_salt()
    assert crystal.atomic_numbers.tolist() == [3, 1]
    assert crystal.charges.tolist() == [1, 1]
    assert eqs.SpaceGroup.of(crystal).order == 48


def test_presets():
    cell = dict(a=5.0, unit="angstrom", pseudopotential="ccecp")
    assert sum(eqs.Crystal.fcc("Al", **cell).electrons) == 3
    assert sum(eqs.Crystal.zinc_blende("B", "N", **cell).electrons) == 8
    assert sum(eqs.Crystal.graphene(vacuum=20.0, **cell).electrons) == 8
    chain = eqs.Crystal.hydrogen_chain(
        spacing=1.8, vacuum=20.0, unit="bohr", pseudopotential="ccecp"
    )
    assert chain.electrons == (1, 1) and "H" in chain.pseudopotential


def test_crystals_made_of_a_crystal_keep_them():
    potentials = {"Na": "ccecp", "Cl": None}
    primitive = rock_salt("Na", "Cl", pseudopotential=potentials)
    given = primitive.pseudopotential
    conventional = eqs.Crystal(
        4.08 * np.eye(3),
        ["Na"] * 4 + ["Cl"] * 4,
        frac_positions=[
            [0, 0, 0],
            [0, 0.5, 0.5],
            [0.5, 0, 0.5],
            [0.5, 0.5, 0],
            [0.5, 0.5, 0.5],
            [0.5, 0, 0],
            [0, 0.5, 0],
            [0, 0, 0.5],
        ],
        unit="angstrom",
        pseudopotential=potentials,
    )
    assert sum(conventional.electrons) == 4 * 18
    for made in (
        conventional.primitive(),
        conventional.symmetrized(1e-3),
        with_changes(conventional, twist=(0.5, 0, 0)),
        with_changes(primitive, supercell=(1, 1, 2)),
    ):
        assert made.pseudopotential == given
    assert conventional.primitive().electrons == primitive.electrons
    for vacuum in ((), (2,)):
        assert with_changes(primitive, vacuum=vacuum).pseudopotential == given


def test_from_ase():
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64)
    crystal = eqs.Crystal.from_ase(atoms, pseudopotential="ccecp")
    preset = eqs.Crystal.rock_salt(
        "Na", "Cl", a=5.64, unit="angstrom", pseudopotential="ccecp"
    )
    assert crystal.difference(preset) is None
    assert crystal.electrons == (4, 4)
    # One moment for each of two cells, and one valence electron.
    sodium = ase.build.bulk("Na", "bcc", a=4.29)
    sodium.set_initial_magnetic_moments([1.0])
    read = eqs.Crystal.from_ase
    pair = read(sodium, pseudopotential="ccecp", supercell=(1, 1, 2))
    assert pair.electrons == (2, 0)
    sodium.set_initial_magnetic_moments([3.0])
    assert read(sodium).electrons == (7, 4)
    with pytest.raises(ValueError, match="`spin`.*parity of the 1 electrons"):
        read(sodium, pseudopotential="ccecp")
    with pytest.raises(ValueError, match="`pseudopotential`.*'Na'"):
        read(sodium, pseudopotential={"Li": "ccecp"})


@pytest.mark.parametrize(
    "ecp, given",
    [
        ("ccecp", "ccecp"),
        ("ccECP", "ccecp"),
        ({"Li": "ccecp"}, {"Li": "ccecp", "H": None}),
        ({"default": "ccecp"}, "ccecp"),
        ({"Li": LITHIUM}, {"Li": LITHIUM, "H": None}),
        ({"Li": basis.parse_ecp(LITHIUM, "Li")}, {"Li": LITHIUM, "H": None}),
        ({}, None),
    ],
    ids=["name", "capitals", "element", "default", "text", "terms", "none"],
)
def test_from_pyscf(ecp, given):
    """The same as the crystal made directly, with the charge of all valence electrons
    of PySCF."""
    direct = rock_salt(pseudopotential=given)
    for cells in (1, 2):
        crystal = eqs.Crystal.from_pyscf(pyscf_lih(ecp=ecp), supercell=(1, 1, cells))
        assert crystal.pseudopotential == direct.pseudopotential
        assert crystal.electrons == tuple(cells * n for n in direct.electrons)
    charged = eqs.Crystal.from_pyscf(pyscf_lih(ecp=ecp, charge=1, spin=1))
    assert (charged.charge, sum(charged.electrons)) == (1, sum(direct.electrons) - 1)


def test_from_pyscf_with_a_pseudopotential_of_ones_own():
    cell = pyscf_lih()
    crystal = eqs.Crystal.from_pyscf(cell, pseudopotential="ccecp")
    assert crystal.difference(rock_salt()) is None
    assert crystal.electrons == (1, 1)
    half = {"Li": "ccecp", "H": None}
    found = eqs.Crystal.from_pyscf(cell, pseudopotential=half, supercell=(1, 1, 2))
    assert found.electrons == (2, 2)
    # As with its charge and spin, `None` is what the cell says.
    own = eqs.Crystal.from_pyscf(pyscf_lih(ecp="ccecp"), pseudopotential=None)
    assert own.difference(rock_salt()) is None
    with pytest.raises(ValueError, match="Leave out `pseudopotential`.*'Li'"):
        eqs.Crystal.from_pyscf(pyscf_lih(ecp="ccecp"), pseudopotential="ccecp")


def test_from_pyscf_has_one_for_each_element():
    cell = gto.M(
        a=4 * np.eye(3),
        atom=[("Li1", (0, 0, 0)), ("Li2", (2, 2, 2))],
        basis={"default": [[0, [1.0, 1.0]]]},
        ecp={"Li1": "ccecp"},
        spin=None,
        verbose=0,
    )
    with pytest.raises(ValueError, match="`cell.ecp` has several .* of Li"):
        eqs.Crystal.from_pyscf(cell)


def test_differences():
    one, other = rock_salt(), rock_salt(pseudopotential=None)
    assert one.difference(one) is None
    found = one.difference(other, electrons=False)
    assert found == "`pseudopotential` of Li is ccecp and None"
    assert other.difference(one).startswith("`pseudopotential` of Li is None and ccecp")
    assert not one.matches(other) and one != other
    strong = rock_salt(
        pseudopotential={"Li": LITHIUM.replace("6.75", "7.75"), "H": "ccecp"}
    )
    assert one.difference(strong) == "`pseudopotential` of Li is ccecp and its own"
    own = rock_salt(pseudopotential={"Li": LITHIUM, "H": "ccecp"})
    assert own.difference(strong).endswith("is its own and its own of other terms")
    bfd = rock_salt(pseudopotential="bfd")
    assert one.difference(bfd) == "`pseudopotential` of Li is ccecp and bfd"
    assert hash(rock_salt()) == hash(one)
    assert len({one, other, strong, own, bfd, rock_salt()}) == 5


def test_descriptions():
    assert repr(rock_salt()) == "Crystal(Li H, 2 electrons, pseudopotential ccecp)"
    assert "pseudopotential" not in repr(rock_salt(pseudopotential=None))
    half = rock_salt(pseudopotential={"Li": "ccecp", "H": None})
    assert "pseudopotential Li: ccecp" in repr(half)
    own = rock_salt(pseudopotential={"Li": LITHIUM, "H": "ccecp"})
    assert "pseudopotential Li: own, H: ccecp" in repr(own)
    shown = repr(own.pseudopotential["Li"])
    assert shown == "EffectiveCorePotential(Li, of its own, 2 core electrons, l = 0)"
    assert "ccecp" in repr(half.pseudopotential["Li"])


@pytest.mark.parametrize(
    "given, message",
    [
        ("nonsense", "'nonsense': PySCF has no .* for Li.*'ccecp'"),
        ("", "'': PySCF has no"),
        # A basis, and one that has potentials of heavy elements only.
        ("cc-pvdz", "'cc-pvdz': PySCF has no"),
        ("aug-cc-pvdz-pp", "'aug-cc-pvdz-pp': PySCF has no"),
        ("lanl2dz", "'lanl2dz': PySCF has no .* for (Li|H)"),
        ("gth-pade", "'gth-pade' of Li is a separable one.*pseudopotential='ccecp'"),
        ("GTH-BLYP-q3", "is a separable one"),
        (3, "must be the name of .*got 3 for Li"),
        (["ccecp", "ccecp"], "must be the name of"),
        ({"Li": 2.0, "H": None}, "must be the name of .*got 2.0 for Li"),
        ({"Li": "ccecp"}, "one for each of the elements .'Li', 'H'..*got .'Li'."),
        ({"Li": "ccecp", "H": None, "Si": "ccecp"}, "one for each of.*'Si'"),
        ({3: "ccecp", "H": None}, "one for each of"),
        (LITHIUM, "of H must be .* a line 'H nelec ...', got 'Li nelec 2'"),
    ],
)
def test_errors(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        rock_salt(pseudopotential=given)
    assert str(caught.value).startswith("`pseudopotential`")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("Li nelec 2\n", "", r"a line 'Li nelec ...', got 'Li ul'"),
        ("Li ", "Na ", r"a line 'Li nelec ...', got 'Na nelec 2'"),
        ("nelec 2", "nelec two", "must be a potential in NWChem's format"),
        ("nelec 2", "nelec 3", r"stands for 3 electrons .*nuclear charge 3"),
        ("nelec 2", "nelec -1", r"stands for -1 electrons"),
        ("1 15.0 1.0", "1 15.0", "a line must have .*got '1 15.0'"),
        ("1 15.0 1.0", "1 15.0 x", "a line must have .*got '1 15.0 x'"),
        # PySCF would compute this.
        ("1 15.0 1.0", "1 3*5 1.0", "a line must have .*3.5 1.0'"),
        ("1 15.0 1.0", "1.5 15.0 1.0", "a line must have a power"),
        ("1 15.0 1.0", "9 15.0 1.0", "a power, from 0 to 6"),
        # And this it would count from the end.
        ("1 15.0 1.0", "-1 15.0 1.0", "a power, from 0 to 6"),
        ("1.8060", "-1.8060", "exponents .* must be positive.*-1.8060"),
        ("1.80605426846072", "0.0", "must be positive"),
        ("1.0\n", "nan\n", "finite"),
        ("Li s", "Li q", "must be a potential in NWChem's format"),
    ],
)
def test_errors_in_text(old, new, message):
    assert old in LITHIUM
    with pytest.raises(ValueError, match=message) as caught:
        lithium(pseudopotential=LITHIUM.replace(old, new))
    assert str(caught.value).startswith("`pseudopotential` of Li")
    assert "\n" not in str(caught.value)


def test_errors_of_potentials():
    made = eqs.EffectiveCorePotential
    with pytest.raises(ValueError, match="`element` must be .*'X'"):
        made("X", 2, [])
    with pytest.raises(ValueError, match="`core`"):
        made("Li", 3, [])
    for row in ((0, 2, 1.0), (-2, 2, 1.0, 1.0), (0, -1, 1.0, 1.0), (0.5, 2, 1.0, 1.0)):
        with pytest.raises(ValueError, match="`terms` must be rows"):
            made("Li", 2, [row])
    for row in ((0, 2, 0.0, 1.0), (0, 2, np.inf, 1.0), (0, 2, 1.0, np.inf)):
        with pytest.raises(ValueError, match="`terms` must be positive.*finite"):
            made("Li", 2, [row])
    one = lithium(pseudopotential="ccecp").pseudopotential["Li"]
    with pytest.raises(ValueError, match=r"`pseudopotential` of H is one of Li"):
        rock_salt(pseudopotential=one)


def test_round_trip_through_json():
    for given in ("ccecp", {"Li": LITHIUM, "H": None}):
        crystal = rock_salt(pseudopotential=given, supercell=(1, 1, 2))
        again = decode(json.loads(dumps(encode(crystal))), {})
        assert again == crystal and hash(again) == hash(crystal)
        assert again.electrons == crystal.electrons


def test_checkpoints_are_of_one_pseudopotential(tmp_path):
    """Hydrogen has as many electrons with one as without: only the potential differs.
    A text is the same as the name, as any description of the same crystal is."""
    plain = waves(hydrogen())
    valence = waves(hydrogen(pseudopotential="ccecp"))
    eqs.checkpoint.save(tmp_path / "plain", 1, plain)
    eqs.checkpoint.save(tmp_path / "valence", 1, valence)
    for folder, like in (("plain", valence), ("valence", plain)):
        with pytest.raises(ValueError, match="pseudopotential") as caught:
            eqs.checkpoint.restore(tmp_path / folder, 1, like)
        assert "crystal" in str(caught.value)
    known = valence.crystal.pseudopotential["H"]
    unnamed = eqs.EffectiveCorePotential("H", known.core, known.terms[::-1])
    same = waves(hydrogen(pseudopotential=unnamed))
    for like in (valence, same):
        found = eqs.checkpoint.restore(tmp_path / "valence", 1, like)
        assert jax.tree.all(jax.tree.map(np.array_equal, found, like))


def test_hamiltonians_are_of_one_pseudopotential():
    with pytest.raises(ValueError, match=re.escape("`pseudopotential` of H is")):
        eqs.translation_scan(
            waves(hydrogen(pseudopotential="ccecp")),
            jnp.zeros((1, 3)),
            vectors=np.eye(3)[:2],
            hamiltonian=eqs.Hamiltonian(hydrogen()),
        )


def test_run_folder(tmp_path):
    """The crystal of a run is made again from its folder, and `run.json` names the
    pseudopotential to people."""
    psi = waves(hydrogen(pseudopotential="ccecp"))
    vmc = eqs.VMC(eqs.Hamiltonian(psi.crystal), eqs.Metropolis(2), eqs.Spring())
    walkers = eqs.initial_walkers(psi.crystal, 4, key=jax.random.key(0))
    rest = dict(key=jax.random.key(1), burn_in=0, path=tmp_path, progress=False)
    eqs.run(vmc, psi, steps=1, walkers=walkers, **rest)
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["crystal"]["pseudopotential"] == {"H": "ccecp"}
    loaded = eqs.load_run(tmp_path, psi)
    assert loaded.crystal == psi.crystal
    assert "pseudopotential" in loaded.history
    # Goes on, and not with the Hamiltonian of another crystal or other points.
    eqs.run(vmc, psi, steps=2, walkers=walkers, **rest)
    fixed = eqs.SphericalQuadrature(6, random=False)
    for changed, named in (
        (eqs.Hamiltonian(psi.crystal, quadrature=fixed), "quadrature"),
        (eqs.Hamiltonian(hydrogen()), "pseudopotential"),
    ):
        other = eqs.VMC(changed, vmc.sampler, vmc.optimizer)
        start = waves(changed.crystal)
        with pytest.raises(ValueError, match=named):
            eqs.run(other, start, steps=3, walkers=walkers, **rest)
