"""Warnings of operations that rounding of nuclei or of the twist hides."""

import re

import numpy as np
import pytest

import eqsym as eqs
from eqsym._crystal import standard
from eqsym._group import search
from rounded import ROUNDED, rounded_beryllium, rounded_graphene, salt_cube


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_coordinates_are_announced(name, caplog):
    build, few, order, symbol, symprec, moved = ROUNDED[name]
    crystal = build()
    group = eqs.SpaceGroup.of(crystal)
    # Nothing is moved, and nothing taken that was not asked for.
    assert group.order == few and group.crystal == crystal
    (message,) = caplog.messages
    assert f"`symprec` 1e-05 Bohr: {few}; with {symprec:g}: {order} ({symbol})" in (
        message
    )
    assert f"`crystal.symmetrized({symprec:g})`" in message
    assert f"`symprec={symprec:g}`" in message
    # Both ways out are silent and give the operations announced.
    whole = eqs.SpaceGroup.of(crystal, symprec=symprec)
    assert whole.order == order
    exact = crystal.symmetrized(symprec)
    caplog.clear()
    assert eqs.SpaceGroup.of(exact).order == order
    assert not caplog.messages


@pytest.mark.parametrize(
    "arguments, few, more",
    [
        # Of 8 and 24 operations, those that leave out the ones said before.
        ({"supercell": (2, 1, 1)}, 4, "8 (cmmm)"),
        ({"supercell": (2, 2, 1), "twist": (0.1, 0.1, 0)}, 4, None),
        ({"twist": (1 / 3, 1 / 3, 0)}, 4, "12 (p-62m)"),
    ],
)
def test_operations_that_the_user_gets_are_counted(arguments, few, more, caplog):
    crystal = rounded_graphene(**arguments)
    assert eqs.SpaceGroup.of(crystal, vacuum=(2,)).order == few
    found = [text for text in caplog.messages if "rounding of the coord" in text]
    assert len(found) == (more is not None)
    if more is not None:
        assert f"{few}; with 0.001: {more}." in found[0]


def test_distortions_are_not_rounding(caplog):
    # A Peierls distortion of 0.05 Bohr, and one of three decimals.
    for change, expected in ((0.05, 0), (0.005, 1)):
        caplog.clear()
        chain = eqs.Crystal(
            np.diag([3.6, 20.0, 20.0]),
            ["H", "H"],
            cart_positions=[[0, 0, 0], [1.8 + change, 0, 0]],
            unit="bohr",
        )
        assert eqs.SpaceGroup.of(chain).order == 16
        assert len(caplog.messages) == expected


def test_a_coarse_search_that_fails_is_not_the_last(caplog, monkeypatch):
    find = standard.find_operations

    def fails(cell, symprec):
        if symprec > 2e-3:
            raise ValueError
        return find(cell, symprec)

    monkeypatch.setattr(standard, "find_operations", fails)
    eqs.SpaceGroup.of(rounded_graphene())
    assert "with 0.001: 24" in caplog.messages[0]


def test_good_crystals_are_searched_twice_and_nothing_is_said(caplog, monkeypatch):
    find, asked = standard.find_operations, []

    def counted(cell, symprec):
        asked.append(symprec)
        return find(cell, symprec)

    monkeypatch.setattr(standard, "find_operations", counted)
    monkeypatch.setattr(search, "find_operations", counted)
    assert eqs.SpaceGroup.of(salt_cube()).order == 192
    assert len(asked) == 2 and not caplog.messages


@pytest.mark.parametrize(
    "build, twist, exact, few, many",
    [
        (rounded_graphene, (0.3333, 0.3333, 0), (1 / 3, 1 / 3, 0), 4, 12),
        (rounded_beryllium, (0.3333, 0.3333, 0), (1 / 3, 1 / 3, 0), 2, 12),
        (lambda **k: salt_cube(noise=1e-3, **k), (0.4999, 0, 0), (0.5, 0, 0), 1, 64),
    ],
    ids=["graphene", "beryllium", "lithium hydride"],
)
def test_a_rounded_twist_does_not_hide_rounded_coordinates(
    build, twist, exact, few, many, caplog
):
    crystal = build(twist=twist)
    assert eqs.SpaceGroup.of(crystal).order == few
    (message,) = [m for m in caplog.messages if "rounding of the coordinates" in m]
    assert f": {many} (" in message and "and the twist (1/" in message
    assert "give the crystal that twist and use" in message
    level = float(*re.findall(r"symmetrized\((.*?)\)", message))
    # Both ways out give the operations announced, without more hints.
    caplog.clear()
    crystal = build(twist=exact)
    assert eqs.SpaceGroup.of(crystal.symmetrized(level)).order == many
    assert eqs.SpaceGroup.of(crystal, symprec=level).order == many
    assert "round" not in caplog.text


def test_coordinates_are_left_alone_if_the_twist_is_enough(caplog):
    # Turned triangles of a kagome net. Those that are not turned have 24 operations,
    # but not more that keep the corner of the Brillouin zone.
    x = 0.5001
    crystal = eqs.Crystal(
        [[4.65, 0, 0], [-2.325, 2.325 * 3**0.5, 0], [0, 0, 30]],
        ["H", "H", "H"],
        frac_positions=[[x, 0, 0], [0, x, 0], [-x, -x, 0]],
        unit="bohr",
        twist=(0.3333, 0.3333, 0),
    )
    assert eqs.SpaceGroup.of(crystal).order == 4
    assert "which keeps 12 operations instead of 4" in caplog.messages[-1]


def _twisted(twist, **kwargs):
    return eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr", twist=twist, **kwargs)


@pytest.mark.parametrize(
    "twist, few, message",
    [
        ((0.3333, 0.3333, 0), 4, "3e-05 (in fractions) from (1/3, 1/3, 0)"),
        ((0.33, 0.33, 0), 4, "0.003 (in fractions) from (1/3, 1/3, 0)"),
        ((-0.333, 1.667, 2.0), 4, "0.0003 (in fractions) from (-1/3, 5/3, 2)"),
        ((0.33333, 0.33334, 0.5001), 2, "0.0001 (in fractions) from (1/3, 1/3, 1/2)"),
    ],
)
def test_rounded_twists_are_announced(twist, few, message, caplog):
    assert eqs.SpaceGroup.of(_twisted(twist)).order == few
    (found,) = [text for text in caplog.messages if "If it is rounded" in text]
    assert f"{message}, which keeps 12 operations instead of {few}." in found


def test_coordinates_of_a_twist_that_no_operation_fixes_stay(caplog):
    # Halfway along an axis of the square, any number along it.
    crystal = eqs.Crystal(
        np.diag([5.0, 5.0, 7.0]),
        ["H"],
        frac_positions=[[0, 0, 0]],
        unit="bohr",
        twist=(0.1234, 0.1235, 0.4999),
    )
    assert eqs.SpaceGroup.of(crystal).order == 1
    assert "from (0.12345000, 0.12345000, 1/2), which keeps 4" in caplog.messages[-1]


@pytest.mark.parametrize(
    "twist",
    [(0.3, 0.3, 0), (0.1, 0, 0), (1 / 3, 1 / 3, 0), (0.25, 0.25, 0.25), (0.01, 0, 0)],
)
def test_chosen_twists_are_not_taken_for_rounded_ones(twist, caplog):
    eqs.SpaceGroup.of(_twisted(twist))
    assert not [text for text in caplog.messages if "If it is rounded" in text]
