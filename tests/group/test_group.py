"""Space groups: against spglib, group axioms, the action, supercells and twists."""

import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eqsym import Crystal, SpaceGroup
from toys import cart_twist


def _rutile(a, c, u):
    frac = [
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [u, u, 0],
        [-u, -u, 0],
        [0.5 + u, 0.5 - u, 0.5],
        [0.5 - u, 0.5 + u, 0.5],
    ]
    return np.diag([a, a, c]), ("Ti",) * 2 + ("O",) * 4, frac


def _wurtzite(a, c, u):
    lattice = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]]
    first, second = np.array([1 / 3, 2 / 3, 0]), np.array([2 / 3, 1 / 3, 0.5])
    up = np.array([0, 0, u])
    return lattice, ("B", "B", "N", "N"), [first, second, first + up, second + up]


def _monoclinic(a, b, c, beta):
    lattice = [[a, 0, 0], [0, b, 0], [c * np.cos(beta), 0, c * np.sin(beta)]]
    return lattice, ("Li",), [[0, 0, 0]]


def _triclinic(species):
    def build(a, b, c):
        lattice = [[a, 0, 0], [0.7, b, 0], [1.1, 1.7, c]]
        frac = [[0, 0, 0], [0.31, 0.17, 0.45], [0.62, 0.71, 0.23]]
        return lattice, species, frac[: len(species)]

    return build


def _preset(build):
    def parts(*args):
        crystal = build(*args)
        frac = crystal.lattice.to_fractional(crystal.cart_positions)
        return crystal.lattice.vectors, crystal.species, frac

    return parts


