"""Parts of pictures of crystals and their symmetry: images inside one cell, colors,
legends."""

import itertools
from collections import Counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from .._crystal import Crystal, from_nearest, inner_radius, into_cell, SAME_ELEMENT
from .._group import FundamentalDomain, integer_complement, SpaceGroup


ORDER_COLORS = {2: "#2e8b57", 3: "#1f6fc4", 4: "#8e44ad", 6: "#c8202f"}
HAND_COLORS = {1: "#4c72b0", -1: "#dd8452"}
DOMAIN_COLOR = "#f5d547"
_SPECIES_COLORS = ("#8f8f8f", "#f2c14e", "#7fc8c2", "#d7a6d9", "#b5d66b", "#f4a6a0")


@runtime_checkable
class Polyhedron(Protocol):
    """The part of a domain that is drawn."""

    @property
    def vertices(self) -> Float[np.ndarray, "vertices 3"]: ...

    @property
    def faces(self) -> tuple[tuple[int, ...], ...]: ...


def plane_axes(vectors: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "3 2"]:
    """Unit vectors in the plane of two vectors, the first one along x: points times
    these are coordinates in the plane."""
    x = vectors[0] / np.linalg.norm(vectors[0])
    rest = vectors[1] - (vectors[1] @ x) * x
    return np.stack([x, rest / np.linalg.norm(rest)], axis=1)


def formula(crystal: Crystal) -> str:
    counts = Counter(crystal.species)
    return "".join(f"{name}$_{{{n}}}$" if n > 1 else name for name, n in counts.items())


def species_colors(crystal: Crystal) -> dict[str, str]:
    names = dict.fromkeys(crystal.species)
    return {
        name: _SPECIES_COLORS[i % len(_SPECIES_COLORS)] for i, name in enumerate(names)
    }


class Legend:
    """Handles by label, each once, in the order in which they came."""

    def __init__(self):
        self.handles: dict[str, Any] = {}

    def line(self, label: str, **style: Any) -> None:
        from matplotlib.lines import Line2D

        self.handles.setdefault(label, Line2D([], [], **style))

    def marker(self, label: str, **style: Any) -> None:
        self.line(label, ls="none", **style)

    def patch(self, label: str, **style: Any) -> None:
        from matplotlib.patches import Patch

        self.handles.setdefault(label, Patch(**style))

    def draw(self, ax: Any, **place: Any) -> None:
        ax.legend(self.handles.values(), self.handles.keys(), frameon=False, **place)


def closed_cell(frac: Float[np.ndarray, "3"]) -> Float[np.ndarray, "images 3"]:
    """All images of a point inside the cell and on its border."""
    inside = into_cell(frac, SAME_ELEMENT)
    choices = [(x, x + 1) if abs(x) < SAME_ELEMENT else (x,) for x in inside.tolist()]
    return np.array(list(itertools.product(*choices)))


def axis_segments(
    direction: Int[np.ndarray, "3"], point: Float[np.ndarray, "3"]
) -> list[Float[np.ndarray, "2 3"]]:
    """The parts of a line and its images by lattice translations that lie inside the
    cell or on its border; ends in fractions of lattice vectors."""
    across = integer_complement(direction)
    back = np.linalg.pinv(across)
    segments = []
    for place in _integers_between(across, across @ point):
        segment = _clipped(back @ place, direction)
        if segment is not None:
            segments.append(segment)
    return segments


def plane_polygons(
    normal: Int[np.ndarray, "3"], offset: float
) -> list[Float[np.ndarray, "corners 3"]]:
    """The parts of the plane `normal . x = offset` and its images by lattice
    translations that lie inside the cell or on its border; corners in order, in
    fractions of lattice vectors."""
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    edges = [
        (a, b)
        for a, b in itertools.combinations(corners, 2)
        if np.sum(np.abs(a - b)) == 1
    ]
    polygons = []
    for (level,) in _integers_between(normal[None], np.array([offset])):
        crossings = []
        for a, b in edges:
            start, end = normal @ a - level, normal @ b - level
            if abs(start - end) < 1e-9:
                continue
            part = start / (start - end)
            if -SAME_ELEMENT <= part <= 1 + SAME_ELEMENT:
                crossings.append(a + np.clip(part, 0, 1) * (b - a))
        distinct = _distinct(np.array(crossings).reshape(-1, 3))
        if len(distinct) > 2:
            polygons.append(_in_order(distinct, normal))
    return polygons


def vertices_near_cell(
    crystal: Crystal, domain: Polyhedron
) -> Float[np.ndarray, "vertices 3"]:
    """Vertices in Bohr of the image of a domain whose middle is inside the cell."""
    vertices = np.asarray(domain.vertices, dtype=np.float64)
    middle = np.mean(vertices, axis=0)
    return vertices + crystal.lattice.wrap(middle) - middle


