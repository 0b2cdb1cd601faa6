"""Pictures of space groups in three dimensions."""

import itertools
from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .._crystal import Crystal
from .._group import SpaceGroup, SymmetryElements
from .figures import new_figure
from .parts import (
    axis_segments,
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


_CORNERS = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
_TETRAHEDRON = np.array(
    [[1, 0, 0.2], [-0.6, 0.8, -0.1], [-0.5, -0.6, 0.3], [0, 0.1, -1]]
)
_PLANES = {True: ("mirror", "#2a6fb0"), False: ("glide", "#d9822b")}
# With more lines or polygons than this, screw axes and glide planes are left out.
_MOST_LINES, _MOST_POLYGONS = 60, 20


def draw_bulk(
    crystal: Crystal,
    group: SpaceGroup,
    elements: SymmetryElements,
    domain: Polyhedron | None,
) -> "Figure":
    """See `eqsym.plot.group`."""
    titles = [f"{formula(crystal)}, {group.order} operations"]
    titles += ["axes"] * bool(elements.axes)
    flat = ["planes"] * bool(elements.planes)
    flat += ["inversion centers"] * (len(elements.centers) > 0)
    titles += [" and ".join(flat)] * bool(flat)
    figure, axes = new_figure(
        1,
        len(titles),
        (4.7 * len(titles), 5.4),
        subplot_kw={"projection": "3d", "proj_type": "ortho"},
    )
    corners = crystal.lattice.to_cartesian(_CORNERS)
    if domain is not None:
        corners = np.concatenate([corners, vertices_near_cell(crystal, domain)])
    lowest, highest = np.min(corners, axis=0), np.max(corners, axis=0)
    for ax, title in zip(axes[0], titles, strict=True):
        legend = Legend()
        structure = ax is axes[0, 0]
        _draw_cell(ax, crystal)
        if structure:
            if domain is not None:
                _draw_domain(ax, crystal, domain, legend)
            _draw_tetrahedra(ax, crystal, group, domain, legend)
        elif title == "axes":
            _draw_axes(ax, crystal, elements, legend)
        else:
            _draw_planes(ax, crystal, elements, legend)
        _draw_atoms(ax, crystal, legend if structure else None)
        # Depth decides what hides what among solids; lines and planes hide nothing.
        ax.computed_zorder = structure
        ax.set(
            title=title,
            xlim=(lowest[0], highest[0]),
            ylim=(lowest[1], highest[1]),
            zlim=(lowest[2], highest[2]),
        )
        ax.set_axis_off()
        ax.view_init(elev=16, azim=-75)
        ax.set_box_aspect(highest - lowest)
        seen = np.insert(corners, 3, 1.0, axis=1) @ ax.get_proj().T
        extent = np.max(np.abs(seen[:, :2] / seen[:, 3:]))
        zoom = 0.93 * ax.viewLim.xmax / extent
        ax.set_box_aspect(highest - lowest, zoom=zoom)
        legend.draw(ax, loc="upper center", bbox_to_anchor=(0.5, 0.06), ncols=3)
    return figure


def _draw_cell(ax: Any, crystal: Crystal) -> None:
    for a, b in itertools.combinations(_CORNERS, 2):
        if np.sum(np.abs(a - b)) == 1:
            ends = crystal.lattice.to_cartesian(np.array([a, b]))
            ax.plot(*ends.T, color="black", lw=0.8, gid="cell", zorder=1)


def _draw_atoms(ax: Any, crystal: Crystal, legend: Legend | None) -> None:
    colors = species_colors(crystal)
    frac = crystal.lattice.to_fractional(crystal.cart_positions)
    for name, position in zip(crystal.species, frac, strict=True):
        points = crystal.lattice.to_cartesian(closed_cell(position))
        style = {"color": colors[name], "edgecolors": "black", "linewidths": 0.6}
        style |= {"depthshade": False, "gid": f"atom {name}", "zorder": 4}
        if legend is None:
            ax.scatter(*points.T, s=50, alpha=0.7, **style)
        else:
            ax.scatter(*points.T, s=140, **style)
            legend.marker(name, marker="o", ms=8, mfc=colors[name], mec="black")


def _draw_domain(ax: Any, crystal: Crystal, domain: Polyhedron, legend: Legend) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    vertices = vertices_near_cell(crystal, domain)
    faces = [vertices[list(face)] for face in domain.faces]
    style = {"facecolor": DOMAIN_COLOR, "edgecolor": "#8a7600", "alpha": 0.35}
    ax.add_collection3d(Poly3DCollection(faces, linewidths=0.8, gid="domain", **style))
    legend.patch("fundamental domain", **style)


def _draw_tetrahedra(
    ax: Any,
    crystal: Crystal,
    group: SpaceGroup,
    domain: Polyhedron | None,
    legend: Legend,
) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    center, radius = motif_place(crystal, group, np.eye(3), domain)
    radius = min(radius, 0.15 * np.cbrt(crystal.lattice.volume))
    solid = radius * (_TETRAHEDRON - np.mean(_TETRAHEDRON, axis=0))
    for rotation, shift in zip(
        group.cart_rotations, group.cart_translations, strict=True
    ):
        wrapped = crystal.lattice.wrap(rotation @ center + shift)
        faces = [_outward(face) for face in itertools.combinations(solid, 3)]
        hand = round(float(np.linalg.det(rotation)))
        # A mirror image turns corners around: the other way outward.
        faces = [wrapped + face[::hand] @ rotation.T for face in faces]
        color = HAND_COLORS[hand]
        ax.add_collection3d(
            Poly3DCollection(
                faces, facecolors=color, shade=True, gid=f"orbit {hand}", linewidths=0
            )
        )
        legend.patch("object" if hand > 0 else "mirror image", facecolor=color)


def _outward(face: tuple[np.ndarray, ...]) -> Float[np.ndarray, "3 3"]:
    """Corners counterclockwise seen from outside of a solid about the origin."""
    corners = np.array(face)
    return corners if np.linalg.det(corners) > 0 else corners[::-1]


def _draw_axes(
    ax: Any, crystal: Crystal, elements: SymmetryElements, legend: Legend
) -> None:
    drawn = [(one, axis_segments(one.direction, one.point)) for one in elements.axes]
    crowded = sum(len(segments) for _, segments in drawn) > _MOST_LINES
    for one, segments in drawn:
        if crowded and one.screw:
            continue
        style = {
            "color": ORDER_COLORS[max(one.order, one.rotoinversion)],
            "ls": (0, (4, 2)) if one.screw else "-",
            "lw": 1.2 if one.screw else 1.0 + 0.4 * one.order,
        }
        for segment in segments:
            ends = crystal.lattice.to_cartesian(segment)
            ax.plot(*ends.T, gid=f"axis {one.symbol}", zorder=2, **style)
        legend.line(_in_math(one.symbol), **style)
    if crowded and any(one.screw for one in elements.axes):
        legend.line("(screw axes not drawn)", color="none")


def _in_math(symbol: str) -> str:
    """`-4` with the bar above, `6_3` with the index below."""
    return rf"$\bar{{{symbol[1:]}}}$" if symbol.startswith("-") else f"${symbol}$"


def _draw_planes(
    ax: Any, crystal: Crystal, elements: SymmetryElements, legend: Legend
) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    drawn = [(one, plane_polygons(one.normal, one.offset)) for one in elements.planes]
    crowded = sum(len(polygons) for _, polygons in drawn) > _MOST_POLYGONS
    mirrors = any(one.is_mirror for one in elements.planes)
    for one, polygons in drawn:
        if crowded and mirrors and not one.is_mirror:
            continue
        kind, color = _PLANES[one.is_mirror]
        style = {"facecolor": color, "edgecolor": color, "alpha": 0.2}
        for polygon in polygons:
            corners = crystal.lattice.to_cartesian(polygon)
            ax.add_collection3d(
                Poly3DCollection([corners], gid=kind, zorder=2, **style)
            )
        legend.patch(f"{kind} plane", **style)
    for center in elements.centers:
        points = crystal.lattice.to_cartesian(closed_cell(center))
        style = {"color": "white", "edgecolors": "black", "linewidths": 0.8}
        style |= {"depthshade": False, "gid": "inversion", "zorder": 5}
        ax.scatter(*points.T, s=16, **style)
        legend.marker("inversion center", marker="o", ms=4, mfc="white", mec="black")
    if crowded and mirrors and not all(one.is_mirror for one in elements.planes):
        legend.line("(glide planes not drawn)", color="none")
