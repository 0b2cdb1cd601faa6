"""Fundamental domains: exact polyhedra, volumes, tilings and distances for all space,
layer and plane groups."""

import collections
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import spglib
from hypothesis import example, given, settings, strategies as st

from eqsym import Crystal, FundamentalDomain, SpaceGroup
from group_toys import crystal_for, database


# spglib 2 announces another way to report errors wherever it is asked for a group.
_SPGLIB = "ignore:Set OLD_ERROR_HANDLING:DeprecationWarning"
pytestmark = pytest.mark.filterwarnings(_SPGLIB)


def _number(hall):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return spglib.get_spacegroup_type(hall).number


# The first setting of each space group by Hall number, all settings of the 80 layer
# groups, and among these the ones that leave z alone, which are the 17 plane groups.
_SPACE = {_number(hall): hall for hall in range(530, 0, -1)}
_LAYER = range(-116, 0)
_PLANE = [-1, -3, -18, -21, -39, -40, -41, -42, -43]
_PLANE += [-82, -89, -90, -101, -105, -106, -109, -113]
# Of each crystal system, symmorphic and not, with at most 24 operations.
_SOME = [1, 2, 4, 16, 61, 115, 343, 354, 410, 435, 441, 468, 477, 485, 489, 494, 502]
_SOME += [-5, -30, -57, -116, *_PLANE]


@functools.cache
def _group(hall, seed):
    rotations, translations = database(hall)
    crystal = crystal_for(rotations, translations, seed)
    return SpaceGroup(crystal, rotations, translations)


@functools.cache
def _domain(hall, seed):
    return FundamentalDomain.of(_group(hall, seed))


def _check(domain, seed):
    group, lattice = domain.group, domain.group.crystal.lattice
    rng = np.random.default_rng(seed)
    normals, offsets, vertices = domain.normals, domain.offsets, domain.vertices
    size = np.cbrt(domain.volume)

    # A convex polyhedron around the point, its volume by divergence.
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    heights = offsets - normals @ domain.point
    assert np.all(heights > 0)
    assert np.max(vertices @ normals.T - offsets) < 1e-6 * size
    edges, volume = collections.Counter(), 0.0
    for face, normal, height in zip(domain.faces, normals, heights, strict=True):
        ring = vertices[list(face)]
        np.testing.assert_allclose(ring @ normal, ring[0] @ normal, atol=1e-6 * size)
        edges.update(zip(face, (*face[1:], face[0]), strict=True))
        spokes = ring - ring[0]
        area = np.sum(np.cross(spokes[:-1], spokes[1:]), axis=0) @ normal / 2
        volume += height * area / 3
    # Every edge belongs to two faces, which run along it in opposite directions.
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)
    assert len(vertices) - len(edges) // 2 + len(domain.faces) == 2
    expected = lattice.volume / group.order
    np.testing.assert_allclose([volume, domain.volume], expected, rtol=1e-6)

    # Each point is in the image of the domain whose point is the nearest one, and
    # inside of no other.
    points = lattice.to_cartesian(rng.uniform(-1, 2, size=(30, 3)))
    rotations, translations = group.cart_rotations, group.cart_translations
    images = (points - translations[:, None]) @ rotations
    near = lattice.to_fractional(images - domain.point)
    near = lattice.to_cartesian(near - np.round(near)) + domain.point
    # The domain is part of the Voronoi cell of its point in the lattice.
    reach = np.max(np.linalg.norm(near - domain.point, axis=-1)) + domain.circumradius
    near = near[..., None, :] + lattice.points_within(reach)
    beyond = np.max(near @ normals.T - offsets, axis=-1)
    assert np.all(np.sum(beyond < 1e-6, axis=(0, 2)) >= 1)
    assert np.all(np.sum(beyond < -1e-6, axis=(0, 2)) <= 1)
    # Nearer to the point than to its images, by their definition.
    steps = near - domain.point
    lengths = np.linalg.norm(steps, axis=-1)
    flat = lengths.transpose(1, 0, 2).reshape(len(points), -1)
    inside = beyond.transpose(1, 0, 2).reshape(len(points), -1)
    best = np.argmin(flat, axis=1)
    assert np.all(inside[np.arange(len(points)), best] < 1e-6)

    # The distance from images of the domain, by moving its faces.
    places = vertices[rng.integers(len(vertices), size=20)]
    places = places + rng.normal(size=(20, 3)) * size / 2
    points = jnp.asarray(places)
    some = rng.integers(group.order, size=8)
    back = (places - translations[some, None]) @ rotations[some]
    moved = domain.distance(jnp.asarray(back))
    for g, distance in zip(some, moved, strict=True):
        turned = normals @ rotations[g].T
        shifted = offsets + turned @ translations[g]
        direct = np.sum(np.maximum(places @ turned.T - shifted, 0), axis=1)
        np.testing.assert_allclose(distance, direct, atol=1e-7)
    np.testing.assert_array_equal(
        domain.contains(points), np.asarray(domain.distance(points)) == 0
    )
    assert domain.contains(jnp.asarray(domain.point))


