"""Pictures of electron densities. Need matplotlib, the extra `plot`."""

from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .._core import checked, Integer, Numbers, whole_number
from .._crystal import from_nearest, inner_radius, Lattice
from .._estimator import Density, Observed
from .figures import new_figure
from .parts import Legend, plane_axes, species_colors


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Nuclei closer to the plane than this, in Bohr, are drawn.
_IN_PLANE = 0.2
_LINES = 9
# Standard deviation of the kernel, and distance from the nearest grid point to others
# in the mean, in units of the shortest distance of grid points.
_WIDTH, _REACH = 0.4, 2.2


@checked
def plot_densities(
    density: Density,
    observed: dict[str, Observed],
    vectors: Numbers,
    *,
    origin: Numbers = (0.0, 0.0, 0.0),
    points: Integer = 161,
) -> "Figure":
    """Draws densities in a plane, side by side, in one color scale.

    The value drawn at a point is a mean over nearby grid points, weighted by a Gaussian
    of their distance with a standard deviation of 0.4 times the shortest distance of
    two grid points: the picture is as symmetric as the density. The scale is
    logarithmic, and so are the lines, by factors of two. Densities with values below
    zero (spin densities) have a linear scale about zero instead. If the grid has one
    point along a lattice vector, the integral along it is drawn. Nuclei in the plane
    are dots; with such an integral, all nuclei are.

    **Arguments:**

    - `density`: the observable.
    - `observed`: its results, by title.
    - `vectors`: (2, 3), the sides of the parallelogram to draw, in Bohr; it may be
        larger than a cell.
    - `origin`: its corner, in Bohr.
    - `points`: along each side.

    **Returns:**

    A matplotlib figure; save it with `savefig`.

    **Raises:** `ValueError` if there is nothing to draw, or something of another shape
    than the grid, and for vectors that do not span a plane.
    """
    if not observed:
        raise ValueError("`observed` must be at least one density, got none.")
    for name, one in observed.items():
        if one.mean.shape != density.shape:
            raise ValueError(
                f"`observed`: {name!r} must be on the grid {density.shape} of "
                f"`density`, got shape {one.mean.shape}."
            )
    sides, corner = np.asarray(vectors, float), np.asarray(origin, float)
    if sides.shape != (2, 3) or not np.linalg.norm(np.cross(*sides)) > 1e-9:
        raise ValueError(
            "`vectors` must be two independent vectors, (2, 3), the sides of a "
            f"parallelogram in Bohr, got {sides.tolist()}."
        )
    along = np.linspace(0, 1, whole_number("points", points, 2))
    places = along[:, None, None] * sides[0] + along[None, :, None] * sides[1]
    x, y = np.moveaxis(places @ plane_axes(sides), -1, 0)
    lengths = np.linalg.norm(density.lattice.vectors, axis=1)
    single = np.array(density.shape) == 1
    scale = float(np.prod(lengths[single]))
    values = [
        scale * value
        for value in _smoothed(
            density, [one.mean for one in observed.values()], corner + places
        )
    ]
    colors, lines = _scale(np.array(values))

    width = 3.8 * min(1.0, np.ptp(x) / np.ptp(y))
    size = (width * len(values) + 1.3, width * np.ptp(y) / np.ptp(x) + 1.1)
    figure, axes = new_figure(1, len(values), size, sharey=True)
    mesh, legend = None, Legend()
    nuclei = _nuclei(density, sides, corner, everywhere=bool(np.any(single)))
    for ax, title, found in zip(axes[0], observed, values, strict=True):
        mesh = ax.pcolormesh(x, y, found, shading="gouraud", rasterized=True, **colors)
        ax.contour(x, y, found, lines, colors="white", linewidths=0.5, alpha=0.7)
        for name, (color, spots) in nuclei.items():
            at = spots.T
            style = dict(color=color, edgecolors="black", linewidths=0.6, s=26)
            ax.scatter(*at, gid=f"atom {name}", zorder=3, clip_on=False, **style)
            legend.marker(name, marker="o", ms=5, mfc=color, mec="black", mew=0.6)
        ax.set(title=title, xlabel="Bohr", aspect="equal")
        ax.set(xlim=(np.min(x), np.max(x)), ylim=(np.min(y), np.max(y)))
    axes[0, 0].set_ylabel("Bohr")
    figure.legend(
        legend.handles.values(),
        legend.handles.keys(),
        loc="outside lower center",
        ncols=max(1, len(nuclei)),
        frameon=False,
        handletextpad=0.1,
    )
    power = 3 - int(np.sum(single))
    unit = "electrons" if power == 0 else f"electrons per Bohr$^{power}$"
    figure.colorbar(mesh, ax=axes.ravel().tolist(), label=unit, pad=0.02)
    return figure


