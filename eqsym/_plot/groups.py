"""Pictures of space groups, as layers or in three dimensions. Need matplotlib, the
extra `plot`."""

from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .._core import checked
from .._crystal import Crystal, is_whole, SAME_ELEMENT
from .._group import SpaceGroup, symmetry_elements, SymmetryElements, vacuum_gap
from .bulk import draw_bulk
from .figures import new_figure
from .parts import (
    closed_cell,
    DOMAIN_COLOR,
    formula,
    HAND_COLORS,
    Legend,
    motif_place,
    ORDER_COLORS,
    plane_polygons,
    Polyhedron,
    species_colors,
    vertices_near_cell,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Bohr; less space between nuclei along a lattice vector is not vacuum.
_VACUUM = 10.0
_PLANE_COLORS = {True: "#3a3a3a", False: "#999999"}
_SIZES = {2: 14, 3: 9, 4: 9, 6: 11}


@checked
def plot_group(
    crystal: Crystal,
    *,
    group: SpaceGroup | None = None,
    domain: Polyhedron | None = None,
    layer: bool | None = None,
) -> "Figure":
    """Draws a crystal and its symmetry: the cell with its atoms; the images of an
    object without symmetry, in one color if they have its handedness and in another if
    they are mirror images; the symmetry elements; a fundamental domain.

    A layer is seen from above, against the lattice vector that crosses the vacuum;
    images of the object that are turned over are outlines. The signs follow the
    International Tables: lens, triangle, square and hexagon for rotation centers, white
    dots for inversion centers, lines for mirror and dashed lines for glide planes,
    arrows and half arrows at the border for two-fold rotation and screw axes in the
    plane, unless they run along the trace of a plane.

    Other crystals are drawn in three dimensions: screw axes are dashed lines, planes
    polygons, inversion centers dots. If there are many, screw axes and glide planes are
    left out, and the legend says so.

    **Arguments:**

    - `crystal`: the crystal; of its supercell one primitive cell is drawn.
    - `group`: operations to draw, by default all of the crystal,
        `SpaceGroup.of(crystal)`.
    - `domain`: a polyhedron to draw, with `vertices` in Bohr and `faces`, each the
        numbers of its vertices in order. By default none.
    - `layer`: whether to draw a layer or in three dimensions. By default a layer if
        there is vacuum along one lattice vector, at right angles to the others.

    **Returns:**

    A matplotlib figure; save it with `savefig`.

    **Raises:** `ValueError` if `group` belongs to another crystal, or `layer` is true
    without such vacuum.
    """
    group = SpaceGroup.of(crystal) if group is None else group
    group.check_crystal(crystal)
    axis = _vacuum_axis(crystal)
    if layer and axis is None:
        raise ValueError(
            "`layer` needs a crystal with vacuum of at least "
            f"{_VACUUM:.0f} Bohr along one lattice vector, at right angles to the "
            "others. Leave `layer` out to draw in three dimensions."
        )
    elements = symmetry_elements(group)
    if axis is None or layer is False:
        return draw_bulk(crystal, group, elements, domain)
    return _draw_layer(crystal, group, elements, domain, axis)


def _vacuum_axis(crystal: Crystal) -> int | None:
    """The lattice vector that alone crosses a vacuum, at right angles to the others."""
    vectors, heights = crystal.lattice.vectors, crystal.lattice.heights
    upright = np.abs(np.linalg.norm(vectors, axis=1) / heights - 1) < SAME_ELEMENT
    found = [i for i in range(3) if vacuum_gap(crystal, i)[0] >= _VACUUM]
    return found[0] if len(found) == 1 and upright[found[0]] else None


def _draw_layer(
    crystal: Crystal,
    group: SpaceGroup,
    elements: SymmetryElements,
    domain: Polyhedron | None,
    axis: int,
) -> "Figure":
    figure, axes = new_figure(1, 2, (8.4, 5.4), width_ratios=(5, 3))
    ax, beside = axes[0]
    first, second = (axis + 1) % 3, (axis + 2) % 3
    view = _view_from_above(crystal, axis)
    flat = crystal.lattice.vectors[[first, second]] @ view.T
    size = float(np.sqrt(abs(np.linalg.det(flat))))
    legend = Legend()

    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ flat
    _fill(ax, corners, "cell", fc="none", ec="black", lw=1.2, zorder=2)
    if domain is not None:
        outline = _hull(vertices_near_cell(crystal, domain) @ view.T)
        style = {"fc": DOMAIN_COLOR, "ec": "#b59a00", "alpha": 0.45, "lw": 1.0}
        _fill(ax, outline, "domain", zorder=1, **style)
        legend.patch("fundamental domain", **style)

    _draw_atoms_above(ax, crystal, axis, view, legend)
    _draw_triangles(ax, crystal, group, view, domain, legend)
    lines = _draw_plane_traces(ax, elements, axis, flat, legend)
    _draw_flat_axes(ax, elements, axis, flat, lines, size, legend)
    _draw_rotation_centers(ax, elements, axis, flat, legend)
    _list_flat_planes(elements, axis, legend)

    ax.set(
        aspect="equal",
        xlabel="x [Bohr]",
        ylabel="y [Bohr]",
        title=f"{formula(crystal)}, seen from above: {group.order} operations",
    )
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    beside.axis("off")
    legend.draw(beside, loc="center left", labelspacing=0.75)
    return figure


def _view_from_above(crystal: Crystal, axis: int) -> Float[np.ndarray, "2 3"]:
    """Unit vectors to the right and up, so that the lattice vector points at us."""
    towards = crystal.lattice.vectors[axis]
    right = crystal.lattice.vectors[(axis + 1) % 3]
    up = np.cross(towards, right)
    return np.array([right / np.linalg.norm(right), up / np.linalg.norm(up)])


def _fill(ax: Any, corners: np.ndarray, gid: str, **style: Any) -> None:
    from matplotlib.patches import Polygon

    ax.add_patch(Polygon(corners, closed=True, gid=gid, **style))


def _hull(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "corners 2"]:
    from scipy.spatial import ConvexHull

    return points[ConvexHull(points).vertices]


def _draw_atoms_above(
    ax: Any, crystal: Crystal, axis: int, view: np.ndarray, legend: Legend
) -> None:
    colors = species_colors(crystal)
    frac = crystal.lattice.to_fractional(crystal.cart_positions)
    for name, position in zip(crystal.species, frac, strict=True):
        images = closed_cell(position)
        images = images[np.abs(images[:, axis] - images[0, axis]) < SAME_ELEMENT]
        x, y = (crystal.lattice.to_cartesian(images) @ view.T).T
        style = {"ms": 15, "mfc": colors[name], "mec": "black", "mew": 0.8}
        ax.plot(x, y, "o", ls="none", gid=f"atom {name}", zorder=4, **style)
        legend.marker(name, marker="o", **style | {"ms": 10})


def _draw_triangles(
    ax: Any,
    crystal: Crystal,
    group: SpaceGroup,
    view: np.ndarray,
    domain: Polyhedron | None,
    legend: Legend,
) -> None:
    center, radius = motif_place(crystal, group, view, domain)
    radius = min(0.8 * radius, 0.12 * np.sqrt(crystal.lattice.volume ** (2 / 3)))
    corners = np.array([[1.0, 0.0], [-0.6, 0.75], [-0.75, -0.3]])
    triangle = radius * (corners - np.mean(corners, axis=0)) @ view
    normal = np.cross(*view)
    for rotation, shift in zip(
        group.cart_rotations, group.cart_translations, strict=True
    ):
        image = rotation @ center + shift
        wrapped = crystal.lattice.wrap(image)
        drawn = (wrapped + triangle @ rotation.T) @ view.T
        # As seen: turning over a layer makes its mirror image.
        above = bool(normal @ rotation @ normal > 0)
        hand = round(float(np.linalg.det(view @ rotation @ view.T)))
        color = HAND_COLORS[hand]
        style = {"ec": color, "lw": 1.0, "fc": color if above else "none"}
        _fill(ax, drawn, f"orbit {hand}", zorder=3, **style)
        side = "" if above else ", turned over"
        legend.patch(f"{'object' if hand > 0 else 'mirror image'}{side}", **style)


def _flat_lines(
    normal: np.ndarray, offset: float, flat: np.ndarray
) -> list[Float[np.ndarray, "2 2"]]:
    """The line `normal . x = offset` and its images inside the cell, in Bohr."""
    upright = np.array([*normal, 0])
    polygons = plane_polygons(upright, offset)
    return [p[np.abs(p[:, 2]) < SAME_ELEMENT][:, :2] @ flat for p in polygons]


def _draw_plane_traces(
    ax: Any, elements: SymmetryElements, axis: int, flat: np.ndarray, legend: Legend
) -> list[tuple[np.ndarray, float]]:
    """The traces drawn, as normal and offset."""
    drawn = []
    pair = [(axis + 1) % 3, (axis + 2) % 3]
    for plane in elements.planes:
        normal = plane.normal[pair]
        if plane.normal[axis] or not np.any(normal):
            continue
        drawn.append((normal, plane.offset))
        kind = "mirror" if plane.is_mirror else "glide"
        style = {
            "color": _PLANE_COLORS[plane.is_mirror],
            "ls": "-" if plane.is_mirror else (0, (5, 3)),
            "lw": 1.7 if plane.is_mirror else 1.3,
        }
        for ends in _flat_lines(normal, plane.offset, flat):
            ax.plot(*ends.T, gid=kind, zorder=2.5, **style)
        legend.line(f"{kind} plane", **style)
    return drawn


def _draw_flat_axes(
    ax: Any,
    elements: SymmetryElements,
    axis: int,
    flat: np.ndarray,
    traces: list[tuple[np.ndarray, float]],
    size: float,
    legend: Legend,
) -> None:
    """Two-fold axes in the plane: arrows at the border, unless the trace of a plane is
    on the same line."""
    pair = [(axis + 1) % 3, (axis + 2) % 3]
    seen: list[tuple[np.ndarray, float]] = []
    for one in elements.axes:
        along = one.direction[pair]
        if one.direction[axis] or not np.any(along):
            continue
        normal = np.array([-along[1], along[0]])
        if along[0] < 0 or (along[0] == 0 and along[1] < 0):
            normal = -normal
        line = (normal, float(normal @ one.point[pair]))
        if any(_same_line(line, other) for other in seen):
            continue
        seen.append(line)
        if any(_same_line(line, other) for other in traces):
            legend.line("(some also two-fold axes)", color="none")
            continue
        color, kind = ORDER_COLORS[2], "screw" if one.screw else "rotation"
        shape = "left" if one.screw else "full"
        for start, end in _flat_lines(*line, flat):
            for tip, tail in ((start, end), (end, start)):
                outward = (tip - tail) / np.linalg.norm(tip - tail) * 0.09 * size
                ax.arrow(
                    *(tip + 0.35 * outward),
                    *outward,
                    shape=shape,
                    width=0.004 * size,
                    head_width=0.05 * size,
                    head_length=0.05 * size,
                    length_includes_head=True,
                    color=color,
                    gid=f"flat {kind}",
                    clip_on=False,
                )
        marker = "$\\rightharpoonup$" if one.screw else "$\\rightarrow$"
        legend.marker(
            f"two-fold {kind} axis in the plane", marker=marker, ms=14, color=color
        )


def _same_line(one: tuple[np.ndarray, float], other: tuple[np.ndarray, float]) -> bool:
    for sign in (1, -1):
        if np.array_equal(one[0], sign * other[0]):
            gap = np.array([one[1] - sign * other[1]])
            return bool(is_whole(gap, SAME_ELEMENT))
    return False


def _draw_rotation_centers(
    ax: Any, elements: SymmetryElements, axis: int, flat: np.ndarray, legend: Legend
) -> None:
    pair = [(axis + 1) % 3, (axis + 2) % 3]
    names = {2: "two", 3: "three", 4: "four", 6: "six"}
    for one in elements.axes:
        if np.any(one.direction[pair]):
            continue
        color = ORDER_COLORS[one.order]
        style = {"mec": "white", "mew": 0.6, "mfc": color}
        sign = {"marker": _symbol(one.order), "ms": _SIZES[one.order], **style}
        frame = {"marker": _symbol(one.rotoinversion), "ms": 14, "mfc": "white"}
        frame |= {"mec": color, "mew": 1.2}
        for x, y in _closed_square(one.point[pair]) @ flat:
            if one.rotoinversion > one.order:
                ax.plot([x], [y], gid=f"rotoinversion {one.symbol}", zorder=5, **frame)
            ax.plot([x], [y], gid=f"rotation {one.order}", zorder=6, **sign)
        legend.marker(f"{names[one.order]}-fold axis", **sign)
        if one.rotoinversion > one.order:
            label = f"{names[one.rotoinversion]}-fold rotoinversion axis"
            legend.marker(label, **frame)
    style = {"marker": "o", "ms": 3.5, "mfc": "white", "mec": "black", "mew": 0.7}
    places = _distinct_places([center[pair] for center in elements.centers])
    for place in places:
        x, y = (_closed_square(place) @ flat).T
        ax.plot(x, y, ls="none", gid="inversion", zorder=7, **style)
        legend.marker("inversion center", **style)


def _closed_square(place: np.ndarray) -> Float[np.ndarray, "images 2"]:
    # Anywhere but on the border of the third lattice vector.
    return closed_cell(np.array([*place, 0.5]))[:, :2]


def _distinct_places(places: list[np.ndarray]) -> list[np.ndarray]:
    kept: list[np.ndarray] = []
    for place in places:
        if not any(is_whole(place - other, SAME_ELEMENT) for other in kept):
            kept.append(place)
    return kept


def _symbol(order: int) -> Any:
    """The printed sign of an axis seen end on, as a marker."""
    from matplotlib.path import Path

    if order == 2:
        codes = [Path.MOVETO, *[Path.CURVE3] * 4]
        lens = [(0, 1), (0.9, 0), (0, -1), (-0.9, 0), (0, 1)]
        return Path(np.array(lens), codes)
    return {0: "o", 3: "^", 4: "s", 6: "H"}[order]


def _list_flat_planes(elements: SymmetryElements, axis: int, legend: Legend) -> None:
    for plane in elements.planes:
        if np.count_nonzero(plane.normal) == 1 and plane.normal[axis]:
            kind = "mirror" if plane.is_mirror else "glide"
            legend.line(f"(also a horizontal {kind} plane)", color="none")
