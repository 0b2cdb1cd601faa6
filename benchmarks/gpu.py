"""All that a GPU has to say about eqsym, for whoever has one for ten minutes.

    python benchmarks/gpu.py --only mean-field --mean-field graphene.npz   # on a CPU
    python benchmarks/gpu.py --minutes 10 --mean-field graphene.npz

Times of an iteration and its parts; the precision and the speed of matrix products;
optimizers with more and more walkers; then graphene at the paper's size, trained for
the time that is left, and averaged after training. Every number is written when it is
known: to `results.jsonl`, and as tables to `results.md`. What fails is noted there, and
the rest goes on. The same command goes on with the training; `--only` does a part of
it, and adds to the same tables. `--toy` is for a CPU, to see whether all of it works.
"""

import argparse
import functools
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from iteration import (
    CRYSTALS,
    kinetic_energies,
    parameters,
    parts,
    started,
    timed,
)
from precision import in_double, sampled
from scaling import Network
from timing import seconds

import eqsym as eqs


class System(NamedTuple):
    crystal: str
    network: Network
    walkers: int
    moves: int
    chunk: int | None

    def start(
        self, optimizer: eqs.AbstractOptimizer | None = None, walkers: int | None = None
    ) -> tuple[eqs.VMC, eqs.VMCState]:
        return started(
            CRYSTALS[self.crystal](),
            self.network,
            walkers or self.walkers,
            self.moves,
            optimizer or eqs.Spring(chunk=self.chunk),
            self.chunk,
        )

    def __str__(self) -> str:
        widths = self.network.widths
        return (
            f"{self.crystal}, {self.walkers} walkers, {self.moves} moves, "
            f"{len(widths)} layers of {widths[0]}, {self.network.determinants} "
            f"determinants, chunk {self.chunk}"
        )


class Size(NamedTuple):
    """The first system is the one that is trained."""

    systems: tuple[System, ...]
    configurations: int  # for the precision
    batches: tuple[int, ...]  # walkers, for the optimizers
    batch_chunk: int
    basis: str
    pretraining_steps: int
    steps: int
    evaluation_steps: tuple[int, ...]  # one after the other, as far as time allows
    repeats: int


LARGE = Network(((256, 32),) * 3, 8)
SMALL = Network(((8, 4),), 1)
PAPER = Size(
    (
        System("graphene", LARGE, 1000, 20, None),
        System("lih-2x2x2", LARGE, 1000, 20, 500),
        System("lih", Network(((256, 32),) * 4, 16), 256, 10, None),
    ),
    configurations=64,
    batches=(256, 512, 1024, 2048, 4096),
    batch_chunk=512,
    basis="cc-pvdz",
    pretraining_steps=300,
    steps=80_000,
    evaluation_steps=(10, 20, 40, 80, 160, 320, 640),
    repeats=5,
)
TOY = Size(
    (
        System("graphene", SMALL, 8, 2, None),
        System("lih-2x2x2", SMALL, 4, 2, 2),
        System("lih", SMALL, 8, 2, None),
    ),
    configurations=4,
    batches=(4, 8),
    batch_chunk=4,
    basis="sto-3g",
    pretraining_steps=40,
    steps=5,
    evaluation_steps=(2, 4),
    repeats=1,
)
OPTIMIZERS: dict[str, Callable[[int], eqs.AbstractOptimizer]] = {
    "SPRING": lambda chunk: eqs.Spring(chunk=chunk),
    "KFAC": lambda chunk: eqs.Kfac(chunk=chunk),
}
# Of matrix products, for `jax_default_matmul_precision`. All the same on a CPU.
PRECISIONS = {
    "full": None,
    "three products": "TF32_TF32_F32_X3",
    "JAX's default": "default",
}
# The share of the time after which no more of a part is begun.
ENDS = {
    "device": 1.0,
    "mean-field": 1.0,
    "iteration": 0.45,
    "precision": 0.45,
    "optimizers": 0.45,
    "training": 0.85,
    "post-hoc": 1.0,
}

Row = dict[str, Any]
# Fills a row, which is written also if it raises.
Measurement = Callable[[Row], None]


class OutOfTime(Exception):
    pass


class Clock:
    """The time from the start to the end."""

    def __init__(self, minutes: float):
        self._start, self._minutes = time.monotonic(), minutes

    def share(self) -> float:
        return (time.monotonic() - self._start) / (60 * self._minutes)

    def check(self, part: str) -> None:
        """**Raises:** `OutOfTime` if the time of this part has passed."""
        if self.share() > ENDS[part]:
            raise OutOfTime


