"""Figures of scans, training runs and sectors. Need matplotlib, the extra `plot`."""

from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .._core import checked, Integer, whole_number
from .._estimator import Sectors, TranslationScan
from .._group import FundamentalDomain
from .parts import domain_traces, plane_axes


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked
def plot_scans(
    scans: dict[str, TranslationScan],
    *,
    domain: FundamentalDomain | None = None,
    difference: bool = False,
) -> "Figure":
    """Draws scans side by side, in one color scale; a second row has the local
    energies, if all scans have them.

    **Arguments:**

    - `scans`: scans over the same parallelogram, by title.
    - `domain`: a fundamental domain, the images of which are drawn over the scans as
        the lines in which they cut the parallelogram. Its group must leave the
        configuration invariant, and be without fractional translations.
    - `difference`: whether to add, for two scans, the second one minus the first.

    **Returns:**

    A matplotlib figure; save it with `savefig`.

    **Raises:** `ValueError` for a difference of anything but two scans.
    """
    titles = list(scans)
    if difference and len(scans) != 2:
        raise ValueError(f"`difference` needs 2 scans, got {len(scans)}: {titles}.")
    rows = [(r"$\log\,|\psi|^2$", [s.log_density for s in scans.values()])]
    energies = [s.local_energy for s in scans.values() if s.local_energy is not None]
    if len(energies) == len(scans):
        rows.append(("local energy [Ha per cell]", energies))
    columns = len(scans) + difference
    figure, axes = new_figure(
        len(rows),
        columns,
        (4.2 * columns + 0.8, 4.2 * len(rows) + 0.4),
        sharex=True,
        sharey=True,
    )
    for line, (label, values) in zip(axes, rows, strict=True):
        _draw_maps(figure, line[: len(scans)], scans, values, label)
        if difference:
            _, second = scans.values()
            gap = values[1] - values[0]
            title = f"{titles[1]} minus {titles[0]}"
            _draw_maps(figure, line[-1:], {title: second}, [gap], label, signed=True)
    for ax, scan in zip(axes.flat, [*scans.values()] * 2 * len(rows), strict=False):
        if domain is not None:
            _draw_domain(ax, domain, scan)
    for ax in axes[-1]:
        ax.set_xlabel("translation [Bohr]")
    for ax in axes[:, 0]:
        ax.set_ylabel("translation [Bohr]")
    return figure


def _draw_maps(
    figure: Any,
    axes: Any,
    scans: dict[str, TranslationScan],
    values: list[Float[np.ndarray, "points points"]],
    label: str,
    signed: bool = False,
) -> None:
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    # Nodes and coalescences reach to infinity: single points do not set the scale.
    low, high = np.percentile(finite, [3, 97])
    if signed:
        high = max(-low, high, 1e-6)
        low = -high
    mesh = None
    for ax, (title, scan), value in zip(axes, scans.items(), values, strict=True):
        x, y = _plane(scan.vectors, len(value))
        drawn = np.nan_to_num(value, nan=low, neginf=low, posinf=high)
        mesh = ax.pcolormesh(
            x,
            y,
            drawn,
            vmin=low,
            vmax=high,
            shading="nearest",
            cmap="RdBu_r" if signed else "viridis",
            rasterized=True,
        )
        if not signed:
            levels = np.linspace(low, high, 10)[1:-1]
            style = {"colors": "white", "linewidths": 0.4, "alpha": 0.6}
            ax.contour(x, y, drawn, levels, **style)
        ax.set(title=title, aspect="equal")
    figure.colorbar(mesh, ax=list(axes), label=label, shrink=0.9)


def _draw_domain(ax: Any, domain: FundamentalDomain, scan: TranslationScan) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Polygon

    frame = plane_axes(scan.vectors)
    traces = domain_traces(domain, scan.origin, scan.vectors) - scan.origin
    lines = LineCollection(list(traces @ frame), colors="black", linewidths=0.6)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ scan.vectors @ frame
    ax.add_collection(lines, autolim=False)
    lines.set_clip_path(Polygon(corners, transform=ax.transData))


