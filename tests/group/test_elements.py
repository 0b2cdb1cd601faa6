"""Symmetry elements: all of them, no others, as in the International Tables."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

import eqsym as eqs
from eqsym._group.elements import integer_complement
from group_toys import crystal_for, database


# spglib announces another way to report errors.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR:DeprecationWarning")

# Hall numbers of groups on primitive lattices.
_HALL = {
    "P-1": 2,
    "P2/m": 57,
    "P2_1/c": 81,
    "Pmna": 251,
    "Pnma": 292,
    "Pbca": 290,
    "P4_1": 350,
    "P-4": 355,
    "P4_2/m": 358,
    "P4_32_12": 373,
    "P-42_1m": 390,
    "P4_2/mnm": 419,
    "P3_2": 432,
    "P3_221": 443,
    "P-3m1": 456,
    "P6_1": 463,
    "P-6": 468,
    "P6_3mc": 480,
    "P6/mmm": 485,
    "P2_13": 492,
    "P4_332": 508,
    "P-43n": 514,
}
_BASES = [
    np.eye(3),
    np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    np.array([[1, 0, 0], [0, 1, 2], [0, 1, 1]]),
    -np.array([[1, 0, 1], [1, 1, 1], [0, -1, 1]]),
]


def _group(hall_number, basis=None):
    """The group on a lattice with other vectors, `basis` times the usual ones."""
    rotations, translations = database(hall_number)
    usual = crystal_for(rotations, translations)
    if basis is None:
        return eqs.SpaceGroup(usual, rotations, translations)
    crystal = eqs.Crystal(
        basis @ usual.lattice.vectors,
        usual.species,
        cart_positions=usual.cart_positions,
        unit="bohr",
        charge=usual.charge,
    )
    # x = B^T y between the fractions.
    inverse = np.linalg.inv(basis.T)
    return eqs.SpaceGroup(
        crystal, np.round(inverse @ rotations @ basis.T), translations @ inverse.T
    )


def _rock_salt():
    return eqs.SpaceGroup.of(eqs.Crystal.rock_salt("Li", "H", a=7.6, unit="bohr"))


def _diamond():
    return eqs.SpaceGroup.of(eqs.Crystal.diamond("C", a=6.7, unit="bohr"))


@functools.cache
def _made(name, basis):
    """A group and its elements."""
    other = {"rock salt": _rock_salt, "diamond": _diamond}
    group = other[name]() if name in other else _group(_HALL[name], _BASES[basis])
    return group, eqs.symmetry_elements(group)


_GROUPS = st.tuples(
    st.sampled_from([*_HALL, "rock salt", "diamond"]),
    st.sampled_from(range(len(_BASES))),
)


def _is_integer(values):
    return bool(np.all(np.abs(values - np.round(values)) < 1e-4))


def _contains(group, cart_rotation, cart_shift):
    """Whether x' = R x + t in Bohr is an operation of the group."""
    columns = group.crystal.lattice.vectors.T
    rotation = np.linalg.inv(columns) @ cart_rotation @ columns
    shift = np.linalg.inv(columns) @ cart_shift
    return any(
        np.allclose(rotation, r, atol=1e-6) and _is_integer(shift - t)
        for r, t in zip(group.frac_rotations, group.frac_translations, strict=True)
    )


def _about(point, rotation, shift):
    """`(R, t)` of R about a point and a shift after that."""
    return rotation, point - rotation @ point + shift


@settings(max_examples=25)
@given(_GROUPS)
def test_elements_are_of_the_group(case):
    group, elements = _made(*case)
    to_cart = group.crystal.lattice.to_cartesian
    for axis in elements.axes:
        along = to_cart(axis.direction.astype(float))
        turn = along / np.linalg.norm(along) * 2 * np.pi / axis.order
        operation = _about(
            to_cart(axis.point),
            Rotation.from_rotvec(turn).as_matrix(),
            axis.screw / axis.order * along,
        )
        assert _contains(group, *operation), axis
    for plane in elements.planes:
        normal = plane.normal @ np.linalg.inv(group.crystal.lattice.vectors).T
        normal = normal / np.linalg.norm(normal)
        point = plane.normal * plane.offset / (plane.normal @ plane.normal)
        mirror = np.eye(3) - 2 * np.outer(normal, normal)
        glide = to_cart(plane.glide)
        assert abs(glide @ normal) < 1e-6
        assert _contains(group, *_about(to_cart(point), mirror, glide)), plane
    for center in elements.centers:
        assert _contains(group, *_about(to_cart(center), -np.eye(3), np.zeros(3)))


