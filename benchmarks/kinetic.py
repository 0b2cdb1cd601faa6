"""How long does the local kinetic energy take, and how near is it to matrix products?

    taskset -c 0 python benchmarks/kinetic.py
    taskset -c 0 python benchmarks/kinetic.py --against ../other-checkout

Seconds are the minimum of several calls, of one walker; operations are counted by XLA;
the share is of the speed of large matrix products on the same core, in float32. Memory
is the compiler's plan for temporary arrays. With `--against`, another checkout of this
repository takes turns with this one, so that other load disturbs both alike.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from timing import times

import eqsym as eqs
from eqsym._core.math import chunked_vmap


ROOT = pathlib.Path(__file__).parent.parent
LIH = 4.02  # Angstrom
GRAPHENE = 2.4612


class Setting(NamedTuple):
    """What to measure."""

    crystal: eqs.Crystal
    layers: int
    determinants: int
    walkers: int
    chunk: int
    widths: tuple[int, int] = (256, 32)
    is_average: bool = False


def lih(*supercell: int) -> eqs.Crystal:
    return eqs.Crystal.rock_salt(
        "Li", "H", a=LIH, unit="angstrom", supercell=supercell or 1
    )


def graphene() -> eqs.Crystal:
    return eqs.Crystal.graphene(a=GRAPHENE, vacuum=26.4589, unit="angstrom")


SETTINGS = {
    "LiH, small": lambda: Setting(lih(), 3, 4, 256, 256, (64, 16)),
    "LiH": lambda: Setting(lih(), 4, 16, 64, 32),
    "graphene": lambda: Setting(graphene(), 4, 16, 16, 8),
    "LiH 2x2x2": lambda: Setting(lih(2, 2, 2), 3, 8, 8, 2),
    "LiH, small, averaged": lambda: Setting(lih(), 3, 4, 4, 4, (64, 16), True),
}


def insulator(crystal: eqs.Crystal) -> eqs.Occupation:
    """The k-points of a closed-shell insulator: all of them, as often in both spins."""
    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    occupied = np.repeat(kpoints, crystal.electrons[0] // crystal.cells, axis=0)
    return eqs.Occupation((occupied, occupied))


def wavefunction(setting: Setting) -> eqs.AbstractWavefunction:
    network = eqs.SolidNet(
        setting.crystal,
        insulator(setting.crystal),
        widths=(setting.widths,) * setting.layers,
        determinants=setting.determinants,
        key=jax.random.key(0),
    )
    if not setting.is_average:
        return network
    average = eqs.GroupAverage(eqs.SpaceGroup.of(setting.crystal))
    return eqs.Symmetrized(network, average, operation_chunk=4)


def work(name: str) -> None:
    """Compiles one setting, prints what the compiler says, and then a time for every
    line that comes in."""
    setting = SETTINGS[name]()
    psi = wavefunction(setting)
    walkers = eqs.initial_walkers(
        setting.crystal, setting.walkers, key=jax.random.key(1)
    ).astype(jnp.float32)
    kinetic = eqs.ForwardLaplacian()
    arrays, rest = eqx.partition(psi, eqx.is_array)

    def energies(arrays, walkers):
        psi = eqx.combine(arrays, rest)
        return chunked_vmap(lambda x: kinetic(psi, x), walkers, setting.chunk)

    begin = time.process_time()
    lowered = jax.jit(energies).lower(arrays, walkers)
    traced = time.process_time()
    compiled = lowered.compile()
    done = time.process_time()
    memory: Any = compiled.memory_analysis()
    # A loop over chunks counts once.
    cost: Any = compiled.cost_analysis()
    print(
        json.dumps(
            {
                "trace [s]": traced - begin,
                "compilation [s]": done - traced,
                "operations": cost["flops"] / setting.chunk,
                "memory [MB]": memory.temp_size_in_bytes / 1e6,
                "energy [Ha]": float(jnp.median(compiled(arrays, walkers).real)),
            }
        ),
        flush=True,
    )
    for _ in sys.stdin:
        begin = time.perf_counter()
        compiled(arrays, walkers).block_until_ready()
        print((time.perf_counter() - begin) / setting.walkers, flush=True)


class Worker:
    """A process that measures one setting with one checkout."""

    def __init__(self, name: str, root: pathlib.Path):
        # What is in the cache would compile in no time.
        threads = "--xla_cpu_multi_thread_eigen=false"
        settings = {
            "PYTHONPATH": str(root),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {threads}",
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | settings,
            text=True,
        )
        self.found = json.loads(self.line())
        self.seconds = []

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("A process has failed, see above.")
        return line

    def measure(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.line()))

    def end(self) -> None:
        self.process.communicate()


def peak() -> float:
    """Operations per second of a large matrix product."""
    a = jnp.ones((1024, 1024), jnp.float32)
    return 2 * 1024**3 / min(times(jax.jit(jnp.dot), a, a, repeats=20))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=None)
    parser.add_argument("--against", type=pathlib.Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--work", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work)
    speed = peak()
    print(f"matrix products: {speed / 1e9:.0f} GFlop/s")
    for name in options.settings or SETTINGS:
        roots = [ROOT] if options.against is None else [options.against, ROOT]
        workers = [Worker(name, root.absolute()) for root in roots]
        for _ in range(options.repeats):
            for worker in workers:
                worker.measure()
        for worker in workers:
            worker.end()
            found, seconds = worker.found, min(worker.seconds)
            found["seconds"] = seconds
            found["share"] = found["operations"] / seconds / speed
        print(name)
        for key in workers[0].found:
            values = [worker.found[key] for worker in workers]
            print(f"{key:>16}", *(f"{value:12.4g}" for value in values), end="")
            print("" if len(values) == 1 else f"{values[1] / values[0]:8.2f}")


if __name__ == "__main__":
    main()
