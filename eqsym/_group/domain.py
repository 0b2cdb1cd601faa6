"""Fundamental domains of space groups."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.spatial
from jaxtyping import Array, Bool, Float, Int

from .._core import AbstractFixed, AbstractSummarized, checked, Numbers, precise_einsum
from .._crystal import from_nearest, Lattice
from .operations import static_data
from .space_group import SpaceGroup


# Points that an operation moves by less than this (Bohr) count as fixed by it.
_FIXED = 1e-3
# Vertices closer than this, in units of the cube root of the volume, are one.
_MERGE = 1e-7
# Candidates for the point, and the shortest edge, and twice the smallest distance of a
# face from the point, that are good enough, in units of the cube root of the volume.
_CANDIDATES = 64
_GOOD = 0.1
# Images that a cell begins with; others are added if they cut something off.
_NEAREST = 100


class FundamentalDomain(AbstractFixed, AbstractSummarized):
    r"""A convex polyhedron D whose images under a space group tile space: moving an
    electron into it chooses one of its symmetric places.

    D is the Dirichlet cell of a point c that every operation moves,

    $$D = \{r : |r - c| \le |r - g c| \text{ for all } g\}
        = \{r : n_f \cdot r \le b_f \text{ for all faces } f\}$$

    where g runs over the operations of the group times all translations of its lattice.
    Its volume is the volume of the cell divided by the number of operations. Images
    share boundaries only. Mirror planes are always faces; other faces depend on c.

    All data is static, in Bohr: domains are hashable, compare by value, and are
    constants of compiled functions.

    Engel, "Geometric Crystallography" (1986), chapter 5; its use for wave functions:
    Huang et al. (2025), arXiv 2502.05318.
    """

    group: SpaceGroup
    _point: tuple[float, ...] = eqx.field(static=True)
    _normals: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    _offsets: tuple[float, ...] = eqx.field(static=True)
    _vertices: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    _faces: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @checked
    def __init__(self, group: SpaceGroup, point: Numbers):
        """**Arguments:**

        - `group`: the space group.
        - `point`: the point c, three numbers in Bohr.

        [`eqsym.FundamentalDomain.of`][] finds a point that makes a simple domain.

        **Raises:** `ValueError` if an operation does not move `point`.
        """
        center = np.asarray(point, dtype=np.float64)
        if center.shape != (3,) or not np.all(np.isfinite(center)):
            raise ValueError(
                f"`point` must be three finite numbers in Bohr, got {point}."
            )
        operations = _Operations(group)
        moved = operations.distances(center)
        if np.min(moved) < _FIXED:
            i = int(np.argmin(moved))
            raise ValueError(
                "`point` must be a generic point, which every operation moves by at "
                f"least {_FIXED} Bohr, but operation {i} with rotation "
                f"{group.frac_rotations[i].tolist()} moves {center.tolist()} by "
                f"{moved[i]:.3g} Bohr, up to a lattice translation. Choose a point off "
                "the axes, planes and centers of symmetry, or leave it out of "
                "`FundamentalDomain.of`."
            )
        cell = _dirichlet_cell(operations, center)
        volume = scipy.spatial.ConvexHull(cell.vertices).volume
        expected = operations.lattice.volume / group.order
        if not (abs(volume / expected - 1) < 1e-6 and cell.is_closed):
            raise ValueError(
                "`point` must be a generic point, but around "
                f"{center.tolist()} some faces or edges of the domain are so small "
                f"that rounding decides about them: its volume is {volume:.8g} cubic "
                f"Bohr, and should be {expected:.8g}. "
                "Leave it out of `FundamentalDomain.of`."
            )
        self.group = group
        self._point = static_data(center)
        self._normals = static_data(cell.normals)
        self._offsets = static_data(cell.offsets + cell.normals @ center)
        self._vertices = static_data(cell.vertices + center)
        self._faces = cell.faces

    @classmethod
    @checked
    def of(
        cls, group: SpaceGroup, *, point: Numbers | None = None
    ) -> "FundamentalDomain":
        """A domain with few faces and without short edges.

        **Arguments:**

        - `group`: the space group.
        - `point`: the point c in Bohr. By default the best of a fixed list of
            candidates: the one with the fewest faces, among candidates without short
            edges and without images of the point nearby.

        **Raises:** `ValueError` if an operation does not move `point`.
        """
        return cls(group, _best_point(_Operations(group)) if point is None else point)

    def _summary(self) -> str:
        sizes = f"{len(self._faces)} faces, {len(self._vertices)} vertices"
        return f"{sizes}, {self.volume:.6g} cubic Bohr, {self.group!r}"

    @property
    def point(self) -> Float[np.ndarray, "3"]:
        """The point c in Bohr."""
        return np.array(self._point)

    @property
    def normals(self) -> Float[np.ndarray, "faces 3"]:
        """Unit vectors $n_f$ out of the domain."""
        return np.array(self._normals)

    @property
    def offsets(self) -> Float[np.ndarray, " faces"]:
        """The $b_f$ in Bohr."""
        return np.array(self._offsets)

    @property
    def vertices(self) -> Float[np.ndarray, "vertices 3"]:
        """Corners in Bohr."""
        return np.array(self._vertices)

    @property
    def faces(self) -> tuple[tuple[int, ...], ...]:
        """For each face the numbers of its vertices, counterclockwise as seen from
        outside."""
        return self._faces

    @property
    def volume(self) -> float:
        """Volume in cubic Bohr."""
        return float(scipy.spatial.ConvexHull(self.vertices).volume)

    @property
    def inradius(self) -> float:
        """Radius of the largest ball inside, in Bohr."""
        found = scipy.optimize.linprog(
            [0.0, 0.0, 0.0, -1.0],
            A_ub=np.column_stack([self.normals, np.ones(len(self.offsets))]),
            b_ub=self.offsets - self.normals @ self.point,
            bounds=[(None, None)] * 3 + [(0, None)],
        )
        return float(found.x[3])

    @property
    def circumradius(self) -> float:
        """Largest distance of a vertex from the point c, in Bohr."""
        return float(np.max(np.linalg.norm(self.vertices - self.point, axis=1)))

    @checked
    def excess(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch faces"]:
        r"""How far points are outside of each face, $n_f \cdot r - b_f$; negative
        inside.

        **Arguments:**

        - `points`: in Bohr. They are not moved into the domain by any operation.

        **Returns:**

        Lengths in Bohr.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        normals = jnp.asarray(self.normals, points.dtype)
        offsets = jnp.asarray(self.offsets, points.dtype)
        along = precise_einsum("...i,fi->...f", points, normals)
        return along - jnp.broadcast_to(offsets, along.shape)

    @checked
    def distance(self, points: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        r"""$d(r, D) = \sum_f \max(0, n_f \cdot r - b_f)$, which is 0 in the domain and
        positive elsewhere (Huang et al. (2025), arXiv 2502.05318). For an image of the
        domain, $d(r, g D) = d(g^{-1} r, D)$.

        **Arguments:**

        - `points`: in Bohr.

        **Returns:**

        Lengths in Bohr.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        return jnp.sum(jax.nn.relu(self.excess(points)), axis=-1)

    @checked
    def contains(self, points: Float[Array, "*batch 3"]) -> Bool[Array, "*batch"]:
        """Whether points, in Bohr, lie in the domain, boundary included."""
        return jnp.all(self.excess(points) <= 0, axis=-1)


class _Operations:
    """The operations of a group in Bohr, made exact.

    Groups are as precise as the positions of nuclei from which they were found. Faces
    that should meet in a point would then enclose slivers.
    """

    rotations: Float[np.ndarray, "ops 3 3"]
    translations: Float[np.ndarray, "ops 3"]
    lattice: Lattice

    def __init__(self, group: SpaceGroup):
        columns = group.lattice.vectors.T
        frac_rotations = np.linalg.inv(columns) @ group.cart_rotations @ columns
        integers = np.round(frac_rotations).astype(int)
        translations = group.lattice.to_fractional(group.cart_translations)

        # The metric of lattice vectors, averaged over the group.
        metric = np.mean(
            np.swapaxes(integers, 1, 2) @ (columns.T @ columns) @ integers, axis=0
        )
        turn, _ = scipy.linalg.polar(columns.T, side="left")
        values, modes = np.linalg.eigh(metric)
        vectors = (modes * np.sqrt(values)) @ modes.T @ turn

        exact = _exact_translations(integers, translations)
        self.rotations = vectors.T @ integers @ np.linalg.inv(vectors.T)
        self.translations = exact @ vectors
        self.lattice = Lattice(vectors).reduced()

    def neighbors(
        self, point: Float[np.ndarray, "3"], shifts: Float[np.ndarray, "shifts 3"]
    ) -> Float[np.ndarray, "points 3"]:
        """Images of a point relative to it, each moved near to it and then by all
        shifts; without the point itself."""
        gaps = self._near(point)[:, None] + shifts
        gaps = gaps.reshape(-1, 3)
        return gaps[np.sum(gaps**2, axis=1) > (0.5 * _FIXED) ** 2]

    def distances(self, point: Float[np.ndarray, "3"]) -> Float[np.ndarray, " ops"]:
        """How far operations move a point, up to lattice translations; infinity for
        the identity."""
        gaps = self.rotations @ point + self.translations - point
        moved = np.linalg.norm(from_nearest(self.lattice, gaps), axis=1)
        identity = np.all(np.abs(self.rotations - np.eye(3)) < 1e-6, axis=(1, 2))
        # Other translations move all points alike, and never by 0.
        return np.where(identity & (moved < _FIXED), np.inf, moved)

    def _near(self, point: Float[np.ndarray, "3"]) -> Float[np.ndarray, "ops 3"]:
        gaps = self.rotations @ point + self.translations - point
        frac = self.lattice.to_fractional(gaps)
        return self.lattice.to_cartesian(frac - np.round(frac))


# Of a reduced lattice: all vectors that bound its Voronoi cell are among them.
_AROUND = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3), axis=-1).reshape(-1, 3)


class _Cell(NamedTuple):
    """A polyhedron around the origin."""

    normals: Float[np.ndarray, "faces 3"]
    offsets: Float[np.ndarray, " faces"]
    vertices: Float[np.ndarray, "vertices 3"]
    faces: tuple[tuple[int, ...], ...]

    @property
    def is_closed(self) -> bool:
        """Whether each edge belongs to two faces, which run along it in opposite
        directions. Vertices as close as rounding may leave it open."""
        pairs = [zip(face, (*face[1:], face[0]), strict=True) for face in self.faces]
        edges = [edge for face in pairs for edge in face]
        reverse = {(b, a) for a, b in edges}
        return len(set(edges)) == len(edges) and reverse == set(edges)

    @property
    def quality(self) -> float:
        """The shortest edge, or twice the distance to the nearest face if that is
        less."""
        rings = [self.vertices[list(face)] for face in self.faces]
        edges = [
            np.linalg.norm(ring - np.roll(ring, 1, axis=0), axis=1) for ring in rings
        ]
        return float(min(np.min(np.concatenate(edges)), 2 * np.min(self.offsets)))


def _dirichlet_cell(
    operations: _Operations, point: Float[np.ndarray, "3"], *, exact: bool = True
) -> _Cell:
    """The cell of points nearer to `point` than to all its images, relative to it.

    Not `exact`: with images by the nearest lattice translations only, which is the same
    for all but a few cells, and never smaller.
    """
    around = operations.lattice.to_cartesian(_AROUND)
    images = operations.neighbors(point, around)
    cell = _cut(images, around[np.any(around != 0, axis=1)])
    if not exact:
        return cell
    # An image twice as far away as the farthest vertex cuts nothing off, and `_near`
    # leaves images within half the sum of lengths of the cell's vectors.
    reach = 2 * np.max(np.linalg.norm(cell.vertices, axis=1))
    spread = 0.5 * np.sum(np.linalg.norm(operations.lattice.vectors, axis=1))
    shifts = operations.lattice.points_within(reach + spread)
    images = operations.neighbors(point, shifts)
    images = images[np.sum(images**2, axis=1) <= (1.01 * reach) ** 2]
    return _cut(images, around[np.any(around != 0, axis=1)])


def _cut(
    images: Float[np.ndarray, "images 3"], bounding: Float[np.ndarray, "some 3"]
) -> _Cell:
    """The cell of points nearer to the origin than to all `images`. The images in
    `bounding` alone give a finite cell."""
    square = np.sum(images**2, axis=1)
    order = np.argsort(square, kind="stable")
    images, square = images[order], square[order]
    used = np.concatenate([bounding, images[:_NEAREST]])
    while True:
        lengths = np.linalg.norm(used, axis=1)
        cell = polyhedron(used / lengths[:, None], lengths / 2)
        # The images that cut a vertex off.
        size = np.max(np.linalg.norm(cell.vertices, axis=1))
        beyond = np.max(images @ cell.vertices.T, axis=1) - square / 2
        cutting = images[beyond > _MERGE * size * np.sqrt(square)]
        if len(cutting) == 0:
            return cell
        used = np.concatenate([cell.normals * 2 * cell.offsets[:, None], cutting])


def polyhedron(
    normals: Float[np.ndarray, "planes 3"], offsets: Float[np.ndarray, " planes"]
) -> _Cell:
    """The points with `normals . r <= offsets`, which are positive."""
    scale = np.min(offsets)
    planes = np.column_stack([normals, -offsets / scale])
    corners = scipy.spatial.HalfspaceIntersection(planes, np.zeros(3)).intersections
    corners = corners * scale
    merge = _MERGE * np.max(np.linalg.norm(corners, axis=1))
    close = scipy.spatial.distance.cdist(corners, corners) < merge
    vertices = corners[np.argmax(close, axis=1) == np.arange(len(corners))]
    touching = np.abs(vertices @ normals.T - offsets) < 2 * merge
    # Each plane once, without planes that meet the polyhedron in a vertex or an edge.
    _, first = np.unique(touching, axis=1, return_index=True)
    kept = np.sort(first[touching[:, first].sum(axis=0) > 2])
    faces = tuple(_ring(vertices, touching[:, f], normals[f]) for f in kept)
    return _Cell(normals[kept], offsets[kept], vertices, faces)


def _ring(
    vertices: Float[np.ndarray, "vertices 3"],
    touching: Bool[np.ndarray, " vertices"],
    normal: Float[np.ndarray, "3"],
) -> tuple[int, ...]:
    """Numbers of the vertices of a face, counterclockwise around its normal."""
    members = np.flatnonzero(touching)
    spokes = vertices[members] - np.mean(vertices[members], axis=0)
    first = spokes[0] - (spokes[0] @ normal) * normal
    angles = np.arctan2(spokes @ np.cross(normal, first), spokes @ first)
    return tuple(members[np.argsort(angles)].tolist())


def _best_point(operations: _Operations) -> Float[np.ndarray, "3"]:
    """A generic point whose cell has few faces and no short edge."""
    size = np.cbrt(operations.lattice.volume / len(operations.rotations))
    # Fractions of the golden kind: evenly spread, and never special.
    steps = np.sqrt([2.0, 3.0, 5.0])
    best, best_score = None, None
    for n in range(1, _CANDIDATES + 1):
        point = operations.lattice.to_cartesian(np.mod(n * steps, 1.0))
        if np.min(operations.distances(point)) < max(_FIXED, 1e-2 * size):
            continue
        cell = _dirichlet_cell(operations, point, exact=False)
        quality = cell.quality / size
        score = (quality > _GOOD, -len(cell.faces) if quality > _GOOD else 0, quality)
        if best_score is None or score > best_score:
            best, best_score = point, score
    assert best is not None
    return best


def _exact_translations(
    rotations: Int[np.ndarray, "ops 3 3"], translations: Float[np.ndarray, "ops 3"]
) -> Float[np.ndarray, "ops 3"]:
    r"""Translations, in fractions, with which products of operations are operations to
    rounding.

    With $g_i g_j = g_k$ up to the lattice vector $n_{ij} = t_i + R_i t_j - t_k$, the
    mean over j is $t_i = (1 - R_i) u + \bar n_i$ for the mean u of all translations: an
    origin, and fractions with a denominator of the order of the group.
    """
    order = len(rotations)
    products = np.einsum("iab,jbc->ijac", rotations, rotations).reshape(-1, 9)
    _, kinds = np.unique(
        np.concatenate([rotations.reshape(-1, 9), products]),
        axis=0,
        return_inverse=True,
    )
    own, kinds = kinds[:order], kinds[order:].reshape(order, order)
    members = np.argsort(own, kind="stable").reshape(own.max() + 1, -1)
    shifted = np.einsum("iab,jb->ija", rotations, translations) + translations[:, None]
    excess = shifted[:, :, None] - translations[members[kinds]]
    whole = np.round(excess)
    right = np.argmin(np.sum((excess - whole) ** 2, axis=-1), axis=-1)
    steps = np.take_along_axis(whole, right[..., None, None], axis=2)[:, :, 0]
    origin = np.mean(translations, axis=0)
    return origin - rotations @ origin + np.mean(steps, axis=1)
