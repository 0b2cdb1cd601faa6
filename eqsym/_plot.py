"""Figures of runs and wave functions. Need matplotlib, the extra `plot`."""

from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._ansatz import AbstractWavefunction
from ._sectors import Sectors
from ._types import Electrons


if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TranslationScan(eqx.Module):
    r"""$\log |\psi|^2$ where all electrons are moved at once over a parallelogram.

    - `log_density`: (points, points); first axis along the first vector.
    - `vectors`: the two sides of the parallelogram in Bohr.
    """

    log_density: Float[np.ndarray, "points points"]
    vectors: Float[np.ndarray, "2 3"]


def translation_scan(
    wavefunction: AbstractWavefunction,
    electrons: Electrons,
    vectors: Any,
    *,
    points: int = 61,
) -> TranslationScan:
    r"""Evaluates $\log |\psi(x + t)|^2$ for translations t of all electrons.

    Where x is invariant under a group up to exchanges of electrons of one spin (all
    electrons on nuclei, for example), an invariant wave function gives a picture with
    the symmetry of the group.

    **Arguments:**

    - `wavefunction`: the wave function.
    - `electrons`: the configuration x in Bohr, (electrons, 3).
    - `vectors`: (2, 3), the sides of the parallelogram of translations in Bohr.
    - `points`: along each side, both ends included.

    **Returns:**

    The values, [`eqsym.TranslationScan`][].
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    along = np.linspace(0, 1, points)
    grid = along[:, None, None] * vectors[0] + along[None, :, None] * vectors[1]

    @eqx.filter_jit
    def line(wavefunction, shifts):
        return jax.vmap(lambda t: 2 * wavefunction(electrons + t[None]).log)(shifts)

    rows = [
        np.asarray(line(wavefunction, jnp.asarray(shifts, electrons.dtype)))
        for shifts in grid
    ]
    return TranslationScan(np.array(rows, dtype=np.float64), vectors)


def plot_scans(scans: dict[str, TranslationScan]) -> "Figure":
    """Draws scans side by side, in one colour scale.

    **Arguments:**

    - `scans`: scans over the same parallelogram, by title.

    **Returns:**

    A matplotlib figure; save it with `savefig`.
    """
    figure, axes = new_figure(1, len(scans), (4.2 * len(scans) + 0.8, 4.8))
    finite = np.concatenate(
        [s.log_density[np.isfinite(s.log_density)] for s in scans.values()]
    )
    # Nodes reach down to minus infinity: the lowest percent does not set the scale.
    low, high = np.percentile(finite, 1), np.max(finite)
    mesh = None
    for ax, (title, scan) in zip(axes.flat, scans.items(), strict=True):
        x, y = _plane(scan.vectors, len(scan.log_density))
        mesh = ax.pcolormesh(
            x, y, scan.log_density, vmin=low, vmax=high, shading="gouraud"
        )
        levels = np.linspace(low, high, 12)
        ax.contour(
            x, y, scan.log_density, levels, colors="white", linewidths=0.4, alpha=0.6
        )
        ax.set(title=title, xlabel="translation [Bohr]", aspect="equal")
    axes.flat[0].set_ylabel("translation [Bohr]")
    figure.colorbar(mesh, ax=axes.ravel().tolist(), label=r"$\log\,|\psi|^2$")
    return figure


def plot_training(
    history: dict[str, Float[np.ndarray, " steps"]],
    *,
    window: int = 50,
    references: dict[str, float] | None = None,
) -> "Figure":
    """Draws energy, variance and acceptance of a training run.

    **Arguments:**

    - `history`: of [`eqsym.RunResult`][].
    - `window`: steps of the moving average of the energy; its band is one standard
        deviation of the energies inside the window.
    - `references`: energies in Hartree per primitive cell to draw as lines, by name.

    **Returns:**

    A matplotlib figure; save it with `savefig`.
    """
    figure, axes = new_figure(3, 1, (7.0, 7.5), sharex=True)
    energy_axis, variance_axis, acceptance_axis = axes.flat
    steps, energy = history["step"], history["energy"]
    window = max(1, min(window, len(steps) // 4))
    centres, mean, deviation = _moving(steps, energy, window)

    energy_axis.plot(steps, energy, ".", ms=2, alpha=0.35, label="step")
    energy_axis.plot(centres, mean, lw=1.5, label=f"mean of {window} steps")
    energy_axis.fill_between(
        centres, mean - deviation, mean + deviation, alpha=0.25, color="C1", lw=0
    )
    references = references or {}
    for i, (name, value) in enumerate(references.items()):
        energy_axis.axhline(value, color=f"C{i + 2}", lw=1, ls="--", label=name)
    # The start is far above the end, and single steps are far off: show the others.
    settled = energy[len(energy) // 10 :]
    low, high = np.percentile(settled, [0.5, 99])
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
    acceptance_axis.plot(steps, history["acceptance"], lw=1)
    acceptance_axis.set(ylabel="acceptance", xlabel="step", ylim=(0, 1))
    return figure


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **kwargs: Any
) -> Any:
    """A figure and its axes, (rows, columns); `kwargs` as for `Figure.subplots`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib: install it, or eqsym with the extra `plot`."
        ) from error
    # A bare figure, outside of pyplot: no global state and no window.
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def _plane(
    vectors: Float[np.ndarray, "2 3"], points: int
) -> tuple[Float[np.ndarray, "points points"], Float[np.ndarray, "points points"]]:
    """Coordinates in the plane of two vectors, the first one along x."""
    first, second = vectors
    x = first / np.linalg.norm(first)
    rest = second - (second @ x) * x
    y = rest / np.linalg.norm(rest)
    along = np.linspace(0, 1, points)
    grid = along[:, None, None] * first + along[None, :, None] * second
    return grid @ x, grid @ y


def _moving(
    steps: Float[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, means and standard deviations of all windows, each at its end."""
    views = np.lib.stride_tricks.sliding_window_view(values, window)
    return steps[window - 1 :], views.mean(axis=1), views.std(axis=1)


def plot_sectors(sectors: Sectors) -> "Figure":
    """Weights of symmetry sectors, on a logarithmic scale, and their energies.

    **Arguments:**

    - `sectors`: of [`eqsym.sectors`][].

    **Returns:**

    A matplotlib figure with error bars. Sectors without an energy have a weight only;
    weights below zero, which noise can make, are not drawn.
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
    bottom.axhline(sectors.energy.mean, color="gray", linestyle="--", label="OG")
    bottom.legend()
    bottom.set_ylabel("energy [Ha per cell]")
    bottom.set_xticks(places, labels)
    return figure
