"""Groups modulo the supercell, products with their translations, subgroups, classes."""

import warnings

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import spglib
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from toys import small_network


_SUPERCELLS = [
    1,
    2,
    (1, 1, 2),
    (1, 2, 3),
    [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
    [[2, 1, 0], [-1, 1, 0], [0, 0, 1]],
    [[1, 0, 0], [2, 3, 0], [0, 1, -2]],
]


def _crystal(name, supercell=1, **kwargs):
    kwargs = kwargs | {"supercell": supercell, "unit": "bohr"}
    if name == "rock salt":
        return eqs.Crystal.rock_salt("Li", "H", a=7.7, **kwargs)
    if name == "diamond":
        return eqs.Crystal.diamond("C", a=6.7, **kwargs)
    if name == "graphene":
        return eqs.Crystal.graphene(a=4.65, vacuum=20.0, **kwargs)
    return eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=11.0, **kwargs)


_NAMES = ("rock salt", "diamond", "graphene", "chain")
_CASES = st.tuples(st.sampled_from(_NAMES), st.sampled_from(_SUPERCELLS))


def _whole(case):
    return eqs.SpaceGroup.of(_crystal(*case), vacuum=()).with_translations()


def test_rock_salt_in_a_supercell():
    group = eqs.SpaceGroup.of(_crystal("rock salt", 2))
    whole = group.with_translations()
    assert (group.order, whole.order) == (48, 384)
    assert (group.symbol, whole.symbol) == ("Fm-3m", "Fm-3m")
    assert group.lattice == whole.crystal.lattice
    assert whole.lattice == whole.crystal.supercell
    assert not group.modulo_supercell and whole.modulo_supercell
    assert group != whole
    np.testing.assert_array_equal(whole.frac_rotations[:48], group.frac_rotations)
    np.testing.assert_array_equal(whole.frac_translations[:48], group.frac_translations)
    shifts = whole.frac_translations[::48] @ whole.crystal.lattice.vectors
    np.testing.assert_allclose(shifts, whole.crystal.translations, atol=1e-9)


