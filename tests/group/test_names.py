"""Names of operations say what the operations are, and heads of character tables which
class is which."""

import re
from fractions import Fraction

import numpy as np
import pytest

import eqsym as eqs
import group_toys


# A Hall number of each crystal system, and of groups with screws, glides, diamond
# glides and centering.
_SETTINGS = (1, 2, 4, 64, 90, 115, 227, 349, 400, 433, 458, 462, 485, 488, 490, 502)
_SETTINGS = (*_SETTINGS, 511, 517, 525, 530)
_NAME = re.compile(
    r"(?P<kind>t|m|-?[12346])(?P<sense>[+-]?)"
    r"( \[(?P<axis>[-\d]+)\])?( \| (?P<move>.*))?"
)


def _group(hall, seed=0):
    rotations, translations = group_toys.database(hall)
    crystal = group_toys.crystal_for(rotations, translations, seed)
    return eqs.SpaceGroup(crystal, rotations, translations)


def _operation(name, vectors):
    """The Cartesian rotation and the translation that a name says."""
    parts = _NAME.fullmatch(name)
    kind, axis = parts["kind"], parts["axis"]
    order = {"t": 1, "m": 2}.get(kind) or abs(int(kind))
    sign = -1 if kind == "m" or kind.startswith("-") else 1
    angle = (-1 if parts["sense"] == "-" else 1) * 2 * np.pi / order
    turn = np.eye(3)
    if axis:
        along = np.array([int(x) for x in re.findall(r"-?\d", axis)]) @ vectors
        x, y, z = along / np.linalg.norm(along)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    shift = [float(Fraction(x)) for x in (parts["move"] or "0 0 0").split()]
    return sign * turn, shift


@pytest.mark.parametrize("hall", _SETTINGS)
def test_a_name_says_what_the_operation_does(hall):
    group = _group(hall)
    listed = str(group).splitlines()
    assert listed[0] == repr(group) and len(group.names) == group.order
    cells = [cell.strip() for row in listed[1:-2] for cell in re.split(" {4,}", row)]
    assert set(cells) == {f"{i}  {name}" for i, name in enumerate(group.names)}
    straight = "along x, y, z." in listed[-1]
    vectors = np.eye(3) if straight else group.crystal.lattice.vectors
    for i, name in enumerate(group.names):
        turn, shift = _operation(name, vectors)
        np.testing.assert_allclose(turn, group.cart_rotations[i], atol=1e-6)
        np.testing.assert_allclose(shift, group.frac_translations[i], atol=1e-5)
    assert ("Translations" in listed[-1]) == np.any(group.frac_translations != 0)


@pytest.mark.parametrize("hall", _SETTINGS)
def test_no_two_classes_have_the_same_head(hall):
    table = eqs.character_table(_group(hall))
    assert len(set(table.class_labels)) == len(table.classes)
    # Schoenflies: the count, the kind.
    for label, some in zip(table.class_labels, table.classes, strict=True):
        assert int(label.split()[0]) == len(some)


def test_heads_of_the_cube():
    crystal = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")
    group = eqs.SpaceGroup.of(crystal)
    labels = "1 E, 1 i, 8 C3 [111], 8 S6 [111], 6 C4 [100], 6 S4 [100]"
    labels += ", 3 C2 [100], 6 C2 [110], 3 m [100], 6 m [110]"
    assert set(eqs.character_table(group).class_labels) == set(labels.split(", "))
    assert "3+ [111]" in group.names and "Axes [...] along x, y, z." in str(group)
    # Away from the origin, all translations are only about another point.
    moved = eqs.Crystal(
        crystal.lattice.vectors,
        crystal.species,
        cart_positions=crystal.cart_positions + np.array([0.3, -0.2, 0.7]),
        unit="bohr",
    )
    moved = eqs.SpaceGroup.of(moved)
    assert np.any(moved.frac_translations)
    assert set(eqs.character_table(moved).class_labels) == set(labels.split(", "))


