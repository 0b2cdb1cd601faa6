"""How do memory and time of a training iteration grow, and what fits on a device?

    taskset -c 1 python benchmarks/scaling.py --figure docs/assets/scaling.png

With the numbers of electrons, walkers, determinants and images. Memory is what the
compiler plans: arguments, results and temporary arrays. Times are medians after
compilation, on a CPU of the processor, which other load disturbs least. For the largest
system nothing is allocated: the step is compiled for growing supercells of LiH with the
network of the large presets of `examples/study.py`.
"""

import argparse
import functools
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from timing import clock, seconds

import eqsym as eqs


LATTICE_CONSTANT = 4.02  # Angstrom
MOVES = 5  # of the sampler in an iteration; memory does not depend on them
CHUNK = 4  # images at a time, if they are not evaluated all at once
GIB = 2**30


class Network(NamedTuple):
    widths: tuple[tuple[int, int], ...]
    determinants: int
    real: bool | None = None

    def __call__(self, crystal: eqs.Crystal) -> eqs.SolidNet:
        return eqs.SolidNet(
            crystal,
            insulator(crystal),
            widths=self.widths,
            determinants=self.determinants,
            real=self.real,
            key=jax.random.key(0),
        )


SMALL = Network(((64, 16),) * 3, 4)
LARGE = Network(((256, 32),) * 3, 8)
LARGE_WALKERS = 1000


class Setting(NamedTuple):
    """What to measure, `value` being what is varied."""

    value: int
    vmc: eqs.VMC
    network: Network
    walkers: int


class Point(NamedTuple):
    """One setting: what was varied, seconds, bytes, and seconds to compile."""

    value: int
    seconds: float
    memory: float
    compilation: float


class Fit(NamedTuple):
    """The exponent of a power law, and its standard error."""

    exponent: float
    error: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} +- {self.error:.2f}"


def lih(*supercell: int) -> eqs.Crystal:
    return eqs.Crystal.rock_salt(
        "Li", "H", a=LATTICE_CONSTANT, unit="angstrom", supercell=supercell or 1
    )


def insulator(crystal: eqs.Crystal) -> eqs.Occupation:
    """The k-points of a closed-shell insulator: all of them, as often in both spins."""
    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    bands = crystal.electrons[0] // crystal.cells
    occupied = np.repeat(kpoints, bands, axis=0)
    return eqs.Occupation((occupied, occupied))


def trainer(crystal: eqs.Crystal, **settings: Any) -> eqs.VMC:
    """`settings` are those of `VMC`."""
    return eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(MOVES),
        eqs.Spring(chunk=settings.get("chunk")),
        **settings,
    )


def start(vmc: eqs.VMC, network: Network, walkers: jax.Array) -> eqs.VMCState:
    crystal, key = vmc.hamiltonian.crystal, jax.random.key(0)
    return vmc.init(network(crystal), walkers, key=key)


def compiled(vmc: eqs.VMC, state: Any) -> tuple[Any, float, float]:
    """The step from the arrays of a state, which may be their shapes only, to those of
    the next one; bytes; seconds of compilation."""
    arrays, rest = split(state)

    def step(arrays):
        return split(vmc.step(eqx.combine(arrays, rest)))[0]

    begin = clock()
    compiled = jax.jit(step).lower(arrays).compile()
    taken = clock() - begin
    found: Any = compiled.memory_analysis()
    used = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )
    return compiled, float(used), taken


def split(state: Any) -> tuple[Any, Any]:
    kinds = (jax.Array, jax.ShapeDtypeStruct)
    return eqx.partition(state, lambda leaf: isinstance(leaf, kinds))


def measured(value: int, vmc: eqs.VMC, state: eqs.VMCState, repeats: int) -> Point:
    step, used, compilation = compiled(vmc, state)
    taken = seconds(step, split(state)[0], repeats=repeats, clock=clock)
    point = Point(value, taken, used, compilation)
    print(
        f"{value:>6} {point.seconds:9.4f} s {used / 2**20:9.1f} MiB, compiled in "
        f"{compilation:.0f} s",
        flush=True,
    )
    return point