def motif_place(
    crystal: Crystal,
    group: SpaceGroup,
    plane: Float[np.ndarray, "some 3"],
    domain: Polyhedron | None,
) -> tuple[Float[np.ndarray, "3"], float]:
    """A point, in Bohr, whose images under a group are far from it and from nuclei, and
    the radius of circles about images that hold nothing else.

    Distances are between projections to the rows of `plane`. The point is inside
    `domain`, or anywhere.
    """
    rng = np.random.default_rng(0)
    if domain is None:
        points = crystal.lattice.to_cartesian(rng.uniform(size=(400, 3)))
    else:
        vertices = vertices_near_cell(crystal, domain)
        points = rng.dirichlet(np.ones(len(vertices)), size=400) @ vertices
    images = np.einsum("gij,nj->gni", group.cart_rotations, points)
    images = images + group.cart_translations[:, None]

    def nearest(gaps):
        # Vectors along the plane and at right angles to it are nearest together.
        gaps = from_nearest(crystal.lattice, gaps) @ plane.T
        lengths = np.linalg.norm(gaps, axis=-1)
        # The point itself, and images straight above or below.
        return np.min(np.where(lengths < 1e-6, np.inf, lengths), axis=0)

    own = np.minimum(nearest(images - points), 2 * inner_radius(crystal.lattice))
    nuclei = nearest(crystal.cart_positions[:, None] - points)
    free = np.minimum(own / 2, nuclei / 2)
    best = int(np.argmax(free))
    return points[best], float(free[best])


def domain_traces(
    domain: FundamentalDomain,
    origin: Float[np.ndarray, "3"],
    vectors: Float[np.ndarray, "2 3"],
) -> Float[np.ndarray, "segments 2 3"]:
    """The lines in which the faces of all images of a domain cut a parallelogram, and
    some beyond it: their ends in Bohr, each line once."""
    group, lattice = domain.group, domain.group.lattice
    normal = np.cross(*vectors)
    normal = normal / np.linalg.norm(normal)
    # A little off the plane: faces that lie in it have no lines, their edges do.
    origin = origin + 1e-5 * normal
    middle = origin + np.sum(vectors, axis=0) / 2
    images = np.einsum("gij,vj->gvi", group.cart_rotations, domain.vertices)
    images = images + group.cart_translations[:, None]
    frac = lattice.to_fractional(np.mean(images, axis=1) - middle)
    images = images - lattice.to_cartesian(np.round(frac))[:, None]
    size = max(np.linalg.norm(vectors.sum(0)), np.linalg.norm(vectors[0] - vectors[1]))
    reach = size / 2 + 2 * domain.circumradius
    spread = 0.5 * np.sum(np.linalg.norm(lattice.vectors, axis=1))
    shifts = lattice.points_within(reach + spread)
    centers = np.mean(images, axis=1)[:, None] + shifts
    which, shift = np.nonzero(np.linalg.norm(centers - middle, axis=-1) < reach)
    vertices = images[which] + shifts[shift][:, None]
    heights = (vertices - origin) @ normal
    segments: dict[bytes, np.ndarray] = {}
    for face in domain.faces:
        ring = list(face)
        above = heights[:, ring] > 0
        for n in np.flatnonzero(np.any(above, axis=1) & ~np.all(above, axis=1)):
            ends, level = vertices[n, ring], heights[n, ring]
            following, after = np.roll(ends, -1, axis=0), np.roll(level, -1)
            cut = np.flatnonzero((level > 0) != (after > 0))
            part = level[cut] / (level[cut] - after[cut])
            line = ends[cut] + part[:, None] * (following[cut] - ends[cut])
            line = line[np.lexsort(np.round(line, 5).T)]
            segments.setdefault((np.round(line, 4) + 0.0).tobytes(), line)
    return np.array(list(segments.values())).reshape(-1, 2, 3)


def _integers_between(
    rows: Int[np.ndarray, "some 3"], start: Float[np.ndarray, " some"]
) -> Float[np.ndarray, "places some"]:
    """All `start` plus integers to which `rows` takes some point of the cell, and maybe
    some more."""
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ rows.T
    lowest = np.ceil(np.min(corners, axis=0) - start - SAME_ELEMENT).astype(int)
    highest = np.floor(np.max(corners, axis=0) - start + SAME_ELEMENT).astype(int)
    ranges = [range(a, b + 1) for a, b in zip(lowest, highest, strict=True)]
    return start + np.array(list(itertools.product(*ranges))).reshape(-1, len(start))


def _clipped(
    point: Float[np.ndarray, "3"], direction: Int[np.ndarray, "3"]
) -> Float[np.ndarray, "2 3"] | None:
    along = direction != 0
    if np.any(np.abs(point[~along] - 0.5) > 0.5 + SAME_ELEMENT):
        return None
    first = -point[along] / direction[along]
    second = (1 - point[along]) / direction[along]
    low = np.max(np.minimum(first, second))
    high = np.min(np.maximum(first, second))
    if high - low < SAME_ELEMENT:
        return None
    return point + np.array([[low], [high]]) * direction


def _distinct(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "some 3"]:
    kept: list[np.ndarray] = []
    for point in points:
        if all(np.max(np.abs(point - other)) > SAME_ELEMENT for other in kept):
            kept.append(point)
    return np.array(kept).reshape(-1, 3)


def _in_order(
    points: Float[np.ndarray, "points 3"], normal: Int[np.ndarray, "3"]
) -> Float[np.ndarray, "points 3"]:
    """Points sorted around their center. Fractions will do: the corners of a convex
    polygon stay in order if it is stretched and sheared."""
    first, second = integer_complement(normal)
    gaps = points - np.mean(points, axis=0)
    frame = np.linalg.lstsq(np.array([first, second, normal]).T, gaps.T, rcond=None)[0]
    return points[np.argsort(np.arctan2(frame[1], frame[0]))]
