"""The table and the figures of `study.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import eqsym as eqs


COLORS = {"OG": "C0", "DA": "C1", "GA, subset": "C2", "GA": "C3", "SC": "C4"}
# After training: averaged, canonicalized.
STYLES = {"PA": (":", "s"), "PC": ("none", "^")}
# So far off at times that they do not set the scale.
ERRATIC = ("DA", "GA", "SC", "PC of OG")


def table(measured: dict[str, Any], steps: int) -> str:
    """In Markdown, with columns that line up as text."""
    lines = [
        (
            "function",
            "walkers",
            "local energies per walker",
            "operations",
            "energy [Ha]",
            "variance [Ha²]",
            "Var[Pf/f]",
            "s per step",
            "training [s]",
        )
    ]
    for found in measured.values():
        seconds = found["seconds_per_step"]
        for label, row in found["energies"][str(steps)].items():
            symmetry = row["symmetry"]
            lines.append(
                (
                    label,
                    str(found["walkers"]),
                    str(found["local_energies"]),
                    str(row["operations"]),
                    str(eqs.Estimate(**row["energy"])),
                    str(eqs.Estimate(**row["variance"])),
                    "-" if symmetry is None else str(eqs.Estimate(**symmetry)),
                    f"{seconds:.3g}",
                    f"{seconds * steps:.0f}",
                )
            )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (lines[0], rule, *lines[1:])
    )


def training(measured: dict[str, Any], histories: dict[str, Any]) -> Figure:
    """Means over windows of a twentieth of the run, against the time of the steps."""
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    shown = {}
    for name, history in histories.items():
        window = max(1, len(history) // 20)
        seconds = history["step"] * measured[name]["seconds_per_step"]
        for ax, column in zip(axes, ("energy", "variance"), strict=True):
            mean = np.lib.stride_tricks.sliding_window_view(history[column], window)
            mean = np.mean(mean, axis=1)
            ax.plot(seconds[window - 1 :], mean, color=COLORS[name], label=name)
            if column == "energy":
                shown[name] = mean[len(mean) // 8 :]
    axes[0].set(ylabel="energy [Ha per cell]", ylim=_limits(shown))
    axes[0].legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1))
    axes[1].set(
        yscale="log", ylabel="variance [Ha² per cell²]", xlabel="training time [s]"
    )
    return figure


def cost(measured: dict[str, Any]) -> Figure:
    """Energy, variance and symmetry measure at the checkpoints."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    shown = {}
    for name, found in measured.items():
        for label in list(found["energies"].values())[-1]:
            points = [
                (int(step) * found["seconds_per_step"], rows[label])
                for step, rows in found["energies"].items()
                if label in rows
            ]
            line, marker = STYLES.get(label[:2], ("-", "o"))
            style = {
                "color": COLORS[name],
                "ls": line,
                "marker": marker,
                "mfc": COLORS[name] if line == "-" else "white",
                "capsize": 3,
                "label": label,
            }
            for ax, key in zip(axes, ("energy", "variance", "symmetry"), strict=True):
                values = [
                    (time, row[key]["mean"], row[key]["error"])
                    for time, row in points
                    if row[key] is not None
                    and (key == "energy" or row[key]["mean"] > 1e-10)
                ]
                if values:
                    time, mean, error = np.array(values).T
                    ax.errorbar(time, mean, error, **style)
                    if key == "energy":
                        shown[label] = np.concatenate([mean - error, mean + error])
    axes[0].set(ylabel="energy [Ha per cell]", ylim=_limits(shown))
    axes[1].set(yscale="log", ylabel="variance [Ha² per cell²]")
    axes[2].set(yscale="log", ylabel="Var[Pf/f]")
    for ax in axes:
        ax.set_xlabel("training time [s]")
        ax.set_xlim(left=0)
    handles = dict(
        (label, handle)
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    )
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=9)
    return figure