def fit(points: list[Point], column: str) -> Fit:
    """Least squares of the logarithms."""
    x = np.log([point.value for point in points])
    y = np.log([getattr(point, column) for point in points])
    x, y = x - np.mean(x), y - np.mean(y)
    slope = np.sum(x * y) / np.sum(x**2)
    degrees = max(1, len(x) - 2)
    error = np.sqrt(np.sum((y - slope * x) ** 2) / degrees / np.sum(x**2))
    return Fit(float(slope), float(error))


def subgroup(group: eqs.SpaceGroup, order: int) -> eqs.SpaceGroup:
    """The first one of that order that up to three operations generate."""
    table = np.asarray(group.multiplication_table)
    for chosen in itertools.combinations_with_replacement(range(group.order), 3):
        members, size = np.unique(chosen), 0
        while len(members) > size:
            size = len(members)
            products = table[members][:, list(chosen)]
            members = np.union1d(members, products)
        if len(members) == order:
            return group.subgroup(members)
    raise ValueError(f"No subgroup of order {order} was found.")


def symmetrized(group: eqs.SpaceGroup, chunk: int | None) -> eqs.SymmetrizedTraining:
    form = functools.partial(eqs.Symmetrized, operation_chunk=chunk)
    return eqs.SymmetrizedTraining(eqs.GroupAverage(group), form)


def sweeps(quick: bool, repeats: int, file: Path | None) -> dict[str, list[Point]]:
    """What is varied, and all points; those in the file are not measured again."""
    cells = ((), (2, 1, 1), (2, 2, 1), (2, 2, 2))
    walkers, determinants = (64, 128, 256, 512), (1, 2, 4, 8, 16)
    orders = (1, 2, 4, 8, 12, 24, 48)
    few, batch, images = 64, 128, 32
    if quick:
        cells, walkers, determinants, orders = cells[:2], (4, 8), (1, 2), (1, 2)
        few = batch = images = 4
    found: dict[str, list[Point]] = {}
    if file is not None and file.exists():
        before = json.loads(file.read_text())
        found = {name: [Point(*p) for p in points] for name, points in before.items()}

    def sweep(name: str, comment: str, settings: list[Setting]) -> None:
        if name in found:
            return
        print(f"\n{name}; {comment}", flush=True)
        found[name] = []
        for value, vmc, network, walkers in settings:
            crystal, key = vmc.hamiltonian.crystal, jax.random.key(0)
            placed = eqs.initial_walkers(crystal, walkers, key=key)
            state = start(vmc, network, placed)
            found[name].append(measured(value, vmc, state, repeats))
        if file is not None:
            file.write_text(json.dumps(found, indent=1))

    trainers = [trainer(lih(*c)) for c in cells]
    sweep(
        "electrons",
        f"{few} walkers, {SMALL.determinants} determinants",
        [
            Setting(4 * vmc.hamiltonian.crystal.cells, vmc, SMALL, few)
            for vmc in trainers
        ],
    )
    sweep(
        "walkers",
        f"8 electrons, {SMALL.determinants} determinants",
        [Setting(n, trainers[1], SMALL, n) for n in walkers],
    )
    sweep(
        "determinants",
        f"8 electrons, {batch} walkers",
        [
            Setting(n, trainers[1], SMALL._replace(determinants=n), batch)
            for n in determinants
        ],
    )
    group = eqs.SpaceGroup.of(lih())
    for name, chunk in (("images", None), (f"images, {CHUNK} at a time", CHUNK)):
        least = 1 if chunk is None or quick else chunk
        strategies = {
            n: symmetrized(subgroup(group, n), chunk) for n in orders if n >= least
        }
        sweep(
            name,
            f"4 electrons, {images} walkers, {SMALL.determinants} determinants",
            [
                Setting(n, trainer(lih(), strategy=strategy), SMALL, images)
                for n, strategy in strategies.items()
            ],
        )
    return found


def table(found: dict[str, list[Point]]) -> str:
    lines = ["| varied | from | to | exponent of time | exponent of memory |"]
    lines.append("|---|---|---|---|---|")
    for name, points in found.items():
        lines.append(
            f"| {name} | {points[0].value} | {points[-1].value} | "
            f"{fit(points, 'seconds')} | {fit(points, 'memory')} |"
        )
    return "\n".join(lines)