class Results:
    """Rows of numbers, by part: on the disk as soon as they are known."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._lines, self._tables = folder / "results.jsonl", folder / "results.md"
        self.rows: list[Row] = []
        if self._lines.exists():
            self.rows += map(json.loads, self._lines.read_text().splitlines())

    def add(self, part: str, row: Row) -> None:
        found = {"part": part, **row}
        self.rows.append(found)
        with open(self._lines, "a") as file:
            file.write(json.dumps(found) + "\n")
        self._tables.write_text(self.tables())
        print(json.dumps(found), flush=True)

    def tables(self) -> str:
        """In Markdown. Rows of one part with the same columns share a table."""
        tables: dict[tuple[str, ...], list[str]] = {}
        for row in sorted(self.rows, key=lambda row: list(ENDS).index(row["part"])):
            lines = tables.setdefault(tuple(row), [])
            lines.append(f"| {' | '.join(map(_shown, row.values()))} |")
        return "\n".join(
            "\n".join(
                (f"| {' | '.join(names)} |", "|---" * len(names) + "|", *lines, "")
            )
            for names, lines in tables.items()
        )


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Task(NamedTuple):
    """What all parts are given."""

    size: Size
    clock: Clock
    path: Path
    mean_field: Path

    def solved(self) -> eqs.MeanField:
        """Read from the file if it is there."""
        crystal = CRYSTALS[self.size.systems[0].crystal]()
        return eqs.MeanField.solve(
            crystal, basis=self.size.basis, path=self.mean_field, progress=False
        )


def device(row: Row) -> None:
    """The kind of device, and versions."""
    found = jax.devices()[0]
    row |= {
        "platform": found.platform,
        "kind": found.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "eqsym": eqs.__version__,
        "memory [GiB]": memory("bytes_limit"),
    }


def mean_field(task: Task, row: Row) -> None:
    """Of the crystal that is trained; on a CPU, wherever this runs."""
    begin = time.monotonic()
    row["energy [Ha]"] = task.solved().energy
    row["seconds"] = time.monotonic() - begin


def iteration(task: Task, system: System, row: Row) -> None:
    """Seconds of an iteration and its parts."""
    vmc, state = system.start()
    row |= {"system": str(system), "parameters": parameters(state)}
    for name, taken in timed(vmc, state, task.size.repeats):
        row[name] = taken
        task.clock.check("iteration")
    row |= peak()


def times(task: Task, vmc: eqs.VMC, state: eqs.VMCState, *names: str) -> Row:
    """Seconds of some parts of an iteration."""
    found = parts(vmc, state)
    return {
        name: seconds(
            eqx.filter_jit(found[name][0]), *found[name][1], repeats=task.size.repeats
        )
        for name in names
    }


@functools.cache
def reference(system: System, count: int) -> tuple[Any, ...]:
    """A start, walkers of its wave function, and their kinetic energies in float64."""
    vmc, state = system.start()
    wavefunction = state.wavefunction
    walkers = sampled(wavefunction, state.sampler.walkers, count, 5)
    with jax.enable_x64(True):
        exact = eqx.filter_jit(kinetic_energies)(
            vmc, in_double(wavefunction), in_double(walkers)
        )
        return vmc, state, walkers, np.real(np.asarray(exact))


def precision(task: Task, name: str, row: Row) -> None:
    """Errors of local kinetic energies against float64, and what they save."""
    count = task.size.configurations
    vmc, state, walkers, exact = reference(task.size.systems[0], count)
    row |= {"products": name, "configurations": count}
    with jax.default_matmul_precision(PRECISIONS[name]):
        found = eqx.filter_jit(kinetic_energies)(vmc, state.wavefunction, walkers)
        errors = np.abs(np.real(np.asarray(found)) - exact)
        row["median error of the kinetic energy [Ha]"] = float(np.median(errors))
        row["largest"] = float(np.max(errors))
        row |= times(task, vmc, state, "kinetic energy", "whole iteration")


def optimizer(task: Task, walkers: int, name: str, row: Row) -> None:
    """Seconds against the number of walkers."""
    chunk = task.size.batch_chunk
    system = task.size.systems[0]._replace(chunk=chunk)
    row |= {"method": name, "walkers": walkers}
    vmc, state = system.start(OPTIMIZERS[name](chunk), walkers)
    row |= times(task, vmc, state, "optimizer", "whole iteration") | peak()


def training(task: Task, row: Row) -> None:
    """Until the time is up; the next call goes on."""
    size, system = task.size, task.size.systems[0]
    solved = task.solved()
    vmc, state = system.start()

    def watch(step: int, statistics: eqs.Statistics, state: eqs.VMCState) -> None:
        if task.clock.share() > ENDS["training"]:
            raise StopIteration

    result = eqs.run(
        vmc,
        state.wavefunction,
        steps=size.steps,
        walkers=system.walkers,
        key=jax.random.key(1),
        pretraining=eqs.Pretraining(solved, size.pretraining_steps),
        path=task.path / "run",
        callback=watch,
    )
    history = result.history
    last = slice(-100, None)
    row |= {
        "steps": result.step,
        "energy [Ha]": float(np.mean(history["energy"][last])),
        "variance [Ha^2]": float(np.mean(history["variance"][last])),
        "Hartree-Fock [Ha]": solved.energy,
        "seconds per step": float(np.median(np.diff(history["seconds"]))),
        "steps solved again": int(np.count_nonzero(history["solver_retries"])),
        **peak(),
    }


def post_hoc(task: Task, steps: int, row: Row) -> None:
    """Goes on with the samples of the call with fewer steps."""
    result = eqs.load_run(task.path / "run")
    system = task.size.systems[0]
    crystal = CRYSTALS[system.crystal]()
    begin = time.monotonic()
    found = eqs.post_hoc(
        result.wavefunction,
        eqs.Hamiltonian(crystal),
        eqs.SpaceGroup.of(crystal),
        eqs.Chains(
            result.walkers,
            key=jax.random.key(2),
            steps=steps,
            chunk=system.chunk,
            progress=False,
        ),
        path=task.path / f"post_hoc-{result.step}",
    )
    averaged = found.averaged
    row |= {
        "after step": result.step,
        "samples": found.plain.samples,
        "plain [Ha]": str(found.plain.energy),
        "averaged [Ha]": "-" if averaged is None else str(averaged.energy),
        "weight": str(found.weight),
        "seconds": time.monotonic() - begin,
    }


def measurements(task: Task) -> dict[str, list[Measurement]]:
    """By part, in this order."""
    size, of = task.size, functools.partial
    return {
        "device": [device],
        "mean-field": [of(mean_field, task)],
        "iteration": [of(iteration, task, system) for system in size.systems],
        "precision": [of(precision, task, name) for name in PRECISIONS],
        "optimizers": [
            of(optimizer, task, walkers, name)
            for walkers in size.batches
            for name in OPTIMIZERS
        ],
        "training": [of(training, task)],
        "post-hoc": [of(post_hoc, task, steps) for steps in size.evaluation_steps],
    }


def memory(name: str) -> float | None:
    """Of the first device, in GiB; CPUs do not say."""
    found = (jax.devices()[0].memory_stats() or {}).get(name)
    return None if found is None else found / 2**30


def peak() -> Row:
    return {"peak memory so far [GiB]": memory("peak_bytes_in_use")}


def attempt(
    results: Results, clock: Clock, part: str, measurements: list[Measurement]
) -> None:
    """Whatever becomes of one, what was measured before is kept, and others follow."""
    for measure in measurements:
        row: Row = {}
        try:
            clock.check(part)
            measure(row)
        except OutOfTime:
            results.add(part, row | {"left out": "no time"})
            return
        except Exception as error:
            traceback.print_exc()
            message = str(error).partition("\n")[0]
            row["failed"] = f"{type(error).__name__}: {message}"
        results.add(part, row)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mean-field", type=Path, help="of graphene, .npz")
    parser.add_argument("--only", nargs="+", choices=ENDS, help="some of the parts")
    parser.add_argument("--toy", action="store_true", help="for a CPU")
    options = parser.parse_args()
    clock = Clock(options.minutes)
    eqs.checkpoint.keep_compiled()
    task = Task(
        TOY if options.toy else PAPER,
        clock,
        options.path,
        options.mean_field or options.path / "mean_field.npz",
    )
    results = Results(options.path)
    for part, found in measurements(task).items():
        if part in (options.only or ENDS):
            attempt(results, clock, part, found)
    print(f"Wrote {options.path / 'results.md'}")


if __name__ == "__main__":
    main()