def _smoothed(
    density: Density,
    values: list[Float[np.ndarray, "n1 n2 n3"]],
    points: Float[np.ndarray, "rows columns 3"],
) -> list[Float[np.ndarray, "rows columns"]]:
    sizes = np.array(density.shape)
    fine = Lattice(density.lattice.vectors / sizes[:, None])
    frac = density.lattice.to_fractional(points.reshape(-1, 3))
    # Everywhere the same along vectors that are integrated over.
    flat = density.lattice.to_cartesian(np.where(sizes > 1, frac, 0))
    gaps = from_nearest(fine, flat)
    nearest = np.round(fine.to_fractional(flat - gaps)).astype(int)
    shortest = 2 * inner_radius(fine)
    around = fine.points_within(_REACH * shortest)
    square = np.sum((gaps[:, None] - around) ** 2, axis=-1) / shortest**2
    least = np.min(square, axis=1, keepdims=True)
    weights = np.exp((least - square) / (2 * _WIDTH**2))
    weights /= np.sum(weights, axis=1, keepdims=True)
    steps = np.round(fine.to_fractional(around)).astype(int)
    places = tuple(np.moveaxis((nearest[:, None] + steps) % sizes, -1, 0))
    means = [np.sum(weights * value[places], axis=1) for value in values]
    return [mean.reshape(points.shape[:-1]) for mean in means]


def _scale(
    values: Float[np.ndarray, "..."],
) -> tuple[dict[str, Any], Float[np.ndarray, " lines"]]:
    """Colors, and the values of lines."""
    from matplotlib.colors import LogNorm

    high = float(np.max(np.abs(values)))
    if np.min(values) < 0:
        lines = np.linspace(-high, high, _LINES + 2)[1:-1]
        return {"cmap": "RdBu_r", "vmin": -high, "vmax": high}, lines
    lines = high * 2.0 ** np.arange(-_LINES, 0)
    norm = LogNorm(lines[0], high, clip=True)
    return {"cmap": "viridis", "norm": norm}, lines[1:]


def _nuclei(
    density: Density,
    sides: Float[np.ndarray, "2 3"],
    corner: Float[np.ndarray, "3"],
    *,
    everywhere: bool,
) -> dict[str, tuple[str, Float[np.ndarray, "some 2"]]]:
    """By species: the color, and places in the plane of nuclei inside the
    parallelogram or on its border."""
    crystal = density.crystal
    reach = np.sum(np.linalg.norm(sides, axis=1)) + np.linalg.norm(corner)
    reach += np.max(np.linalg.norm(crystal.cart_positions, axis=1))
    shifts = crystal.lattice.points_within(reach)
    normal = np.cross(*sides)
    normal /= np.linalg.norm(normal)
    found = {}
    for name, color in species_colors(crystal).items():
        own = crystal.cart_positions[np.array(crystal.species) == name]
        gaps = (own[:, None] + shifts - corner).reshape(-1, 3)
        if not everywhere:
            gaps = gaps[np.abs(gaps @ normal) < _IN_PLANE]
        frac = np.linalg.lstsq(sides.T, gaps.T, rcond=None)[0].T
        gaps = gaps[np.all(np.abs(frac - 0.5) < 0.5 + 1e-6, axis=1)]
        if len(gaps):
            spots = gaps @ plane_axes(sides)
            found[name] = color, np.unique(np.round(spots, 6), axis=0)
    return found