def _boron_nitride():
    return eqs.Crystal(
        [[4.73, 0, 0], [-2.365, 2.365 * np.sqrt(3), 0], [0, 0, 12.6]],
        ["B", "B", "N", "N"],
        frac_positions=[
            [1 / 3, 2 / 3, 0.25],
            [2 / 3, 1 / 3, 0.75],
            [1 / 3, 2 / 3, 0.75],
            [2 / 3, 1 / 3, 0.25],
        ],
        unit="bohr",
    )


def test_screws_and_glides_are_told_from_rotations_and_mirrors():
    group = eqs.SpaceGroup.of(_boron_nitride())
    assert repr(group) == "SpaceGroup(P6_3/mmc, 24 operations, B2 N2)"
    table = eqs.character_table(group)
    labels = "1 E, 1 i, 2 C3 [001], 2 S6 [001], 3 C2 [100], 3 m [100]"
    screws = "2 C6 [001], 2 S3 [001], 1 C2 [001], 1 m [001], 3 C2 [210], 3 m [210]"
    expected = [*labels.split(", "), *(f"{x} | 0 0 1/2" for x in screws.split(", "))]
    assert sorted(table.class_labels) == sorted(expected)
    lines = str(table).splitlines()
    # In two blocks, each with a part of the columns.
    assert len(lines) == 2 * (3 + 12 + 1) + 1 and "0 0 1/2" in lines[2]
    assert {line.split()[0] for line in lines[3:15]} == {x.label for x in table}
    row = [float(x) for i in (3, 19) for x in lines[i].split()[1:]]
    assert row == table.values[0].tolist()
    assert lines[-1].endswith("Translations in fractions of lattice vectors.")


def test_lists_and_tables_fit_into_terminals():
    diamond = eqs.SpaceGroup.of(eqs.Crystal.diamond("C", a=3.567, unit="angstrom"))
    graphene = eqs.SpaceGroup.of(eqs.Crystal.graphene(a=4.65, vacuum=20.0, unit="bohr"))
    for group, rows in ((diamond, 24), (graphene, 6)):
        listed = str(group).splitlines()
        assert len(listed) == 1 + rows + 2
        table = eqs.character_table(group)
        for line in (*listed, *str(table).splitlines()):
            assert len(line) <= 80
        # What one types first.
        assert len(group) == group.order and len(table) == len(table.irreps)
        assert tuple(table) == eqs.irreps(group)
        assert "A2u" in table and table["A2u"] in table and "A3u" not in table


def test_classes_of_inverse_operations_have_signs():
    # P6: the rotations of order six are two classes.
    table = eqs.character_table(_group(462))
    labels = "1 E, 1 C6+ [001], 1 C6- [001], 1 C3+ [001], 1 C3- [001], 1 C2 [001]"
    assert set(table.class_labels) == set(labels.split(", "))
    # P-3: an inversion after a rotation is the rotoreflection of the other sense.
    table = eqs.character_table(_group(435))
    signs = {label for label in table.class_labels if "S6" in label}
    assert signs == {"1 S6+ [001]", "1 S6- [001]"}
    (plus,) = table.classes[table.class_labels.index("1 S6+ [001]")]
    rotation = table.group.cart_rotations[plus]
    np.testing.assert_allclose(rotation[:2, :2] @ [1, 0], [0.5, 0.75**0.5], atol=1e-6)


def test_a_table_in_a_notebook():
    table = eqs.character_table(eqs.SpaceGroup.of(_boron_nitride()))
    html = table._repr_html_()
    assert html.count("<tr>") == 13 and html.count("<th>") == 13
    assert "<th>2 C6<br>[001]<br>0 0 1/2</th>" in html and "<th>1 E</th>" in html
    assert "<td>A1g</td><td>1</td>" in html and "P6_3/mmc" in html
    # Primes of labels are text, not markup.
    assert "&#x27;" in eqs.character_table(_group(468))._repr_html_()