@settings(max_examples=60)
@given(_GROUPS, st.data())
def test_every_operation_has_its_element(case, data):
    group, elements = _made(*case)
    i = data.draw(st.integers(1, group.order - 1))
    shift = data.draw(st.tuples(*[st.integers(-3, 3)] * 3))
    rotation, translation = group.frac_rotations[i], group.frac_translations[i] + shift
    # The order n of R, and g^n = (1, n w).
    powers = [np.eye(3)]
    while not np.array_equal(powers[-1] @ rotation, np.eye(3)):
        powers.append(powers[-1] @ rotation)
    intrinsic = np.mean([power @ translation for power in powers], axis=0)
    # The mean over the orbit of any point is a fixed point of g without w.
    orbit = [np.zeros(3)]
    for _ in powers[1:]:
        orbit.append(rotation @ orbit[-1] + translation - intrinsic)
    point = np.mean(orbit, axis=0)
    if np.array_equal(rotation, -np.eye(3)):
        assert any(_is_integer(point - center) for center in elements.centers)
    elif len(powers) == 2 and np.linalg.det(rotation) < 0:
        (found,) = [
            plane
            for plane in elements.planes
            if np.array_equal(plane.normal @ rotation, -plane.normal)
            and _is_integer(plane.normal @ point - plane.offset)
        ]
        assert _is_integer(found.glide - intrinsic)
        assert found.is_mirror == _is_integer(intrinsic)
    else:
        proper = np.linalg.det(rotation) > 0
        turn = rotation if proper else -rotation
        (found,) = [
            axis
            for axis in elements.axes
            if np.array_equal(turn @ axis.direction, axis.direction)
            and _is_integer(integer_complement(axis.direction) @ (point - axis.point))
        ]
        columns = group.crystal.lattice.vectors.T
        cart = columns @ turn @ np.linalg.inv(columns)
        order = round(2 * np.pi / Rotation.from_matrix(cart).magnitude())
        if not proper:
            assert found.rotoinversion % order == 0
            return
        assert found.order % order == 0
        along = columns @ found.direction
        sense = (
            1 if order == 2 else np.sign(Rotation.from_matrix(cart).as_rotvec() @ along)
        )
        part = sense * intrinsic @ found.direction / (found.direction @ found.direction)
        # The rotation by 2 pi / N, N / order times.
        assert _is_integer(part - found.screw / order)


@settings(max_examples=20)
@given(_GROUPS)
def test_elements_differ_modulo_the_lattice(case):
    group, elements = _made(*case)
    for one, other in itertools.combinations(elements.axes, 2):
        if np.array_equal(one.direction, other.direction):
            across = integer_complement(one.direction)
            assert not _is_integer(across @ (one.point - other.point))
    for one, other in itertools.combinations(elements.planes, 2):
        if np.array_equal(one.normal, other.normal):
            assert not _is_integer(one.offset - other.offset)
    # Half of all lattice vectors from the first one.
    inverts = any(np.array_equal(r, -np.eye(3)) for r in group.frac_rotations)
    assert len(elements.centers) == (8 if inverts else 0)
    for one, other in itertools.combinations(elements.centers, 2):
        assert not _is_integer(one - other) and _is_integer(2 * (one - other))


@given(st.tuples(*[st.integers(-6, 6)] * 3).filter(lambda v: np.gcd.reduce(v) == 1))
def test_complement_is_a_basis_of_what_is_orthogonal(vector):
    first, second = integer_complement(np.array(vector))
    assert list(np.abs(np.cross(first, second))) == list(np.abs(vector))
    assert first @ vector == second @ vector == 0


def _vertical(group):
    axes = eqs.symmetry_elements(group).axes
    return Counter(axis.symbol for axis in axes if not np.any(axis.direction[:2]))


# International Tables A, the drawings of these groups.
@pytest.mark.parametrize(
    "hall_number, symbols",
    [
        (-113, {"6": 1, "3": 2, "2": 3}),  # p6mm
        (-101, {"3": 3}),  # p3m1
        (-90, {"4": 2, "2": 2}),  # p4mm, as p4
        (350, {"4_1": 2, "2_1": 2}),
        (351, {"4_2": 2, "2": 2}),
        (352, {"4_3": 2, "2_1": 2}),
        (355, {"-4": 2, "2": 2}),
        (431, {"3_1": 3}),
        (432, {"3_2": 3}),
        (463, {"6_1": 1, "3_1": 2, "2_1": 3}),
        (464, {"6_5": 1, "3_2": 2, "2_1": 3}),
        (465, {"6_2": 1, "3_2": 2, "2": 3}),
        (466, {"6_4": 1, "3_1": 2, "2": 3}),
        (467, {"6_3": 1, "3": 2, "2_1": 3}),
        (468, {"-6": 3}),
    ],
)
def test_axes_of_the_international_tables(hall_number, symbols):
    assert _vertical(_group(hall_number)) == symbols


def test_handedness_does_not_depend_on_that_of_the_cell():
    swapped = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    group = _group(432, swapped)
    assert np.linalg.det(group.crystal.lattice.vectors) < 0
    assert _vertical(group) == {"3_2": 3}


def test_rock_salt():
    elements = eqs.symmetry_elements(_rock_salt())
    axes = Counter(axis.symbol for axis in elements.axes)
    # Three, four and six directions.
    assert axes["4"] == axes["4_2"] == 3
    assert axes["-3"] == axes["3_1"] == axes["3_2"] == 4
    # Per direction: through a nucleus of each kind is the same line for <110>.
    assert axes["2"] == 12
    assert sum(plane.is_mirror for plane in elements.planes) == 9


def test_mirrors_and_glides_of_graphene():
    group = eqs.SpaceGroup.of(eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr"))
    upright = [p for p in eqs.symmetry_elements(group).planes if not p.normal[2]]
    # Six directions, with a glide plane halfway between the mirrors.
    assert len(upright) == 12 and sum(p.is_mirror for p in upright) == 6
    flat = [p for p in eqs.symmetry_elements(group).planes if p.normal[2]]
    assert all(p.is_mirror for p in flat) and {p.offset for p in flat} == {0.0, 0.5}


def test_translations_are_no_elements_and_change_no_symbol():
    # Two cells of a chain in one: pure translations, and shifts by half the cell that
    # make no screw axes.
    chain = eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=15.0, unit="bohr")
    elements = eqs.symmetry_elements(eqs.SpaceGroup.of(chain))
    along = [a for a in elements.axes if abs(a.direction[0])]
    assert {a.symbol for a in along} == {"4", "2"}
    assert all(p.is_mirror for p in elements.planes if not np.all(p.normal[1:]))