# Each with the number of operations and the ranges of its free parameters (Bohr),
# which hold no point of higher symmetry.
_CRYSTALS = {
    "rock salt": (
        48,
        _preset(lambda a: Crystal.rock_salt("Li", "H", a=a, unit="bohr")),
        [(6, 9)],
    ),
    "zinc blende": (
        24,
        _preset(lambda a: Crystal.zinc_blende("B", "N", a=a, unit="bohr")),
        [(6, 9)],
    ),
    "diamond": (
        48,
        _preset(lambda a: Crystal.diamond("C", a=a, unit="bohr")),
        [(6, 9)],
    ),
    "bcc": (48, _preset(lambda a: Crystal.bcc("Li", a=a, unit="bohr")), [(5, 8)]),
    "fcc": (48, _preset(lambda a: Crystal.fcc("Al", a=a, unit="bohr")), [(6, 9)]),
    "graphene": (
        24,
        _preset(lambda a, vacuum: Crystal.graphene(a=a, vacuum=vacuum, unit="bohr")),
        [(4, 6), (20, 50)],
    ),
    "chain of two": (
        32,
        _preset(
            lambda spacing, vacuum: Crystal.hydrogen_chain(
                spacing=spacing, vacuum=vacuum, unit="bohr"
            )
        ),
        [(1.5, 3), (20, 50)],
    ),
    "chain of one": (
        16,
        _preset(
            lambda spacing, vacuum: Crystal.hydrogen_chain(
                spacing=spacing, vacuum=vacuum, atoms=1, unit="bohr"
            )
        ),
        [(1.5, 3), (20, 50)],
    ),
    "wurtzite": (12, _wurtzite, [(4.5, 5), (7.5, 8.5), (0.36, 0.39)]),
    "rutile": (16, _rutile, [(8, 9), (5, 6), (0.29, 0.32)]),
    "monoclinic": (
        4,
        _monoclinic,
        [(6, 6.5), (7, 7.5), (9, 9.5), (np.radians(98), np.radians(105))],
    ),
    "triclinic, one atom": (2, _triclinic(("Li",)), [(5, 6), (7, 8), (9, 10)]),
    "triclinic": (1, _triclinic(("Li", "H", "He")), [(5, 6), (7, 8), (9, 10)]),
}
_BASES = [
    np.eye(3),
    np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]),
    np.array([[1, 0, 0], [0, 1, 2], [0, 1, 1]]),
    -np.array([[1, 0, 1], [1, 1, 1], [0, -1, 1]]),
]
_SUPERCELLS = [
    1,
    2,
    (1, 1, 2),
    (2, 1, 3),
    [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
    [[1, 1, 0], [-1, 1, 0], [0, 0, 1]],
    [[2, 1, 0], [-1, 1, 0], [0, 0, 1]],
    [[1, 0, 0], [2, 3, 0], [0, 1, -2]],
]
_FRACTIONS = [0.0, 0.5, 1 / 3, -0.25, 0.137, 1.0]
_NO_TWIST = st.just((0.0, 0.0, 0.0))
_TWISTS = st.tuples(*[st.sampled_from(_FRACTIONS)] * 3)


@st.composite
def _cases(draw, *, supercells=(1,), twists=_NO_TWIST):
    """A crystal in some basis, orientation and origin, as arguments of `_crystal`."""
    name = draw(st.sampled_from(sorted(_CRYSTALS)))
    parameters = [draw(st.floats(*bounds)) for bounds in _CRYSTALS[name][2]]
    return {
        "name": name,
        "parameters": parameters,
        "basis": draw(st.sampled_from(_BASES)),
        "seed": draw(st.integers(0, 2**16)),
        "supercell": draw(st.sampled_from(supercells)),
        "twist": draw(twists),
    }


def _crystal(*, name, parameters, basis, seed, **kwargs):
    lattice, species, frac = _CRYSTALS[name][1](*parameters)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Crystal(
        basis @ np.asarray(lattice) @ turn,
        species,
        frac_positions=np.asarray(frac) @ np.linalg.inv(basis) + rng.uniform(size=3),
        unit="bohr",
        **kwargs,
    )


def _modulo(lattice, cart):
    frac = lattice.to_fractional(np.asarray(cart))
    return lattice.to_cartesian(frac - np.round(frac))


@settings(max_examples=40)
@given(_cases())
def test_operations_of_crystals(case):
    crystal, order = _crystal(**case), _CRYSTALS[case["name"]][0]
    group = SpaceGroup.of(crystal)
    assert group.order == order
    np.testing.assert_array_equal(group.frac_rotations[0], np.eye(3))
    np.testing.assert_array_equal(group.frac_translations[0], 0)
    square = group.cart_rotations @ np.swapaxes(group.cart_rotations, 1, 2)
    np.testing.assert_allclose(
        square, np.broadcast_to(np.eye(3), square.shape), atol=1e-9
    )
    images = crystal.cart_positions @ np.swapaxes(group.cart_rotations, 1, 2)
    images = images + group.cart_translations[:, None]
    gaps = _modulo(crystal.lattice, images[:, :, None] - crystal.cart_positions)
    onto = np.linalg.norm(gaps, axis=-1) < 1e-4
    np.testing.assert_array_equal(onto.sum(axis=1), 1)
    np.testing.assert_array_equal(onto.sum(axis=2), 1)
    species = np.array(crystal.species)
    assert np.all(species[onto.argmax(axis=2)] == species)


@settings(max_examples=30)
@given(_cases(supercells=_SUPERCELLS), st.integers(0, 2**16))
def test_group_axioms(case, seed):
    group = SpaceGroup.of(_crystal(**case))
    table, inverses = group.multiplication_table, group.inverses
    everything = np.arange(group.order)
    # Every row and column is a permutation, the identity is first.
    np.testing.assert_array_equal(np.sort(table, axis=0).T, np.sort(table, axis=1))
    np.testing.assert_array_equal(np.sort(table, axis=1)[0], everything)
    np.testing.assert_array_equal(table[0], everything)
    np.testing.assert_array_equal(table[:, 0], everything)
    np.testing.assert_array_equal(table[everything, inverses], 0)
    np.testing.assert_array_equal(table[inverses, everything], 0)
    a, b, c = np.random.default_rng(seed).integers(group.order, size=(3, 50))
    np.testing.assert_array_equal(table[table[a, b], c], table[a, table[b, c]])


@settings(max_examples=30)
@given(_cases(supercells=_SUPERCELLS), st.integers(0, 2**16))
def test_action_is_a_homomorphism(case, seed):
    crystal = _crystal(**case)
    group = SpaceGroup.of(crystal)
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(3, 3)) * 4)
    g, h = rng.integers(group.order, size=2)
    images = group.apply(x)
    both = group.apply(images[h])[g]
    once = images[group.multiplication_table[g, h]]
    shift = np.asarray(both - once)
    # The same lattice vector for all electrons.
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], (3, 3)), atol=1e-4)
    assert np.linalg.norm(_modulo(crystal.lattice, shift[0])) < 1e-4
    # Distances are kept, nothing is wrapped.
    np.testing.assert_allclose(
        np.linalg.norm(images[:, 0] - images[:, 1], axis=-1),
        np.linalg.norm(x[0] - x[1]),
        rtol=1e-8,
    )


