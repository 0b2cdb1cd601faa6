"""Groups by number: every setting of space groups and layer groups, and plane groups,
on crystals made for them."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import spglib
from hypothesis import given, settings, strategies as st

import eqsym as eqs
import group_toys


pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR:DeprecationWarning")

_SETTINGS = [*range(1, 531), *range(-116, 0)]
# Order in the conventional cell and generators, International Tables A, chapter 2.2.
_PLANE = {
    "p1": (1, []),
    "p2": (2, ["-x,-y"]),
    "pm": (2, ["-x,y"]),
    "pg": (2, ["-x,y+1/2"]),
    "cm": (4, ["x+1/2,y+1/2", "-x,y"]),
    "p2mm": (4, ["-x,-y", "-x,y"]),
    "p2mg": (4, ["-x,-y", "-x+1/2,y"]),
    "p2gg": (4, ["-x,-y", "-x+1/2,y+1/2"]),
    "c2mm": (8, ["x+1/2,y+1/2", "-x,-y", "-x,y"]),
    "p4": (4, ["-x,-y", "-y,x"]),
    "p4mm": (8, ["-x,-y", "-y,x", "-x,y"]),
    "p4gm": (8, ["-x,-y", "-y,x", "-x+1/2,y+1/2"]),
    "p3": (3, ["-y,x-y"]),
    "p3m1": (6, ["-y,x-y", "-y,-x"]),
    "p31m": (6, ["-y,x-y", "y,x"]),
    "p6": (6, ["-y,x-y", "-x,-y"]),
    "p6mm": (12, ["-y,x-y", "-x,-y", "-y,-x"]),
}
# Primitive vectors in terms of the conventional ones, International Tables A, 1.5.1.
_PRIMITIVE = {
    "A": [[1, 0, 0], [0, 1 / 2, -1 / 2], [0, 1 / 2, 1 / 2]],
    "B": [[1 / 2, 0, 1 / 2], [0, 1, 0], [-1 / 2, 0, 1 / 2]],
    "C": [[1 / 2, -1 / 2, 0], [1 / 2, 1 / 2, 0], [0, 0, 1]],
    "F": [[0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]],
    "I": [[-1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [1 / 2, 1 / 2, -1 / 2]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}
_LATTICE_POINTS = {"P": 1, "A": 2, "B": 2, "C": 2, "I": 2, "R": 3, "F": 4}
_CUBE = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]


def _modulo(frac):
    frac = np.asarray(frac)
    return frac - np.round(frac)


def _point_crystal(rotations, translations, seed, *, primitive=None, shift=0.0):
    """Nuclei on the orbit of the origin, which is small, in the conventional or a
    primitive cell."""
    rng = np.random.default_rng(seed)
    vectors = group_toys.lattice_for(rotations, rng, 40.0)
    basis = np.eye(3) if primitive is None else np.asarray(primitive)
    frac = translations @ np.linalg.inv(basis)
    frac = np.unique(np.round(frac - np.floor(frac + 1e-6), 6), axis=0)
    return eqs.Crystal(
        basis @ vectors,
        ["H"] * len(frac),
        frac_positions=np.round(frac * 24) / 24 + shift,
        unit="bohr",
        charge=len(frac) - 1,
    )


def _generic_places(rotations, translations, seed, *, flat=False):
    """Lattice vectors and the orbits of two generic points, one after the other: if
    these are different species, nothing is symmetric but the group. `flat` keeps them
    near z = 0."""
    rng = np.random.default_rng(seed)
    vectors = group_toys.lattice_for(rotations, rng, 40.0)

    def orbits():
        points = rng.uniform(size=(2, 3)) * [1, 1, 0.1 if flat else 1]
        images = np.concatenate([rotations @ p + translations for p in points])
        gaps = _modulo(images[:, None] - images) @ vectors
        return np.min(np.linalg.norm(gaps, axis=-1) + 1e3 * np.eye(len(gaps))), images

    return vectors, max((orbits() for _ in range(20)), key=lambda found: found[0])[1]


def _check_group(group, seed):
    """Axioms, and products, inverses and images against the tables."""
    table, left, inverses = (
        group.multiplication_table,
        group.product_translations,
        group.inverses,
    )
    everything = np.arange(group.order)
    np.testing.assert_array_equal(np.sort(table, axis=1) - everything, 0)
    np.testing.assert_array_equal(np.sort(table, axis=0).T - everything, 0)
    np.testing.assert_array_equal(table[0], everything)
    np.testing.assert_array_equal(table[everything, inverses], 0)
    np.testing.assert_array_equal(table[inverses, everything], 0)
    rng = np.random.default_rng(seed)
    a, b, c = rng.integers(group.order, size=(3, 30))
    np.testing.assert_array_equal(table[table[a, b], c], table[a, table[b, c]])
    point = rng.normal(size=3)
    images = group.frac_rotations @ point + group.frac_translations
    twice = np.einsum("gij,gj->gi", group.frac_rotations[a], images[b])
    twice += group.frac_translations[a]
    np.testing.assert_allclose(twice, images[table[a, b]] + left[a, b], atol=1e-4)
    # The orbit of any point of the orbit is the orbit.
    again = group.frac_rotations @ images[-1] + group.frac_translations
    gaps = np.abs(_modulo(again[:, None] - images))
    assert np.all(np.sum(np.all(gaps < 1e-4, axis=-1), axis=1) == 1)


@functools.cache
def _standard_symbols():
    kinds = [spglib.get_spacegroup_type(hall) for hall in range(530, 0, -1)]
    return {kind.number: kind.international_short for kind in kinds}


def _standard_symbol(hall):
    return _standard_symbols()[spglib.get_spacegroup_type(hall).number]


@pytest.mark.parametrize("start", range(0, len(_SETTINGS), 100))
def test_all_settings(start):
    for hall in _SETTINGS[start : start + 100]:
        rotations, translations = group_toys.database(hall)
        shift = np.random.default_rng(abs(hall)).uniform(size=3)
        crystal = _point_crystal(rotations, translations, abs(hall), shift=shift)
        group = eqs.SpaceGroup.from_hall_number(crystal, hall, frac_origin=shift)
        assert group.order == len(rotations)
        np.testing.assert_array_equal(group.frac_rotations, rotations)
        expected = translations + shift - rotations @ shift
        moved = _modulo(group.frac_translations - expected)
        np.testing.assert_allclose(moved, 0, atol=1e-9)
        _check_group(group, abs(hall))
        assert group.vacuum == (() if hall > 0 else (2,))
        if hall > 0:
            assert group.symbol == _standard_symbol(hall)


@pytest.mark.parametrize("first", "ACFIR")
def test_primitive_lattices(first):
    tried = 0
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        if kind.international_short[0] != first or kind.choice == "R":
            continue
        rotations, translations = group_toys.database(hall)
        # The tables have the three face centerings in any setting of one symbol.
        centering = _centering(rotations, translations)
        primitive = np.array(_PRIMITIVE[centering])
        crystal = _point_crystal(rotations, translations, hall, primitive=primitive)
        axes = np.round(np.linalg.inv(primitive)).astype(int)
        group = eqs.SpaceGroup.from_hall_number(crystal, hall, axes=axes)
        assert group.order * _LATTICE_POINTS[first] == len(rotations)
        assert group.translations().order == 1
        assert group.symbol == _standard_symbol(hall)
        # As operations on space, they are the operations of the tables.
        conventional = axes @ crystal.lattice.vectors
        inside = conventional.T @ rotations @ np.linalg.inv(conventional.T)
        for turn, move in zip(inside, translations @ conventional, strict=True):
            same = np.all(np.abs(group.cart_rotations - turn) < 1e-6, axis=(1, 2))
            gaps = crystal.lattice.to_fractional(group.cart_translations - move)
            assert np.sum(same & np.all(np.abs(_modulo(gaps)) < 1e-6, axis=1)) == 1
        tried += 1
    assert tried >= {"A": 10, "C": 10, "F": 5, "I": 20, "R": 7}[first]


def _centering(rotations, translations):
    pure = translations[np.all(rotations == np.eye(3), axis=(1, 2))]
    if len(pure) == 4:
        return "F"
    if len(pure) == 3:
        return "R"
    half = tuple(np.round(2 * pure[np.any(pure != 0, axis=1)][0]).astype(int))
    return {(0, 1, 1): "A", (1, 0, 1): "B", (1, 1, 0): "C", (1, 1, 1): "I"}[half]


_SMALL = [h for h in range(1, 531) if len(group_toys.database(h)[0]) <= 16]


@settings(max_examples=40)
@given(st.sampled_from(_SMALL), st.integers(0, 2**16))
def test_generic_crystals_have_the_group_and_no_other(hall, seed):
    rotations, translations = group_toys.database(hall)
    vectors, images = _generic_places(rotations, translations, seed)
    species = ["H"] * len(rotations) + ["He"] * len(rotations)
    crystal = eqs.Crystal(vectors, species, frac_positions=images, unit="bohr")
    found = eqs.SpaceGroup.of(crystal)
    group = eqs.SpaceGroup.from_hall_number(crystal, hall)
    assert found.order == group.order
    assert found.symbol == group.symbol
    same = np.all(found.frac_rotations[:, None] == group.frac_rotations, axis=(2, 3))
    moved = _modulo(found.frac_translations[:, None] - group.frac_translations)
    same &= np.all(np.abs(moved) < 1e-6, axis=-1)
    np.testing.assert_array_equal(same.sum(axis=0), 1)


@functools.cache
def _layer_settings():
    """The first setting of each layer group, its order and symbol, as spglib finds them
    for a crystal with the operations of a setting and no others."""
    first = {}
    for hall in range(1, 117):
        rotations, translations = group_toys.database(-hall)
        vectors, images = _generic_places(rotations, translations, hall, flat=True)
        kinds = np.repeat([1, 2], len(rotations))
        found = spglib.get_symmetry_layerdataset((vectors, images, kinds), 2, 1e-4)
        assert len(found.rotations) == len(rotations)
        first.setdefault(found.number, (-hall, len(rotations), found.international))
    return first


@pytest.mark.parametrize("start", range(1, 81, 20))
def test_layer_groups(start):
    for number in range(start, start + 20):
        hall, order, symbol = _layer_settings()[number]
        crystal = _point_crystal(*group_toys.database(hall), number)
        group = eqs.SpaceGroup.layer_group(crystal, number)
        assert group == eqs.SpaceGroup.from_hall_number(crystal, hall)
        assert group.order == order
        if np.any(group.frac_rotations[:, 2, 2] < 0):
            assert group.symbol == symbol
        else:
            assert group.symbol in _PLANE


@pytest.mark.parametrize("name", _PLANE)
@pytest.mark.parametrize("axes", [None, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]])
def test_plane_groups_leave_z_alone(name, axes):
    number = list(_PLANE).index(name) + 1
    # One nucleus on a lattice with right angles, or with a hexagonal plane.
    angle = 2 * np.pi / 3 if number >= 13 else np.pi / 2
    lattice = [[9.0, 0, 0], [9 * np.cos(angle), 9 * np.sin(angle), 0], [0, 0, 7]]
    crystal = eqs.Crystal(
        lattice, ["H"] * 4, frac_positions=_GRID, unit="bohr", supercell=(2, 2, 1)
    )
    group = eqs.SpaceGroup.plane_group(crystal, name, axes=axes)
    assert group == eqs.SpaceGroup.plane_group(crystal, number, axes=axes)
    order, generators = _PLANE[name]
    assert (group.order, group.symbol) == (order, name)
    plane = [0, 1] if axes is None else [1, 0]
    point = np.array([0.12, 0.31, 0.0])
    images = (group.frac_rotations @ point + group.frac_translations)[:, plane]
    for generator in generators:
        x, y = point[plane]
        image = np.array(
            [eval(part, {"x": x, "y": y}) for part in generator.split(",")]
        )
        assert np.sum(np.all(np.abs(_modulo(images - image)) < 1e-9, axis=1)) == 1
    _check_group(group, number)
    electrons = jnp.asarray(np.random.default_rng(number).normal(size=(3, 3)) * 9)
    images = group.apply(electrons)
    np.testing.assert_allclose(
        images[..., 2], jnp.broadcast_to(electrons[:, 2], images.shape[:2]), atol=1e-12
    )
    # Two-dimensional operations: no two are the same on x and y.
    flat = np.asarray(images[:, :, :2]).reshape(group.order, -1)
    assert len(np.unique(np.round(flat, 6), axis=0)) == group.order


# All places with halves, as the glides need them.
_GRID = [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0]]


def test_settings_of_plane_groups():
    crystal = eqs.Crystal(
        np.diag([9.0, 10, 20]), ["H"], frac_positions=[[0, 0, 0]], unit="bohr"
    )
    mirror = eqs.SpaceGroup.plane_group(crystal, "pm")
    np.testing.assert_array_equal(mirror.frac_rotations[1], np.diag([-1, 1, 1]))
    other = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    mirror = eqs.SpaceGroup.plane_group(crystal, "pm", axes=other)
    np.testing.assert_array_equal(mirror.frac_rotations[1], np.diag([1, -1, 1]))
    # The plane may be any.
    turned = eqs.SpaceGroup.plane_group(
        crystal, "p2", axes=[[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    )
    np.testing.assert_array_equal(turned.frac_rotations[1], np.diag([1, -1, -1]))
    assert turned.vacuum == (0,) and turned.symbol == "p2"


def _as_set(group):
    return {
        (tuple(rotation.ravel()), tuple(np.round(translation, 6) % 1))
        for rotation, translation in zip(
            group.frac_rotations, group.frac_translations, strict=True
        )
    }


def test_presets_by_number():
    salt = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")
    expected = _as_set(eqs.SpaceGroup.of(salt))
    by_number = eqs.SpaceGroup.from_number(salt, 225, axes=_CUBE)
    assert _as_set(by_number) == expected and len(expected) == 48
    diamond = eqs.Crystal.diamond("C", a=6.7, unit="bohr")
    expected = _as_set(eqs.SpaceGroup.of(diamond))
    # Origin choice 1 is at a nucleus, choice 2 in the middle of a bond.
    first = eqs.SpaceGroup.from_number(diamond, 227, axes=_CUBE)
    second = eqs.SpaceGroup.from_hall_number(
        diamond, 526, axes=_CUBE, frac_origin=[1 / 8] * 3
    )
    assert _as_set(first) == _as_set(second) == expected
    graphene = eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr")
    expected = _as_set(eqs.SpaceGroup.of(graphene))
    assert _as_set(eqs.SpaceGroup.layer_group(graphene, 80)) == expected
    assert _as_set(eqs.SpaceGroup.plane_group(graphene, 17)) < expected


def test_symbol_of_what_is_left():
    crystal = eqs.Crystal.rock_salt(
        "Li", "H", a=7.7, unit="bohr", supercell=(1, 1, 2), twist=(0, 0, 0.3)
    )
    # One axis of order three is left, and mirrors along it.
    group = eqs.SpaceGroup.of(crystal)
    assert (group.order, group.symbol) == (6, "R3m")
    # The supercell group is the same group of operations on space.
    assert group.with_translations().symbol == "R3m"


def test_symbol_of_unknown_groups(monkeypatch):
    crystal = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")
    monkeypatch.setattr(
        spglib, "get_spacegroup_type_from_symmetry", lambda *_, **__: None
    )
    assert eqs.SpaceGroup.of(crystal).symbol == "48 operations"


_SALT = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: eqs.SpaceGroup.from_hall_number(_SALT, 0), "`hall_number` must be 1"),
        (lambda: eqs.SpaceGroup.from_hall_number(_SALT, 531), "got 531"),
        (lambda: eqs.SpaceGroup.from_hall_number(_SALT, -117), "got -117"),
        (lambda: eqs.SpaceGroup.from_number(_SALT, 231), "1 to 230, got 231"),
        (lambda: eqs.SpaceGroup.from_number(_SALT, -1), "1 to 230, got -1"),
        (lambda: eqs.SpaceGroup.layer_group(_SALT, 81), "1 to 80, got 81"),
        (lambda: eqs.SpaceGroup.plane_group(_SALT, 18), "p6, p6mm, got 18"),
        (lambda: eqs.SpaceGroup.plane_group(_SALT, "p5"), "p6, p6mm, got 'p5'"),
        # The tables are in terms of the cube.
        (lambda: eqs.SpaceGroup.from_number(_SALT, 225), "must be an isometry"),
        (
            lambda: eqs.SpaceGroup.from_number(_SALT, 225, axes=np.eye(3) / 2),
            "`axes` must be three independent rows of three integers",
        ),
        (
            lambda: eqs.SpaceGroup.from_number(_SALT, 225, axes=np.ones((3, 3))),
            "`axes` must be three independent rows of three integers",
        ),
        (
            lambda: eqs.SpaceGroup.from_number(_SALT, 225, axes=np.diag([1, 1, 2])),
            "`axes` must be conventional vectors that make rotations integer",
        ),
        (
            lambda: eqs.SpaceGroup.from_number(_SALT, 1, frac_origin=(0, 0)),
            "`frac_origin` must be three finite numbers",
        ),
        (
            lambda: eqs.SpaceGroup.from_number(_SALT, 2, frac_origin=(0.1, 0, 0)),
            "map each nucleus to one of the same species, but 1 of 2",
        ),
        (
            lambda: eqs.SpaceGroup.layer_group(_SALT, 2, axes=_CUBE),
            "`axes` of a layer group must",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