@checked
def plot_training(
    history: dict[str, Float[np.ndarray, " steps"]],
    *,
    window: Integer = 50,
    references: dict[str, float] | None = None,
) -> "Figure":
    """Draws energy, variance and acceptance of a training run, with an acceptance for
    every kind of move that was made.

    **Arguments:**

    - `history`: the history of an [`eqsym.RunResult`][].
    - `window`: steps of the moving average of the energy; its band is one standard
        deviation of the energies inside the window.
    - `references`: energies in Hartree per primitive cell to draw as lines, by name.

    **Returns:**

    A matplotlib figure; save it with `savefig`.

    **Raises:** `ValueError` for arguments of the wrong kind.
    """
    figure, axes = new_figure(3, 1, (7.0, 7.5), sharex=True)
    energy_axis, variance_axis, acceptance_axis = axes.flat
    steps, energy = history["step"], history["energy"]
    window = max(1, min(whole_number("window", window, 1), len(steps) // 4))
    centers, mean, deviation = _moving(steps, energy, window)

    energy_axis.plot(steps, energy, ".", ms=2, alpha=0.35, label="step")
    energy_axis.plot(centers, mean, lw=1.5, label=f"mean of {window} steps")
    energy_axis.fill_between(
        centers, mean - deviation, mean + deviation, alpha=0.25, color="C1", lw=0
    )
    references = references or {}
    for i, (name, value) in enumerate(references.items()):
        energy_axis.axhline(value, color=f"C{i + 2}", lw=1, ls="--", label=name)
    # The start is far above the end, and single steps are far off: show the others.
    settled = energy[len(energy) // 10 :]
    settled = settled[np.isfinite(settled)]
    low, high = np.percentile(settled, [0.5, 99]) if len(settled) else (0.0, 0.0)
    shown = [low, high, *references.values()]
    low, high = min(shown), max(shown)
    margin = 0.05 * (high - low) + 1e-6
    energy_axis.set(ylabel="energy [Ha per cell]", ylim=(low - margin, high + margin))
    energy_axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, markerscale=4
    )

    variance_axis.semilogy(steps, history["variance"], ".", ms=2, alpha=0.35)
    if np.all(history["variance"] > 0):
        variance_axis.plot(*_moving(steps, history["variance"], window)[:2], lw=1.5)
    variance_axis.set(ylabel="variance [Ha$^2$]")
    acceptance_axis.plot(steps, history["acceptance"], lw=1, label="moves")
    for column, label in (
        ("exchange_acceptance", "exchanges of spins"),
        ("hop_acceptance", "hops between nuclei"),
    ):
        # Some crystals have none.
        if np.any(history[column]):
            acceptance_axis.plot(steps, history[column], lw=1, label=label)
    acceptance_axis.legend(loc="upper right")
    acceptance_axis.set(ylabel="acceptance", xlabel="step", ylim=(0, 1))
    return figure


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **kwargs: Any
) -> Any:
    """A figure and its axes, (rows, columns); `kwargs` as for `Figure.subplots`."""
    try:
        from .notebook import NotebookFigure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib: install it, or eqsym with the extra `plot`."
        ) from error
    figure = NotebookFigure(figsize=size, dpi=150, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def _plane(
    vectors: Float[np.ndarray, "2 3"], points: int
) -> tuple[Float[np.ndarray, "points points"], Float[np.ndarray, "points points"]]:
    """Coordinates of the points of a grid, the first vector along x."""
    along = np.linspace(0, 1, points)
    grid = along[:, None, None] * vectors[0] + along[None, :, None] * vectors[1]
    x, y = np.moveaxis(grid @ plane_axes(vectors), -1, 0)
    return x, y


def _moving(
    steps: Float[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, means and standard deviations of all windows, each at its end."""
    views = np.lib.stride_tricks.sliding_window_view(values, window)
    return steps[window - 1 :], views.mean(axis=1), views.std(axis=1)


@checked
def plot_sectors(sectors: Sectors) -> "Figure":
    """Draws the weights of symmetry sectors, on a logarithmic scale, and their
    energies.

    **Arguments:**

    - `sectors`: a result of [`eqsym.sectors`][].

    **Returns:**

    A matplotlib figure with error bars. Sectors without an energy have a weight only;
    weights below zero, which noise can make, are not drawn.

    **Raises:** `ValueError` for arguments of the wrong kind.
    """
    labels = [sector.label for sector in sectors.sectors]
    places = np.arange(len(labels))
    width = max(4.0, 0.55 * len(labels) + 1.5)
    figure, ((top,), (bottom,)) = new_figure(2, 1, (width, 5.0), sharex=True)
    weights = np.array([s.weight.mean for s in sectors.sectors])
    errors = np.array([s.weight.error for s in sectors.sectors])
    shown = weights > 0
    # Error bars that reach zero would leave the scale.
    low = np.minimum(errors, 0.999 * np.abs(weights))
    top.bar(
        places[shown],
        weights[shown],
        yerr=np.stack([low, errors])[:, shown],
        capsize=3,
        color="tab:blue",
    )
    top.set_yscale("log")
    top.set_ylabel("weight")
    with_energy = [
        (place, sector.energy)
        for place, sector in zip(places, sectors.sectors, strict=True)
        if sector.energy is not None
    ]
    bottom.errorbar(
        [place for place, _ in with_energy],
        [energy.mean for _, energy in with_energy],
        yerr=[energy.error for _, energy in with_energy],
        fmt="o",
        capsize=3,
        color="tab:orange",
    )
    bottom.axhline(sectors.energy.mean, color="gray", linestyle="--", label="plain")
    bottom.legend()
    bottom.set_ylabel("energy [Ha per cell]")
    bottom.set_xticks(places, labels)
    return figure