@settings(max_examples=30)
@given(_cases(), st.integers(0, 2**16))
def test_inverse_undoes_operations_exactly(case, seed):
    group = SpaceGroup.of(_crystal(**case))
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(3, 3)) * 20)
    forth, back = group.apply(x), group.apply_inverse(x)
    for g in {0, group.order // 2, group.order - 1}:
        np.testing.assert_allclose(group.apply_inverse(forth[g])[g], x, atol=1e-8)
        np.testing.assert_allclose(group.apply(back[g])[g], x, atol=1e-8)


def test_selected_operations():
    group = SpaceGroup.of(Crystal.diamond("C", a=6.7, unit="bohr"))
    x = jax.random.normal(jax.random.key(0), (3, 3))
    some = jnp.array([5, 0, 47, 5])
    np.testing.assert_array_equal(group.apply(x, some), group.apply(x)[some])
    traced = jax.jit(group.apply_inverse)(x, some)
    np.testing.assert_allclose(traced, group.apply_inverse(x)[some], atol=1e-14)


def test_keeps_dtype_of_electrons():
    group = SpaceGroup.of(Crystal.diamond("C", a=6.7, unit="bohr"))
    x = jnp.ones((2, 3), jnp.float32)
    assert group.apply(x).dtype == group.apply_inverse(x).dtype == jnp.float32
    np.testing.assert_allclose(
        group.apply(x), group.apply(x.astype(jnp.float64)), atol=2e-6
    )


def _brute_force(crystal):
    """Operations of the primitive crystal that keep supercell and twist, by Cartesian
    geometry."""
    primitive = Crystal(
        crystal.lattice.vectors,
        crystal.species,
        cart_positions=crystal.cart_positions,
        unit="bohr",
    )
    full = SpaceGroup.of(primitive)
    cells, k = crystal.supercell.vectors, cart_twist(crystal)
    keep = []
    for g in range(full.order):
        turned = cells @ full.cart_rotations[g].T
        inside = turned @ np.linalg.inv(cells)
        change = cells @ (full.cart_rotations[g] @ k - k) / (2 * np.pi)
        if np.allclose(inside, np.round(inside), atol=1e-5) and np.allclose(
            change, np.round(change), atol=1e-5
        ):
            keep.append(g)
    return full, keep


@settings(max_examples=60)
@given(_cases(supercells=_SUPERCELLS, twists=_TWISTS))
def test_supercell_and_twist_keep_the_little_group(case):
    crystal = _crystal(**case)
    group = SpaceGroup.of(crystal)
    full, keep = _brute_force(crystal)
    np.testing.assert_array_equal(group.frac_rotations, full.frac_rotations[keep])
    # Fewer operations may fix a point, and then have other translations.
    change = group.frac_translations - full.frac_translations[keep]
    np.testing.assert_allclose(change, np.round(change), atol=1e-9)


@pytest.mark.parametrize(
    "supercell, twist, order",
    [
        (1, (0.0, 0.0, 0.0), 48),
        (2, (0.0, 0.0, 0.0), 48),
        # The conventional cube.
        ([[-1, 1, 1], [1, -1, 1], [1, 1, -1]], (0.0, 0.0, 0.0), 48),
        ((1, 1, 2), (0.0, 0.0, 0.0), 12),
        # Two bases of the same lattice.
        ((1, 1, 3), (0.0, 0.0, 0.0), 12),
        ([[1, 0, 0], [0, 1, 0], [1, 2, 3]], (0.0, 0.0, 0.0), 12),
        # L, X, W and a point without symmetry.
        (1, (0.5, 0.5, 0.5), 12),
        (1, (0.5, 0.5, 0.0), 16),
        (1, (0.5, 0.25, 0.75), 8),
        (1, (0.11, 0.23, 0.37), 1),
        (1, (1.0, -2.0, 3.0), 48),
    ],
)
def test_rock_salt_little_groups(supercell, twist, order):
    crystal = Crystal.rock_salt(
        "Li", "H", a=7.7, unit="bohr", supercell=supercell, twist=twist
    )
    assert SpaceGroup.of(crystal).order == order


def test_screw_axes_and_glides():
    lattice, species, frac = _wurtzite(5.0, 8.0, 0.377)
    crystal = Crystal(lattice, species, frac_positions=frac, unit="bohr")
    group = SpaceGroup.of(crystal)
    moved = np.abs(group.frac_translations[:, 2] - 0.5) < 1e-9
    assert moved.sum() == 6
    # The 6_3 axis: order six in rotation, its sixth power three lattice translations.
    order = [
        next(
            n for n in range(1, 7) if np.all(np.linalg.matrix_power(r, n) == np.eye(3))
        )
        for r in group.frac_rotations
    ]
    proper = np.linalg.det(group.cart_rotations) > 0
    assert np.all(moved[(np.array(order) == 6) & proper])
    diamond = SpaceGroup.of(Crystal.diamond("C", a=6.7, unit="bohr"))
    assert np.sum(np.any(diamond.frac_translations != 0, axis=1)) == 24


def test_dropped_operations_are_logged(caplog):
    crystal = Crystal.rock_salt(
        "Li", "H", a=7.7, unit="bohr", supercell=(1, 1, 2), twist=(0.0, 0.0, 0.3)
    )
    with caplog.at_level(logging.WARNING, logger="eqsym"):
        group = SpaceGroup.of(crystal)
    supercell, twist = (record.getMessage() for record in caplog.records)
    assert "36 of 48" in supercell and "supercell" in supercell
    assert f"{12 - group.order} of 48" in twist and "twist" in twist
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="eqsym"):
        SpaceGroup.of(Crystal.rock_salt("Li", "H", a=7.7, unit="bohr"))
    assert not caplog.records