def noise(measured: dict[str, Any]) -> Figure:
    """Standard deviations of gradient and update; what they scatter about, dotted."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, found in measured.items():
        time = [int(step) * found["seconds_per_step"] for step in found["noise"]]
        for ax, key in zip(axes, ("gradient", "update"), strict=True):
            seen = [point[key] for point in found["noise"].values()]
            mean, error = np.array(
                [(s["deviation"]["mean"], s["deviation"]["error"]) for s in seen]
            ).T
            style = {"color": COLORS[name], "marker": "o"}
            ax.errorbar(time, mean, error, capsize=3, label=name, **style)
            norms = np.array([s["norm"] for s in seen])
            ax.plot(time, np.where(norms > 0, norms, np.nan), ls=":", **style, mfc="w")
    axes[0].set(yscale="log", ylabel="gradient of the energy [Ha]")
    axes[1].set(yscale="log", ylabel="update of the parameters")
    for ax in axes:
        ax.set_xlabel("training time [s]")
    axes[0].plot([], [], "-o", color="gray", label="standard deviation")
    axes[0].plot([], [], ":o", color="gray", mfc="w", label="norm of the mean")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=7)
    return figure


def smoothing() -> Figure:
    """The two steps and their derivatives."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    w = jnp.linspace(-0.15, 1.15, 521)
    steps = {r"$s_\infty$": eqs.SmoothStep(), r"$s_2$": eqs.SplineStep()}
    for label, step in steps.items():
        functions = [lambda x, step=step: step(x)]
        functions += [jax.grad(functions[0])]
        functions += [jax.grad(functions[1])]
        for ax, function in zip(axes, functions, strict=True):
            ax.plot(w, jax.vmap(function)(w), label=label)
    for ax, label in zip(axes, ("$s$", "$s'$", "$s''$"), strict=True):
        ax.set(xlabel="$w$", ylabel=label)
        for knot in (0, 1):
            ax.axvline(knot, color="gray", lw=0.6)
    axes[0].legend()
    return figure


def canonicalization() -> Figure:
    """One electron on a line, and translations by half a cell: canonicalized sharply,
    a function jumps where the electron leaves the domain."""
    edge, eps = 4.0, 0.5
    frac = [[0, 0, 0], [0.5, 0, 0]]
    crystal = eqs.Crystal(
        edge * np.eye(3), ["H", "H"], frac_positions=frac, unit="bohr"
    )
    group = eqs.SpaceGroup(crystal, [np.eye(3, dtype=int)] * 2, frac)
    domain = eqs.FundamentalDomain.of(group, point=[1.0, 2.0, 2.0])
    x = jnp.linspace(-2, 4, 1201)
    electrons = x[:, None, None] * jnp.eye(3)[0] + jnp.array([0.0, 2, 2])

    def f(electrons):
        angle = 2 * jnp.pi * electrons[..., 0, 0] / edge
        return 1 + 0.5 * jnp.sin(angle + 0.4) + 0.25 * jnp.cos(2 * angle - 1)

    def canonicalized(eps):
        def value(electrons):
            orbit = eqs.Canonicalization(domain, eps).orbit(electrons)
            return jnp.sum(orbit.weights * f(orbit.images))

        return jax.vmap(value)(electrons)

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    weights = jax.vmap(eqs.Canonicalization(domain, eps).weights)(electrons)[:, 0]
    for i, label in enumerate(("as it is", "translated")):
        left.plot(x, weights[:, i], label=label)
    left.set(ylabel="weight $W_g$ of the image")
    right.plot(x, f(electrons), color="gray", label="$f$")
    average = (f(electrons) + f(electrons + jnp.array([2.0, 0, 0]))) / 2
    right.plot(x, average, "C2--", label="average over the group")
    right.plot(x, canonicalized(1e-3), "C3:", label="canonicalized")
    right.plot(x, canonicalized(eps), "C0", label=rf"smoothed, $\epsilon$ = {eps} Bohr")
    right.set(ylabel="amplitude")
    for ax in (left, right):
        for image in (-2, 0, 2, 4):
            ax.axvline(image, color="gray", lw=0.6)
        ax.axvspan(0, 2, color="#f5d547", alpha=0.3, lw=0, label="domain")
        ax.set(xlabel="x [Bohr]", xlim=(-2, 4))
        ax.legend(
            ncols=3, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1)
        )
    return figure


def _limits(values: dict[str, np.ndarray]) -> tuple[float, float]:
    """Around most values, by name of the function."""
    steady = {name: v for name, v in values.items() if name not in ERRATIC}
    pooled = np.concatenate(list((steady or values).values()))
    low, high = np.percentile(pooled[np.isfinite(pooled)], [0, 95])
    margin = 0.1 * (high - low) + 1e-6
    return float(low - margin), float(high + margin)
