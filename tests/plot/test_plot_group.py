"""Pictures of space groups: the parts that are drawn, how often, and where."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from eqsym._plot.parts import (
    axis_segments,
    closed_cell,
    motif_place,
    plane_polygons,
    vertices_near_cell,
)


class Tetrahedron(NamedTuple):
    vertices: np.ndarray
    faces: tuple = ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))


def _graphene():
    return eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr")


def _salt():
    return eqs.Crystal.rock_salt("Li", "H", a=7.6, unit="bohr")


def _phosphorene(order=(0, 1, 2)):
    """With the vacuum along any lattice vector."""
    frac = [
        [0, 0.08056, 0.5533],
        [0, -0.08056, -0.5533],
        [0.5, 0.58056, -0.5533],
        [0.5, 0.41944, 0.5533],
    ]
    return eqs.Crystal(
        np.diag([6.26, 8.27, 38.0])[list(order)],
        ["P"] * 4,
        frac_positions=np.array(frac)[:, list(order)],
        unit="bohr",
    )


def _drawn(figure):
    """All artists that have a name, by it."""
    found = {}
    for ax in figure.axes:
        for artist in ax.get_children():
            if artist.get_gid():
                found.setdefault(artist.get_gid(), []).append(artist)
    return found


def _counts(figure):
    return {name: len(artists) for name, artists in _drawn(figure).items()}


def _labels(figure):
    return [
        text.get_text()
        for ax in figure.axes
        if ax.get_legend()
        for text in ax.get_legend().get_texts()
    ]


def _points(artists):
    """Places of markers."""
    return np.concatenate([np.array(a.get_data()).T for a in artists])


def _classes(crystal, points):
    """Numbers of points that in-plane lattice vectors do not map to each other."""
    frac = points @ np.linalg.inv(crystal.lattice.vectors[:2, :2])
    return len({tuple(row) for row in np.round(frac - np.floor(frac + 1e-6), 4)})


def test_rotation_centers_of_graphene():
    # p6mm: one six-fold, two three-fold and three two-fold centers in a cell; drawn in
    # the cell and on its border.
    crystal = _graphene()
    drawn = _drawn(eqs.plot.group(crystal))
    expected = {6: (1, 4), 3: (2, 2), 2: (3, 5)}
    for order, (classes, images) in expected.items():
        points = _points(drawn[f"rotation {order}"])
        assert len(points) == images
        assert _classes(crystal, points) == classes
    centers = _points(drawn["inversion"])
    assert _classes(crystal, centers) == 4
    atoms = _points(drawn["atom C"])
    threefold = _points(drawn["rotation 3"])
    np.testing.assert_allclose(
        np.sort(atoms, axis=0), np.sort(threefold, axis=0), atol=1e-9
    )
    # The carbon atoms are on top of all lines.
    lines = drawn["mirror"] + drawn["glide"]
    assert min(a.zorder for a in drawn["atom C"]) > max(a.zorder for a in lines)


def test_mirror_lines_of_graphene_go_through_the_six_fold_centers():
    drawn = _drawn(eqs.plot.group(_graphene()))
    shifts = np.array(list(np.ndindex(9, 9))) - 4
    centers = shifts @ _graphene().lattice.vectors[:2, :2]
    for kind, through in (("mirror", True), ("glide", False)):
        for line in drawn[kind]:
            start, end = np.array(line.get_data()).T
            along = (end - start) / np.linalg.norm(end - start)
            gaps = centers - start
            distance = np.abs(gaps[:, 0] * along[1] - gaps[:, 1] * along[0])
            assert bool(np.min(distance) < 1e-6) == through
    assert all(line.get_linestyle() == "-" for line in drawn["mirror"])
    assert all(line.get_linestyle() != "-" for line in drawn["glide"])
    # The four sides of the cell among them.
    assert len(drawn["mirror"]) == 4 + 2 + 4


def test_orbit_is_drawn_once_for_every_operation():
    figure = eqs.plot.group(_graphene())
    counts = _counts(figure)
    assert counts["orbit 1"] == counts["orbit -1"] == 12
    areas = []
    for name in ("orbit 1", "orbit -1"):
        for patch in _drawn(figure)[name]:
            x, y = patch.get_xy()[:3].T
            areas.append(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    # Colors show handedness, and no triangle is distorted.
    np.testing.assert_allclose(np.abs(areas), np.abs(areas[0]))
    assert np.all(np.sign(areas[:12]) == -np.sign(areas[12:]))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_layers_are_seen_along_any_lattice_vector(order):
    figure = eqs.plot.group(_phosphorene(order))
    counts = _counts(figure)
    # Layer group p m a n: mirrors at 0 and 1/2 (and 1), glides at 1/4 and 3/4, two-fold
    # axes on these, and both kinds of axes in the plane, with two ends each.
    assert counts["mirror"] == 3 and counts["glide"] == 2
    assert counts["rotation 2"] == 4
    assert counts["flat rotation"] == 6 and counts["flat screw"] == 4
    assert "(also a horizontal glide plane)" in _labels(figure)
    assert figure.axes[0].get_aspect() == 1


def test_rotoinversion_axes_have_a_frame():
    # One layer of boron nitride, p -6 m 2: three kinds of three-fold axes.
    crystal = eqs.Crystal(
        _graphene().lattice.vectors,
        ["B", "N"],
        frac_positions=[[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0]],
        unit="bohr",
    )
    drawn = _drawn(eqs.plot.group(crystal))
    for name in ("rotation 3", "rotoinversion -6"):
        assert _classes(crystal, _points(drawn[name])) == 3
    assert "inversion" not in drawn and "rotation 2" not in drawn


def test_domain_is_drawn_in_the_cell():
    crystal = _graphene()
    corners = np.array([[0, 0, 0], [2.0, 0, 0], [0, 1.5, 0], [0, 0, 3.0]])
    domain = Tetrahedron(corners + 5 * crystal.lattice.vectors[0])
    figure = eqs.plot.group(crystal, domain=domain)
    (patch,) = _drawn(figure)["domain"]
    np.testing.assert_allclose(
        np.unique(np.round(patch.get_xy(), 9), axis=0),
        [[0, 0], [0, 1.5], [2, 0]],
        atol=1e-9,
    )
    assert "fundamental domain" in _labels(figure)
    assert "domain" not in _drawn(eqs.plot.group(crystal))


def test_three_dimensions():
    crystal = eqs.Crystal(
        np.diag([6.0, 7.0, 8.0]),
        ["H"] * 4,
        frac_positions=[
            [0.1, 0.2, 0.15],
            [-0.1, -0.2, 0.15],
            [0.1, -0.2, -0.15],
            [-0.1, 0.2, -0.15],
        ],
        unit="bohr",
    )
    group = eqs.SpaceGroup.of(crystal)
    assert group.order == 4
    domain = Tetrahedron(np.array([[0, 0, 0], [2.0, 0, 0], [0, 1.5, 0], [0, 0, 3.0]]))
    figure = eqs.plot.group(crystal, group=group, domain=domain)
    assert [ax.name for ax in figure.axes] == ["3d", "3d"]
    counts = _counts(figure)
    # P222: along each direction the axes through (0, 1/2) x (0, 1/2), 9 with border.
    assert counts["axis 2"] == 27
    assert counts["orbit 1"] == 4 and "orbit -1" not in counts
    assert counts["domain"] == 1 and counts["cell"] == 24
    # One marker set for every nucleus and panel.
    assert counts["atom H"] == 8
    assert "inversion" not in counts and "mirror" not in counts


def test_planes_and_centers_in_three_dimensions():
    crystal = eqs.Crystal(
        np.diag([6.0, 7.0, 8.0]), ["H"], frac_positions=[[0, 0, 0]], unit="bohr"
    )
    figure = eqs.plot.group(crystal)
    counts = _counts(figure)
    assert figure.axes[2].get_title() == "planes and inversion centers"
    # Pmmm: at 0, 1/2 and 1 along each direction; eight centers.
    assert counts["mirror"] == 9 and counts["inversion"] == 8
    assert counts["orbit 1"] == counts["orbit -1"] == 4


def test_crowded_pictures_say_what_is_left_out():
    figure = eqs.plot.group(_salt())
    labels = _labels(figure)
    assert "(screw axes not drawn)" in labels and "(glide planes not drawn)" in labels
    names = _counts(figure)
    assert {n for n in names if n.startswith("axis")} == {"axis 4", "axis -3", "axis 2"}
    assert "glide" not in names and "mirror" in names


def test_layers_can_be_drawn_in_three_dimensions():
    figure = eqs.plot.group(_graphene(), layer=False)
    assert all(ax.name == "3d" for ax in figure.axes)
    assert "axis 6" in _counts(figure)
    # Vacuum along two lattice vectors is not a layer.
    chain = eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=20.0, unit="bohr")
    assert eqs.plot.group(chain).axes[0].name == "3d"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`layer` needs a crystal with vacuum"):
        eqs.plot.group(_salt(), layer=True)
    with pytest.raises(ValueError, match="must be one of this crystal"):
        eqs.plot.group(_salt(), group=eqs.SpaceGroup.of(_graphene()))


def test_group_can_be_a_part_of_all_operations():
    crystal = _graphene()
    identity = eqs.SpaceGroup(crystal, np.eye(3)[None], np.zeros((1, 3)))
    counts = Counter(_counts(eqs.plot.group(crystal, group=identity)))
    assert counts["orbit 1"] == 1
    assert not any(counts[n] for n in ("mirror", "glide", "inversion", "rotation 6"))
    assert len(eqs.plot.group(_salt(), group=_trivial(_salt())).axes) == 1


def _trivial(crystal):
    return eqs.SpaceGroup(crystal, np.eye(3)[None], np.zeros((1, 3)))


@pytest.mark.parametrize("build", [_graphene, _salt])
def test_pictures_are_written(build, tmp_path):
    eqs.plot.group(build()).savefig(tmp_path / "group.png", dpi=40)
    assert (tmp_path / "group.png").read_bytes().startswith(b"\x89PNG")


_VECTORS = st.sampled_from(
    [(1, 0, 0), (0, 0, 1), (1, 1, 0), (-1, 1, 0), (1, 1, 1), (1, -3, 1), (2, 1, 0)]
)
_PLACES = st.tuples(*[st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.71, -0.4])] * 3)


@settings(max_examples=50)
@given(_VECTORS, _PLACES)
def test_segments_are_where_the_line_and_its_images_meet_the_cell(vector, place):
    direction, point = np.array(vector), np.array(place)
    segments = axis_segments(direction, point)
    for ends in segments:
        assert np.all((ends > -1e-9) & (ends < 1 + 1e-9))
        # On the line up to a lattice vector, and it leaves the cell at both ends.
        turn = np.cross(direction, ends[0] - point)
        assert np.linalg.norm(np.cross(direction, ends[1] - ends[0])) < 1e-9
        assert np.all(np.abs(turn - np.round(turn)) < 1e-6)
        for end, sign in ((ends[0], -1), (ends[1], 1)):
            beyond = end + sign * 1e-3 * direction
            assert np.any((beyond < -1e-6) | (beyond > 1 + 1e-6))
    # Of many points of the line, wrapped into the cell, each is on one segment.
    for part in (0.013, 0.37, 0.77):
        inside = (point + part * direction) % 1.0
        on = [
            np.linalg.norm(np.cross(inside - a, b - a)) < 1e-6
            and -1e-6 < (inside - a) @ (b - a) < (b - a) @ (b - a) + 1e-6
            for a, b in segments
        ]
        assert sum(on) >= 1


@settings(max_examples=50)
@given(_VECTORS, st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.9]))
def test_polygons_are_where_the_plane_and_its_images_meet_the_cell(vector, offset):
    normal = np.array(vector)
    polygons = plane_polygons(normal, offset)
    rng = np.random.default_rng(0)
    for corners in polygons:
        assert np.all((corners > -1e-9) & (corners < 1 + 1e-9))
        level = corners @ normal
        assert (
            np.ptp(level) < 1e-9
            and abs(level[0] - offset - round(level[0] - offset)) < 1e-9
        )
        # Convex and in order: all turns in one sense.
        sides = np.roll(corners, -1, axis=0) - corners
        turns = np.cross(sides, np.roll(sides, -1, axis=0)) @ normal
        assert np.all(turns > -1e-9) or np.all(turns < 1e-9)
        # No corner of the cut is missing: sides lie in faces of the cell.
        middle = corners + sides / 2
        assert np.all(np.any((np.abs(middle) < 1e-9) | (np.abs(middle - 1) < 1e-9), 1))
    # As many as levels strictly inside, and faces of the cell.
    levels = rng.uniform(size=(4000, 3)) @ normal
    inside = {round(x) for x in np.floor(levels - offset)}
    assert len(inside) - 1 <= len(polygons) <= len(inside) + 1


def test_images_on_the_border_of_the_cell():
    assert len(closed_cell(np.zeros(3))) == 8
    assert len(closed_cell(np.array([0.5, 1.0, 0.3]))) == 2
    np.testing.assert_allclose(
        closed_cell(np.array([-0.25, 0.5, 1.3])), [[0.75, 0.5, 0.3]]
    )


@pytest.mark.parametrize("build, flat", [(_graphene, True), (_salt, False)])
def test_object_is_alone_in_its_circle(build, flat):
    crystal = build()
    group = eqs.SpaceGroup.of(crystal)
    plane = np.eye(3)[:2] if flat else np.eye(3)
    point, radius = motif_place(crystal, group, plane, None)
    assert radius > 0.1
    frac = crystal.lattice.to_fractional(point)
    images = frac @ np.swapaxes(group.frac_rotations, 1, 2) + group.frac_translations
    nuclei = crystal.lattice.to_fractional(crystal.cart_positions)
    others = np.concatenate([images, nuclei])
    for shift in np.ndindex(5, 5, 5):
        gaps = (others + np.array(shift) - 2 - frac) @ crystal.lattice.vectors
        lengths = np.linalg.norm(gaps @ plane.T, axis=1)
        assert np.all((lengths < 1e-6) | (lengths > 2 * radius - 1e-6))


def test_object_is_inside_the_domain():
    crystal = _salt()
    domain = Tetrahedron(np.array([[0, 0, 0], [3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]]))
    point, _ = motif_place(crystal, eqs.SpaceGroup.of(crystal), np.eye(3), domain)
    local = point - vertices_near_cell(crystal, domain)[0]
    assert np.all(local > 0) and np.sum(local) < 3