@settings(max_examples=15)
@given(st.sampled_from(_SOME), st.integers(0, 1))
def test_domains_of_groups(hall, seed):
    _check(_domain(hall, seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("hall", [*_SPACE.values(), *_LAYER])
def test_domains_of_all_groups(hall):
    _check(FundamentalDomain.of(_group.__wrapped__(hall, 7)), 7)


def test_list_of_groups_is_complete():
    assert sorted(_SPACE) == list(range(1, 231)) and len(set(_PLANE)) == 17
    assert all(np.all(database(hall)[0][:, 2, 2] == 1) for hall in _PLANE)


@settings(max_examples=25)
@given(st.sampled_from(_SOME), st.tuples(*[st.floats(0, 1, width=32)] * 3))
@example(489, (0.75, 0.875, 2.0**-23))
def test_any_generic_point_will_do(hall, frac):
    group = _group(hall, 0)
    point = group.crystal.lattice.to_cartesian(np.array(frac))
    try:
        domain = FundamentalDomain.of(group, point=point)
    except ValueError as error:
        assert "generic point" in str(error)
        return
    np.testing.assert_array_equal(domain.point, point)
    _check(domain, 3)


def _alone(vectors):
    """Translations only."""
    crystal = Crystal(vectors, ["H"], frac_positions=[[0, 0, 0]], unit="bohr")
    return SpaceGroup(crystal, np.eye(3, dtype=int)[None], np.zeros((1, 3)))


@pytest.mark.parametrize(
    "vectors, sides, vertices",
    [
        (np.diag([4.0, 5.0, 6.0]), [4] * 6, 8),
        # The same lattice in a skewed basis.
        ([[4.0, 0, 0], [12, 5, 0], [-8, 15, 6]], [4] * 6, 8),
        # Rhombic dodecahedron, truncated octahedron, hexagonal prism.
        ([[0.0, 3, 3], [3, 0, 3], [3, 3, 0]], [4] * 12, 14),
        ([[-3.0, 3, 3], [3, -3, 3], [3, 3, -3]], [4] * 6 + [6] * 8, 24),
        ([[4.0, 0, 0], [-2, 12**0.5, 0], [0, 0, 50]], [4] * 6 + [6] * 2, 12),
    ],
)
def test_voronoi_cells_of_lattices(vectors, sides, vertices):
    domain = FundamentalDomain.of(_alone(vectors))
    assert sorted(len(face) for face in domain.faces) == sides
    assert len(domain.vertices) == vertices
    np.testing.assert_allclose(domain.volume, abs(np.linalg.det(vectors)))


def _triangle(domain):
    """Corners of the projection onto the xy plane, and the height."""
    flat = domain.vertices[:, :2]
    flat = flat[np.argsort(flat @ [1.0, 1e-3])]
    corners = flat[[True, *(np.linalg.norm(np.diff(flat, axis=0), axis=1) > 1e-6)]]
    return corners, np.ptp(domain.vertices[:, 2])


@pytest.mark.parametrize("mirror", [True, False])
def test_graphene(mirror):
    crystal = Crystal.graphene(a=4.65, vacuum=20.0, unit="bohr")
    group = SpaceGroup.of(crystal)
    if not mirror:
        planar = group.frac_rotations[:, 2, 2] == 1
        group = SpaceGroup(
            crystal, group.frac_rotations[planar], group.frac_translations[planar]
        )
    domain = FundamentalDomain.of(group)
    assert len(domain.vertices) == 6 and len(domain.faces) == 5
    corners, height = _triangle(domain)
    np.testing.assert_allclose(height, 10.0 if mirror else 20.0)
    assert len(corners) == 3
    hull = scipy.spatial.ConvexHull(corners)
    # The area, in two dimensions.
    np.testing.assert_allclose(hull.volume, 4.65**2 * np.sqrt(3) / 2 / 12)
    # From the center of a hexagon to an atom and to the middle of a bond.
    sides = sorted(np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1))
    bond = 4.65 / np.sqrt(3)
    np.testing.assert_allclose(sides, [bond / 2, bond * np.sqrt(3) / 2, bond])
    np.testing.assert_allclose(domain.inradius, (sides[0] + sides[1] - sides[2]) / 2)


@settings(max_examples=10)
@given(st.tuples(*[st.sampled_from([0.03, 0.1, 0.31, 0.62, 0.96])] * 3))
def test_mirrors_bound_the_domain_of_any_point(frac):
    # Pmmm: a box of an eighth of the cell.
    rotations, translations = database(227)
    crystal = Crystal(
        np.diag([6.0, 7.0, 9.0]), ["H"], frac_positions=[[0, 0, 0]], unit="bohr"
    )
    group = SpaceGroup(crystal, rotations, translations)
    point = np.array(frac) * [6.0, 7.0, 9.0]
    domain = FundamentalDomain.of(group, point=point)
    edges = np.array([3.0, 3.5, 4.5])
    low = np.floor(point / edges) * edges
    np.testing.assert_allclose(np.min(domain.vertices, axis=0), low, atol=1e-9)
    np.testing.assert_allclose(np.max(domain.vertices, axis=0), low + edges, atol=1e-9)
    assert len(domain.faces) == 6 and len(domain.vertices) == 8
    np.testing.assert_allclose(domain.inradius, 1.5)
    far = np.where(point - low < edges / 2, low + edges, low)
    np.testing.assert_allclose(domain.circumradius, np.linalg.norm(far - point))


def test_many_operations():
    # Diamond in its cubic cell, 192 operations. Fd-3m has a tetrahedron with mirrors on
    # three sides.
    frac = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    frac = np.concatenate([frac, np.array(frac) + 0.25])
    cubic = Crystal(np.eye(3) * 6.7, ["C"] * 8, frac_positions=frac, unit="bohr")
    domain = FundamentalDomain.of(SpaceGroup.of(cubic))
    assert domain.group.order == 192
    np.testing.assert_allclose(domain.volume, 6.7**3 / 192)
    primitive = SpaceGroup.of(Crystal.diamond("C", a=6.7, unit="bohr"))
    # The same cell of the same point, from 48 operations and a finer lattice.
    same = FundamentalDomain.of(primitive, point=domain.point)
    order = lambda x: x[np.lexsort(np.round(x, 6).T)]
    np.testing.assert_allclose(order(same.vertices), order(domain.vertices), atol=1e-9)
    assert len(same.faces) == len(domain.faces) <= 6


def test_rounded_positions_make_no_slivers():
    a = 4.64863
    lattice = [[a, 0, 0], [-a / 2, a * 0.866025, 0], [0, 0, 20]]
    frac = [[0.433333, 0.796667, 0.1], [0.766667, 0.463333, 0.1]]
    rough = SpaceGroup.of(
        Crystal(lattice, ("C", "C"), frac_positions=frac, unit="bohr")
    )
    assert rough.order == 24
    products = rough.cart_rotations @ np.swapaxes(rough.cart_rotations, 1, 2)
    assert np.max(np.abs(products - np.eye(3))) > 1e-8
    domain = FundamentalDomain.of(rough)
    assert len(domain.faces) == 5 and len(domain.vertices) == 6
    np.testing.assert_allclose(
        domain.volume, rough.crystal.lattice.volume / 24, rtol=1e-5
    )


def test_chooses_few_faces_without_short_edges():
    # P6: most points give more faces and much shorter edges.
    group = _group(462, 0)
    chosen = FundamentalDomain.of(group)
    rng = np.random.default_rng(0)
    others = []
    for frac in rng.uniform(size=(30, 3)):
        point = group.crystal.lattice.to_cartesian(frac)
        others.append(FundamentalDomain.of(group, point=point))
    assert len(chosen.faces) <= min(len(other.faces) for other in others)
    rings = [chosen.vertices[list(face)] for face in chosen.faces]
    edges = [np.linalg.norm(x - np.roll(x, 1, axis=0), axis=1) for x in rings]
    assert np.min(np.concatenate(edges)) > 0.1 * np.cbrt(chosen.volume)


def test_domains_compare_by_value():
    a, b = (
        FundamentalDomain.of(SpaceGroup.of(Crystal.bcc("Li", a=6.6, unit="bohr")))
        for _ in range(2)
    )
    assert a == b and hash(a) == hash(b)
    assert a != FundamentalDomain.of(a.group, point=a.point + 0.1)
    assert not jax.tree.leaves(a)


def test_keeps_dtype_and_is_differentiable():
    domain = _domain(485, 0)
    points = jnp.asarray(domain.vertices * 1.5)
    single = domain.distance(points.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, domain.distance(points), atol=1e-4)
    assert domain.excess(points).shape == (len(points), len(domain.faces))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(domain.distance(x))))(points)
    outside = np.asarray(domain.excess(points)) > 0
    np.testing.assert_allclose(gradient, outside @ domain.normals, atol=1e-12)


@pytest.mark.parametrize(
    "frac, message",
    [
        # A center of inversion, an axis, a mirror plane.
        ((0.5, 0.5, 0.5), "`point` must be a generic point.* operation"),
        ((0.0, 0.0, 0.2), "`point` must be a generic point.* by 0 Bohr"),
        ((0.1, 0.2, 1e-5), "`point` must be a generic point.* by 0.00018 Bohr"),
        ((0.1, np.nan, 0.3), "`point` must be three finite numbers"),
        ((0.1, 0.2), "`point` must be three finite numbers"),
    ],
)
def test_refuses_points(frac, message):
    crystal = Crystal(
        np.diag([6.0, 7.0, 9.0]), ["H"], frac_positions=[[0, 0, 0]], unit="bohr"
    )
    group = SpaceGroup(crystal, *database(227))
    point = np.array(frac) * [6.0, 7.0, 9.0][: len(frac)]
    with pytest.raises(ValueError, match=message):
        FundamentalDomain.of(group, point=point)