@settings(max_examples=30)
@given(_CASES)
def test_is_the_group_of_the_supercell(case):
    """The same operations as spglib finds for the supercell as a crystal of its own, if
    it has no further symmetry."""
    whole = _whole(case)
    crystal = whole.crystal
    cell = (
        crystal.supercell.vectors.tolist(),
        crystal.supercell.to_fractional(crystal.supercell_positions).tolist(),
        crystal.supercell_charges.tolist(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_symmetry_dataset(cell, symprec=1e-5)
    assert whole.order == len(found.rotations)
    columns = crystal.supercell.vectors.T
    turned = columns @ found.rotations @ np.linalg.inv(columns)
    same = np.abs(whole.cart_rotations[:, None] - turned) < 1e-6
    same = np.all(same, axis=(2, 3))
    change = crystal.supercell.to_fractional(whole.cart_translations)
    change = change[:, None] - found.translations
    same &= np.all(np.abs(change - np.round(change)) < 1e-5, axis=-1)
    np.testing.assert_array_equal(same.sum(axis=1), 1)


@settings(max_examples=30)
@given(_CASES, st.booleans(), st.integers(0, 2**16))
def test_products(case, whole, seed):
    """The group law of the operations themselves, not modulo anything."""
    group = _whole(case) if whole else eqs.SpaceGroup.of(_crystal(*case), vacuum=())
    table, left = group.multiplication_table, group.product_translations
    assert table.shape == (group.order,) * 2 and left.shape == (*table.shape, 3)
    assert np.issubdtype(left.dtype, np.integer)
    everything = np.arange(group.order)
    np.testing.assert_array_equal(np.sort(table, axis=1) - everything, 0)
    np.testing.assert_array_equal(np.sort(table, axis=0).T - everything, 0)
    np.testing.assert_array_equal(table[everything, group.inverses], 0)
    rng = np.random.default_rng(seed)
    i, j = rng.integers(group.order, size=(2, 40))
    x = rng.normal(size=(2, 3)) * 5
    images = np.asarray(group.apply(jnp.asarray(x)))
    shift = left[i, j] @ group.crystal.lattice.vectors
    twice = np.einsum("sij,snj->sni", group.cart_rotations[i], images[j])
    twice += group.cart_translations[i, None]
    np.testing.assert_allclose(twice, images[table[i, j]] + shift[:, None], atol=1e-4)
    inside = group.lattice.to_fractional(shift)
    np.testing.assert_allclose(inside, np.round(inside), atol=1e-9)


def test_tables_are_made_once_and_read_only():
    group, same = (_whole(("diamond", 2)) for _ in range(2))
    assert group.multiplication_table is same.multiplication_table
    assert group.product_translations is same.product_translations
    for array in (group.multiplication_table, group.product_translations):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    other = eqs.SpaceGroup(
        group.crystal,
        group.frac_rotations[::-1],
        group.frac_translations[::-1],
        modulo_supercell=True,
    )
    assert np.any(other.multiplication_table != group.multiplication_table)


def test_averages_what_knows_only_the_supercell():
    """Over the operations modulo primitive translations, the average of a function of
    the supercell is not symmetric; over all of the supercell it is."""
    crystal = _crystal("diamond", 2, charge=8 * 12 - 2)
    part = eqs.SpaceGroup.of(crystal)
    whole = part.with_translations()
    rng = np.random.default_rng(0)
    waves = rng.integers(-2, 3, size=(5, 3)) @ crystal.supercell.reciprocal
    amplitudes = rng.normal(size=5)

    def average(group, x):
        angles = np.asarray(group.apply_inverse(jnp.asarray(x))) @ waves.T
        return np.mean(np.exp(np.sin(angles) @ amplitudes).prod(axis=-1))

    x = rng.normal(size=(2, 3)) * 3
    images = np.asarray(whole.apply(jnp.asarray(x)))[[0, 5, 100, 200, 383]]
    values = np.array([[average(group, y) for y in images] for group in (part, whole)])
    np.testing.assert_allclose(values[1], values[1, 0], rtol=1e-10)
    assert np.ptp(values[0]) > 1e-3 * np.abs(values[0, 0])


def test_with_translations_again_changes_nothing():
    whole = _whole(("diamond", (1, 1, 2)))
    assert whole.with_translations() == whole
    lone = whole.subgroup([0])
    assert lone.modulo_supercell and lone.order == 1
    assert lone.with_translations().order == 2


def test_translations_and_what_fixes_a_point():
    whole = _whole(("rock salt", 2))
    pure = whole.translations()
    assert pure.order == 8
    assert np.all(pure.frac_rotations == np.eye(3, dtype=int))
    assert whole.point_part().order == 48
    assert whole.point_part([0.5, 0.5, 0.5]).order == 48
    assert whole.point_part([0.25, 0.25, 0.25]).order == 24
    assert whole.point_part([0.11, 0.23, 0.37]).order == 1
    diamond = eqs.SpaceGroup.of(_crystal("diamond"))
    # Td at a nucleus, D3d in the middle of a bond: no point keeps all 48.
    assert (diamond.point_part().order, diamond.point_part().symbol) == (24, "F-43m")
    middle = diamond.point_part([1 / 8] * 3)
    assert (middle.order, middle.symbol) == (12, "R-3m")
    fixed = middle.frac_rotations @ np.full(3, 1 / 8) + middle.frac_translations - 1 / 8
    np.testing.assert_allclose(fixed, np.round(fixed), atol=1e-9)


def _closure(group, operations):
    """By multiplying matrices, not by the table."""
    chosen = [(np.eye(3, dtype=int), np.zeros(3))]
    new = [(group.frac_rotations[i], group.frac_translations[i]) for i in operations]
    generators = list(new)

    def same(a, b):
        change = group.lattice.to_fractional(
            group.crystal.lattice.to_cartesian(a[1] - b[1])
        )
        near = np.all(np.abs(change - np.round(change)) < 1e-6)
        return bool(near) and np.array_equal(a[0], b[0])

    while new:
        one = new.pop()
        if not any(same(one, other) for other in chosen):
            chosen.append(one)
            new += [(g[0] @ one[0], g[0] @ one[1] + g[1]) for g in generators]
    return chosen


@settings(max_examples=25)
@given(_CASES, st.lists(st.integers(0, 2**16), max_size=2))
def test_generated_subgroups(case, seeds):
    group = eqs.SpaceGroup.of(_crystal(*case), vacuum=())
    operations = [seed % group.order for seed in seeds]
    sub = group.generated_by(operations)
    assert sub.order == len(_closure(group, operations))
    assert group.order % sub.order == 0
    for i in operations:
        both = np.all(sub.frac_rotations == group.frac_rotations[i], axis=(1, 2))
        both &= np.all(sub.frac_translations == group.frac_translations[i], axis=1)
        assert both.sum() == 1
    assert sub.generated_by(range(sub.order)) == sub


def test_subgroups_keep_their_order_and_kind():
    crystal = _crystal("graphene")
    group = eqs.SpaceGroup.of(crystal, vacuum=(2,))
    third = group.generated_by([int(np.argmax(_orders(group) == 3))])
    assert third.order == 3 and third.vacuum == (2,) and third.symbol == "p3"
    backwards = third.subgroup([2, 1, 0])
    np.testing.assert_array_equal(backwards.frac_rotations, third.frac_rotations[::-1])


def _orders(group):
    """How often an operation has to be repeated."""
    table, count = group.multiplication_table, np.ones(group.order, dtype=int)
    power = np.arange(group.order)
    while np.any(power != 0):
        count[power != 0] += 1
        power = np.where(power == 0, 0, table[power, np.arange(group.order)])
    return count


@pytest.mark.parametrize(
    "operations, message",
    [
        ([48], "numbers of operations, 0 to 47, got \\[48\\]"),
        ([-1], "0 to 47"),
        ([0.5], "0 to 47"),
        ([[0, 1]], "0 to 47"),
        ([0, 1, 2], "must be closed under multiplication, but 1 times 2 is"),
        ([], "at least one operation"),
        ([0, 0], "free of duplicates"),
    ],
)
def test_refuses_what_is_no_subgroup(operations, message):
    group = eqs.SpaceGroup.of(_crystal("rock salt"))
    with pytest.raises(ValueError, match=message):
        group.subgroup(operations)


@pytest.mark.parametrize("name, classes", [("rock salt", 10), ("graphene", 12)])
def test_conjugacy_classes_of_point_groups(name, classes):
    group = eqs.SpaceGroup.of(_crystal(name))
    labels = group.conjugacy_classes
    sizes = np.bincount(labels)
    assert len(sizes) == classes
    if name == "rock salt":
        assert sorted(sizes) == [1, 1, 3, 3, 6, 6, 6, 6, 8, 8]
    # Numbered in order, and constant if characters are.
    assert labels[0] == 0 and sizes[0] == 1
    first = [int(np.argmax(labels == k)) for k in range(classes)]
    assert first == sorted(first)
    traces = np.trace(group.frac_rotations, axis1=1, axis2=2)
    assert all(np.ptp(traces[labels == k]) == 0 for k in range(classes))


@settings(max_examples=15)
@given(_CASES)
def test_conjugacy_classes(case):
    group = _whole(case)
    table, inverses, labels = (
        group.multiplication_table,
        group.inverses,
        group.conjugacy_classes,
    )
    rng = np.random.default_rng(0)
    for i in rng.integers(group.order, size=5):
        members = {int(table[table[g, i], inverses[g]]) for g in range(group.order)}
        assert members == set(np.flatnonzero(labels == labels[i]).tolist())
    # Class equation: sizes divide the order.
    assert np.all(group.order % np.bincount(labels) == 0)


def test_duplicates_modulo_which_lattice():
    crystal = _crystal("rock salt", (1, 1, 2))
    rotations = [np.eye(3)] * 2
    translations = [[0, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="duplicates modulo primitive lattice"):
        eqs.SpaceGroup(crystal, rotations, translations)
    group = eqs.SpaceGroup(crystal, rotations, translations, modulo_supercell=True)
    np.testing.assert_array_equal(group.multiplication_table, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(group.product_translations[1, 1], [0, 0, 2])
    with pytest.raises(ValueError, match="duplicates modulo supercell"):
        eqs.SpaceGroup(
            crystal, rotations, [[0, 0, 0], [0, 0, 2]], modulo_supercell=True
        )
    longer = _crystal("rock salt", (1, 1, 3))
    with pytest.raises(
        ValueError, match="closed under multiplication modulo supercell"
    ):
        eqs.SpaceGroup(longer, rotations, translations, modulo_supercell=True)


_ASE_GRAPHENE = dict(
    lattice=[[4.65, 0, 0], [-2.325, 4.65 * np.sqrt(0.75), 0], [0, 0, 30.0]],
    species=["C", "C"],
    unit="bohr",
)


@pytest.mark.parametrize(
    "crystal",
    [
        eqs.Crystal(frac_positions=[[0, 0, 0], [1 / 3, 2 / 3, 0]], **_ASE_GRAPHENE),
        eqs.Crystal(
            frac_positions=[[0.17, 0.43, 0.1], [0.17 + 1 / 3, 0.43 + 2 / 3, 0.1]],
            **_ASE_GRAPHENE,
        ),
        eqs.Crystal(
            [[0, 3.8, 3.8], [3.8, 0, 3.8], [3.8, 3.8, 0]],
            ["Li", "H"],
            frac_positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]],
            unit="bohr",
        ),
        # Polar: all operations leave a line where it is.
        eqs.Crystal(
            np.diag([5.0, 5.0, 7.0]),
            ["Li", "H"],
            frac_positions=[[0.3, 0.1, 0.2], [0.3, 0.1, 0.6]],
            unit="bohr",
        ),
    ],
)
def test_symmorphic_crystals_multiply_without_translations(crystal):
    """Wherever their origin is."""
    group = eqs.SpaceGroup.of(crystal)
    assert group.order > 7
    assert not np.any(group.product_translations)


def test_nonsymmorphic_crystals_do_not():
    diamond = eqs.SpaceGroup.of(_crystal("diamond"))
    assert np.any(diamond.product_translations)
    for point in ([0, 0, 0], [1 / 8] * 3, [5 / 8, 1 / 8, 1 / 8], [-3 / 8] * 3):
        part = diamond.point_part(point)
        assert part.order > 1 and not np.any(part.product_translations)
        moved = part.frac_rotations @ np.array(point) + part.frac_translations
        np.testing.assert_allclose(moved, np.tile(point, (part.order, 1)), atol=1e-9)


def test_tabulated_groups_about_another_origin():
    crystal = eqs.Crystal(
        np.diag([5.0, 5.0, 7.0]),
        ["Li", "H"],
        frac_positions=[[0.3, 0.1, 0.2], [0.3, 0.1, 0.6]],
        unit="bohr",
    )
    group = eqs.SpaceGroup.from_number(crystal, 99, frac_origin=[0.3, 0.1, 0])
    assert group.order == 8 and not np.any(group.product_translations)


def test_twists_of_a_crystal_with_another_origin():
    """On a line of symmetry, with a mirror that is not through the origin."""
    crystal = eqs.Crystal(
        frac_positions=[[0, 0, 0], [1 / 3, 2 / 3, 0]],
        twist=(0.1, 0.1, 0),
        charge=9,
        spin=1,
        **_ASE_GRAPHENE,
    )
    group = eqs.SpaceGroup.of(crystal)
    assert group.order > 1
    k = np.tile(crystal.frac_kpoints @ crystal.lattice.reciprocal, (2, 1))
    network = small_network(crystal, k, k[:1], (8, 3))
    averaged = eqx.filter_jit(eqs.Symmetrized(network, eqs.GroupAverage(group)))
    frac = np.random.default_rng(0).uniform(size=(3, 3))
    x = jnp.asarray(crystal.lattice.to_cartesian(frac))
    value = averaged(x)
    for image in group.apply(x):
        psi = averaged(image)
        np.testing.assert_allclose(psi.log, value.log, rtol=1e-8)
        np.testing.assert_allclose(psi.sign, value.sign, atol=1e-8)