def test_rounded_input_keeps_its_symmetry():
    a = 4.64863
    lattice = [[a, 0, 0], [-a / 2, a * 0.866025, 0], [0, 0, 50]]
    frac = [[0.433333, 0.796667, 0.1], [0.766667, 0.463333, 0.1]]
    crystal = Crystal(lattice, ("C", "C"), frac_positions=frac, unit="bohr")
    assert SpaceGroup.of(crystal).order == 24
    rough = Crystal(lattice, ("C", "C"), frac_positions=np.round(frac, 3), unit="bohr")
    assert SpaceGroup.of(rough).order < 24
    assert SpaceGroup.of(rough, symprec=1e-2).order == 24


def test_groups_compare_by_value():
    a, b = (SpaceGroup.of(Crystal.bcc("Li", a=6.6, unit="bohr")) for _ in range(2))
    assert a == b and hash(a) == hash(b)
    assert a != SpaceGroup.of(Crystal.bcc("Li", a=6.7, unit="bohr"))
    assert not jax.tree.leaves(a)


_ROCK_SALT = Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")
_FULL = SpaceGroup.of(_ROCK_SALT)
_ZEROS = np.zeros((48, 3))


def _third_order():
    return next(
        r
        for r in _FULL.frac_rotations
        if np.trace(r) == 0 and np.all(r @ r @ r == np.eye(3)) and np.linalg.det(r) > 0
    )


