"""Texts of modules are short, and Equinox still shows the whole tree."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs


CRYSTAL = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")
GROUP = eqs.SpaceGroup.of(CRYSTAL)
OCCUPATION = eqs.Occupation((np.zeros((2, 3)), np.zeros((2, 3))))


def crystal(**changes):
    return eqs.Crystal(
        5 * np.eye(3),
        ["B", "B", "N", "N"],
        frac_positions=_PLACES,
        unit="bohr",
        **changes,
    )


def test_transformations_of_optax_are_short():
    optimizer = eqs.Optax(optax.chain(optax.clip(1.0), optax.adam(1e-3)))
    name = "GradientTransformationExtraArgs"
    assert repr(optimizer) == f"Optax(transformation={name}(...), chunk=None)"


_PLACES = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0], [0, 0.5, 0]]


@pytest.mark.parametrize(
    "changes, facts",
    [
        ({}, ""),
        ({"supercell": (2, 1, 1)}, ", supercell 2x1x1"),
        (
            {"supercell": [[1, 1, 0], [0, 1, 0], [0, 0, 1]]},
            ", supercell [[1, 1, 0], [0, 1, 0], [0, 0, 1]]",
        ),
        ({"twist": (1 / 3, -0.25, 0.123456789)}, ", twist (1/3, -1/4, 0.12345679)"),
        ({"charge": 2, "spin": 4}, ", 13 up and 9 down, charge 2"),
        ({"charge": -1}, ", charge -1"),
        ({"vacuum": (2,)}, ", vacuum (2,)"),
    ],
)
def test_a_crystal_is_one_line(changes, facts):
    one = crystal(**changes)
    electrons = sum(one.electrons)
    assert repr(one) == f"Crystal(B2 N2, {electrons} electrons{facts})"


def test_a_group_is_one_line_wherever_it_is():
    assert repr(GROUP) == "SpaceGroup(Fm-3m, 48 operations, Li H)"
    assert repr(eqs.GroupAverage(GROUP)) == f"GroupAverage(group={GROUP!r})"
    # A symbol that spglib does not know is not said twice.
    turns, moves = [np.eye(3), np.diag([-1, -1, 1])], [[0, 0, 0], [0, 0, 0.5]]
    nuclei = [[0.1, 0.2, 0], [-0.1, -0.2, 0.5]]
    slab = eqs.Crystal(
        np.diag([6.0, 7.0, 24.0]), ["H"] * 2, frac_positions=nuclei, unit="bohr"
    )
    unknown = eqs.SpaceGroup(slab, turns, moves, vacuum=(2,))
    assert repr(unknown) == "SpaceGroup(2 operations, H2)"
    double = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", supercell=(1, 1, 2))
    whole = eqs.SpaceGroup.of(double).with_translations()
    assert repr(whole).endswith(
        f"{whole.order} operations, Li H, modulo the supercell)"
    )


def test_other_parts_of_a_crystal_are_one_line():
    domain = eqs.FundamentalDomain.of(GROUP)
    elements = eqs.symmetry_elements(GROUP)
    for one, text in (
        (CRYSTAL.lattice, f"Lattice({', '.join(['5.44472'] * 3)} Bohr, 60, 60, 60 deg"),
        (OCCUPATION, "Occupation(2 up and 2 down at 1 k-point)"),
        (eqs.irreps(GROUP)[-1], "Irrep(T2u, dimension 3, Fm-3m)"),
        (eqs.character_table(GROUP), "CharacterTable(Fm-3m, 10 irreps: A1g A2g Eg "),
        (domain, "FundamentalDomain(4 faces, 4 vertices, 2.37778 cubic Bohr, Spac"),
        (elements, "SymmetryElements(3x 4, 3x 4_2, 4x -3, "),
        (elements.axes[0], "SymmetryAxis(4 along (-1, -1, 1) at (0, 0, 0))"),
        (elements.planes[0], "SymmetryPlane(mirror, normal (1, 1, 0) at 0)"),
    ):
        assert repr(one).startswith(text) and "\n" not in repr(one)


def test_a_tree_of_something_else_has_a_repr():
    elements = eqs.symmetry_elements(GROUP)
    assert repr(jax.tree.map(lambda _: None, elements)).endswith("(...)")


def _public_modules():
    psi = eqs.SolidNet(CRYSTAL, OCCUPATION, key=jax.random.key(0))
    hamiltonian = eqs.Hamiltonian(CRYSTAL)
    average = eqs.GroupAverage(GROUP)
    return [
        psi,
        hamiltonian,
        hamiltonian.ewald,
        eqs.Symmetrized(psi, average),
        eqs.IrrepProjection(GROUP, eqs.irreps(GROUP)[-1]),
        eqs.Canonicalization(eqs.FundamentalDomain.of(GROUP)),
        eqs.SymmetrizedOrbitals(psi, average),
        eqs.VMC(hamiltonian, eqs.Metropolis(), eqs.Spring()),
        eqs.VMC(
            hamiltonian,
            eqs.Metropolis(),
            eqs.Spring(),
            strategy=eqs.SymmetrizedTraining(average),
        ),
        eqs.Chains(jnp.zeros((8, 4, 3)), key=jax.random.key(0)),
        eqs.Density.for_group(GROUP, spacing=1.0),
        eqs.irreducible_twists(CRYSTAL, (2, 2, 2)),
    ]


def test_every_public_module_fits_on_a_screen():
    for one in _public_modules():
        text, whole = repr(one), eqx.tree_pformat(one)
        assert len(text.splitlines()) <= 15, text
        assert "_frac_rotations" not in text
        # The long form is Equinox's.
        if "SpaceGroup" in text:
            assert "_frac_rotations=(" in whole
    assert len(eqx.tree_pformat(GROUP).splitlines()) > 100


class Inner(eqs.AbstractFixed):
    grid: jax.Array
    data: np.ndarray
    call: object


class Outer(eqs.AbstractFixed):
    parts: tuple[Inner, ...]
    number: jax.Array


class Own(eqx.Module):
    data: jax.Array

    def __repr__(self):
        return "Own(of its own)"


def test_a_class_inside_may_have_a_repr_of_its_own():
    own = Inner(jnp.zeros((2, 3)), np.zeros(4), Own(jnp.zeros(3)))
    assert "call=Own(of its own)" in repr(own)


def test_modules_inside_are_cut_off_if_there_are_many():
    inner = Inner(jnp.zeros((2, 3), jnp.int32), np.zeros(4), jax.nn.relu)
    few, many = (
        Outer((inner,), jnp.asarray(5, jnp.int32)),
        Outer((inner,) * 20, jnp.asarray(2.5)),
    )
    assert "grid=i32[2,3],\n      data=f64[4],\n      call=<" in repr(few)
    assert "number=5" in repr(few) and "number=2.5" in repr(many)
    assert "Inner(...), Inner(...)" in repr(many).replace("\n", "").replace("   ", "")

    @eqx.filter_jit
    def traced(outer):
        assert "number=i32[]" in repr(outer)
        return outer.number

    traced(few)
    few.number.delete()
    assert "number=i32[]" in repr(few)