def figure(found: dict[str, list[Point]], file: Path) -> None:
    """A panel for everything varied: seconds to the left, memory to the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

    panels = ("electrons", "walkers", "determinants", "images")
    drawn = Figure(figsize=(9, 7), layout="constrained")
    for panel, left in zip(panels, drawn.subplots(2, 2).flat, strict=True):
        lines, right = [], left.twinx()
        values: set[int] = set()
        for name, points in found.items():
            varied, _, label = name.partition(", ")
            if varied != panel:
                continue
            values |= {point.value for point in points}
            x = [point.value for point in points]
            style = {"linestyle": ":" if label else "-", "marker": "o"}
            label = f" ({label})" if label else ""
            time_label = f"time{label}: {fit(points, 'seconds').exponent:.2f}"
            memory_label = f"memory{label}: {fit(points, 'memory').exponent:.2f}"
            seconds = [point.seconds for point in points]
            memory = [point.memory / 2**20 for point in points]
            lines += left.plot(x, seconds, color="C0", label=time_label, **style)
            lines += right.plot(x, memory, color="C1", label=memory_label, **style)
        # As many decades on both sides, so that slopes are exponents; memory above.
        logs = [np.log10(axes.dataLim.intervaly) for axes in (left, right)]
        decades = max(np.ptp(log) for log in logs) + 1.2
        for axes, log, name, lift in (
            (left, logs[0], "seconds per iteration", 0.1),
            (right, logs[1], "memory [MiB]", 0.5),
        ):
            low = log[0] - lift
            axes.set(xscale="log", yscale="log", ylabel=name)
            axes.set_ylim(10**low, 10 ** (low + decades))
        left.set_xlabel(panel)
        left.set_xticks(sorted(values))
        left.xaxis.set_major_formatter(ScalarFormatter())
        left.xaxis.set_minor_formatter(NullFormatter())
        left.xaxis.set_minor_locator(NullLocator())
        left.legend(handles=lines, loc="upper left", fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(file, dpi=80)


def largest(cells: Any, chunks: Any, gibibytes: float) -> None:
    """Memory of the large network, compiled for supercells up to the first one that
    does not fit."""
    print(
        f"\nLiH, {LARGE_WALKERS} walkers, layers {LARGE.widths}, {LARGE.determinants} "
        "determinants; GiB with so many walkers at a time"
    )
    for chunk in chunks:
        points = []
        for supercell in cells:
            crystal = lih(*supercell)
            vmc = trainer(crystal, chunk=chunk)
            # The shapes of arrays in place of arrays.
            electrons = sum(crystal.electrons)
            shape = LARGE_WALKERS, electrons, 3
            places = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
            state = eqx.filter_eval_shape(start, vmc, LARGE, places)
            _, used, taken = compiled(vmc, state)
            points.append(Point(electrons, np.nan, used, taken))
            kind = "real" if state.wavefunction.real else "complex"
            print(
                f"chunk {chunk}: {'x'.join(map(str, supercell))}, {electrons} "
                f"electrons, {kind}, {used / GIB:.2f} GiB, compiled in {taken:.0f} s",
                flush=True,
            )
            if used > gibibytes * GIB:
                break
        power = fit(points[-2:], "memory").exponent
        last = points[-1]
        limit = last.value * (gibibytes * GIB / last.memory) ** (1 / power)
        print(
            f"chunk {chunk}: {gibibytes:g} GiB at {limit:.0f} electrons, exponent "
            f"{power:.2f} between the last two",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a size for tests")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--figure", type=Path, help="file to draw into")
    parser.add_argument("--json", type=Path, help="file of all points, kept")
    parser.add_argument("--gibibytes", type=float, default=80.0, help="of the device")
    parser.add_argument("--only", choices=("sweeps", "largest"))
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[500, 50, 10, 2], help="of walkers"
    )
    options = parser.parse_args()
    if options.only != "largest":
        found = sweeps(options.quick, options.repeats, options.json)
        print("\n" + table(found), flush=True)
        if options.figure:
            figure(found, options.figure)
    if options.only != "sweeps":
        cells = (
            ((1, 1, 1), (2, 1, 1))
            if options.quick
            else (
                (2, 2, 2),
                (3, 2, 2),
                (3, 3, 2),
                (3, 3, 3),
                (4, 3, 3),
                (4, 4, 3),
                (4, 4, 4),
            )
        )
        largest(cells, options.chunks, options.gibibytes)


if __name__ == "__main__":
    main()