@pytest.mark.parametrize(
    "crystal, rotations, translations, message",
    [
        (_ROCK_SALT, np.eye(3, dtype=int), np.zeros(3), "`frac_rotations` must be 3x3"),
        (_ROCK_SALT, np.zeros((0, 3, 3)), np.zeros((0, 3)), "at least one"),
        (
            _ROCK_SALT,
            _FULL.frac_rotations,
            np.zeros((2, 3)),
            "`frac_translations` must",
        ),
        (_ROCK_SALT, _FULL.frac_rotations, _ZEROS + np.nan, "`frac_translations` must"),
        (_ROCK_SALT, _FULL.cart_rotations + 0.3, _ZEROS, "must be integers"),
        (
            _ROCK_SALT,
            [np.eye(3), [[1, 1, 0], [0, 1, 0], [0, 0, 1]]],
            np.zeros((2, 3)),
            "must be an isometry, but 1 of 2 do not, first operation 1",
        ),
        (
            Crystal.zinc_blende("B", "N", a=6.8, unit="bohr"),
            [np.eye(3), -np.eye(3)],
            np.zeros((2, 3)),
            "map each nucleus to one of the same species, but 1 of 2",
        ),
        (
            Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", supercell=(1, 1, 2)),
            _FULL.frac_rotations,
            _ZEROS,
            "map the supercell lattice to itself, but 36 of 48",
        ),
        (
            Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", twist=(0.5, 0.5, 0.0)),
            _FULL.frac_rotations,
            _ZEROS,
            "keep the twist, up to a reciprocal vector of the supercell, but 32 of 48",
        ),
        (
            _ROCK_SALT,
            [np.eye(3), -np.eye(3), -np.eye(3)],
            [[0, 0, 0], [0, 0, 0], [1, -2, 0]],
            "free of duplicates modulo primitive lattice translations, but operation 1",
        ),
        (_ROCK_SALT, _FULL.frac_rotations[1:], _ZEROS[1:], "must contain the identity"),
        (
            _ROCK_SALT,
            [np.eye(3), _third_order()],
            np.zeros((2, 3)),
            "closed under multiplication .* of operation 1 .* and operation 1",
        ),
    ],
)
def test_refuses_what_is_no_group(crystal, rotations, translations, message):
    with pytest.raises(ValueError, match=message):
        SpaceGroup(crystal, rotations, translations)


def test_accepts_subgroups_in_any_order():
    group = SpaceGroup(_ROCK_SALT, [-np.eye(3), np.eye(3)], [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(group.multiplication_table, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(group.inverses, [0, 1])
    for order in itertools.permutations(range(3)):
        third = _third_order()
        powers = np.stack([np.eye(3, dtype=int), third, third @ third])[list(order)]
        assert SpaceGroup(_ROCK_SALT, powers, np.zeros((3, 3))).order == 3


def test_refuses_hopeless_precision():
    with pytest.raises(ValueError, match="`symprec` 100"):
        SpaceGroup.of(_ROCK_SALT, symprec=100.0)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("lattice", {"a": 7.8}),
        ("species", {"cation": "Na"}),
        ("supercell", {"supercell": 2}),
        ("twist", {"twist": (0.0, 0.0, 0.5)}),
    ],
)
def test_names_what_differs_between_crystals(name, changes):
    arguments = {"cation": "Li", "anion": "H", "a": 7.7, "unit": "bohr"} | changes
    cation, anion = arguments.pop("cation"), arguments.pop("anion")
    with pytest.raises(ValueError, match=f"between them .*`{name}`"):
        _FULL.check_crystal(Crystal.rock_salt(cation, anion, **arguments))


def test_same_crystal_with_other_electrons_or_origin():
    _FULL.check_crystal(Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", spin=2))
    moved = Crystal(
        _ROCK_SALT.lattice.vectors,
        _ROCK_SALT.species,
        cart_positions=_ROCK_SALT.cart_positions + 0.1,
        unit="bohr",
    )
    with pytest.raises(ValueError, match="`cart_positions` of nucleus"):
        _FULL.check_crystal(moved)
