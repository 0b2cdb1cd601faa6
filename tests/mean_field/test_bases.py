"""Gaussian bases that belong to pseudopotentials, and those that do not."""

import pytest
from pyscf.gto import basis

import eqsym as eqs
from eqsym._mean_field.bases import basis_of


OWN = "Li nelec 2\nLi ul\n2 1.8 -1.2\n"


def crystal(pseudopotential, species=("Na", "Cl")):
    return eqs.Crystal.rock_salt(
        *species, a=5.64, unit="angstrom", pseudopotential=pseudopotential
    )


@pytest.mark.parametrize(
    "potential, expected",
    [
        (None, ("cc-pvdz", "cc-pvdz")),
        ("ccecp", ("ccecp-cc-pvdz", "ccecp-cc-pvdz")),
        ("ccECP-He", ("ccecphe-cc-pvdz", None)),
        ("bfd", ("bfd-vdz", "bfd-vdz")),
        ("lanl2dz", ("lanl2dz", "lanl2dz")),
        ({"Na": "ccecp", "Cl": None}, ("ccecp-cc-pvdz", "cc-pvdz")),
        ({"Na": None, "Cl": "bfd"}, ("cc-pvdz", "bfd-vdz")),
    ],
)
def test_default(potential, expected):
    """PySCF has it, for every element, and it was made for the same core."""
    if None in expected:
        # Which is there for sodium only.
        potential = {"Na": potential, "Cl": None}
        expected = (expected[0], "cc-pvdz")
    made = crystal(potential)
    found = dict(basis_of(made, None))
    assert found == dict(zip(("Na", "Cl"), expected, strict=True))
    for element, name in found.items():
        assert basis.load(name, element)
    assert basis_of(made, found) == basis_of(made, None)


@pytest.mark.parametrize(
    "potential, given, message",
    [
        (None, "ccecp-cc-pvdz", r"Cl was made for 10 .* all electrons of Cl .*'cc-p"),
        (
            None,
            "bfd-vdz",
            "of Cl was made for 10 core electrons, but all electrons of Cl",
        ),
        (None, "gth-dzvp", "of Cl was made for 10 core electrons, but all electrons"),
        (
            "ccecp",
            "cc-pvdz",
            "Cl was made for 0 .* of Cl stands for 10. Leave `basis` ",
        ),
        ("ccecp", "sto-3g", "out for one that fits, 'ccecp-cc-pvdz'"),
        ("bfd", "cc-pvdz", "out for one that fits, 'bfd-vdz'"),
        (
            {"Na": "ccecp", "Cl": None},
            {"Na": "cc-pvdz", "Cl": "cc-pvdz"},
            "'cc-pvdz' of Na was made for 0 core electrons, but the .* stands for 10",
        ),
        # Both have potentials of that name, for other cores.
        (
            {"Na": "ccecp-he", "Cl": None},
            {"Na": "ccecp-cc-pvdz", "Cl": "cc-pvdz"},
            "'ccecp-cc-pvdz' of Na was made for 10 core .* of Na stands for 2",
        ),
    ],
)
def test_made_for_another_core(potential, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        basis_of(crystal(potential), given)
    assert str(caught.value).startswith("`basis`")


def test_made_for_the_core():
    """Any of that number of core electrons will do; of unknown ones PySCF says so."""
    for name in ("ccecp-cc-pvdz", "ccECP-aug-cc-pVTZ", "bfd-vtz", "lanl2dz"):
        assert basis_of(crystal("ccecp"), name) == (("Cl", name), ("Na", name))
    assert basis_of(crystal("ccecp"), "nonsense")[0] == ("Cl", "nonsense")
    heavy = eqs.Crystal.bcc("I", a=6.0, unit="angstrom", pseudopotential="cc-pvdz-pp")
    for name in ("aug-cc-pvdz-pp", "def2-svp"):
        assert basis_of(heavy, name) == (("I", name),)
    # Hydrogen has no core.
    half = crystal({"Li": "ccecp", "H": "ccecp"}, ("Li", "H"))
    named = {"Li": "ccecp-cc-pvdz", "H": "cc-pvdz"}
    assert dict(basis_of(half, named)) == named


def test_text_needs_a_basis():
    made = crystal({"Li": OWN, "H": None}, ("Li", "H"))
    with pytest.raises(ValueError, match="`basis` must be given.*of Li.*2 core") as one:
        eqs.MeanField.solve(made)
    assert "ccecp-cc-pvdz" in str(one.value)
    # Who gives one is not told to leave it out.
    with pytest.raises(ValueError, match="made for 0 core.*Name one.* 2 core") as one:
        eqs.MeanField.solve(made, basis="cc-pvdz")
    assert "Leave" not in str(one.value) and "must be given" not in str(one.value)
    named = {"Li": "ccecp-cc-pvdz", "H": "cc-pvdz"}
    assert dict(basis_of(made, named)) == named


def test_names_for_every_element():
    with pytest.raises(ValueError, match="`basis` must be the name .*'Cl', 'Na'"):
        basis_of(crystal("ccecp"), {"Na": "ccecp-cc-pvdz"})


def test_files_are_of_one_pseudopotential(tmp_path):
    """Hydrogen has as many electrons with one as without: only the potential differs.
    Its terms come back from the file."""

    def chain(**kwargs):
        return eqs.Crystal.hydrogen_chain(
            spacing=1.8, vacuum=20.0, unit="bohr", **kwargs
        )

    given = dict(basis="sto-3g", progress=False)
    for name, other in ((None, "ccecp"), ("ccecp", None)):
        path = tmp_path / f"{name}.npz"
        solved = eqs.MeanField.solve(chain(pseudopotential=name), path=path, **given)
        assert eqs.MeanField.load(path).crystal == solved.crystal
        with pytest.raises(ValueError, match="holds .* another crystal.*`pseudopotent"):
            eqs.MeanField.solve(chain(pseudopotential=other), path=path, **given)
    # As in the file, with the name that it has there.
    terms = solved.crystal.pseudopotential["H"].terms
    unnamed = eqs.EffectiveCorePotential("H", 0, terms)
    again = eqs.MeanField.solve(
        chain(pseudopotential=unnamed), path=tmp_path / "ccecp.npz", **given
    )
    assert (again.energy, again.crystal) == (solved.energy, solved.crystal)
