"""How do the parts of a SPRING step grow with the number of walkers?

    taskset -c 0 python benchmarks/spring.py

Differentiation of every walker, the Gram matrix of the scores, its factorization and
solution, and the products with the scores, each compiled by itself. Seconds of the
processor, which other load disturbs least, and temporary memory.
"""

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqsym as eqs
from eqsym._training.optimizer import _solve


class Setting(NamedTuple):
    """A crystal with a network, and walkers differentiated at a time."""

    crystal: Callable[[], eqs.Crystal]
    widths: tuple[tuple[int, int], ...]
    determinants: int
    chunk: int


def lih() -> eqs.Crystal:
    return eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")


def graphene() -> eqs.Crystal:
    return eqs.Crystal.graphene(a=2.4612, vacuum=26.4589, unit="angstrom")


SETTINGS = {
    "lih-small": Setting(lih, ((64, 16),) * 3, 4, 64),
    "lih": Setting(lih, ((256, 32),) * 4, 16, 32),
    "graphene-small": Setting(graphene, ((64, 16),) * 3, 4, 32),
    "graphene": Setting(graphene, ((256, 32),) * 3, 8, 16),
}
DAMPING = 1e-3


def measured(function: Callable, *arguments: Any, repeats: int) -> tuple[float, float]:
    """The least processor time of a call in seconds, and its temporary memory in MB."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.process_time() - start)
    memory = compiled.memory_analysis()
    return min(times), memory.temp_size_in_bytes / 2**20 if memory else float("nan")


def compare(name: str, counts: list[int], repeats: int) -> None:
    setting = SETTINGS[name]
    crystal = setting.crystal()
    up, down = crystal.electrons
    occupation = eqs.Occupation((np.zeros((up, 3)), np.zeros((down, 3))))
    key = jax.random.key(0)
    wavefunction = eqs.SolidNet(
        crystal,
        occupation,
        widths=setting.widths,
        determinants=setting.determinants,
        key=key,
    )
    parameters, rest = eqs.partition(wavefunction)
    size = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    print(
        f"\n{name}: {sum(crystal.electrons)} electrons, {len(setting.widths)} layers "
        f"of {setting.widths[0]}, {setting.determinants} determinants, {size} "
        "parameters, "
        f"{jax.devices()[0].platform}. Seconds (temporary MB)"
    )
    print(
        "| walkers | differentiation | Gram | solve | products |\n|---|---|---|---|---|"
    )
    for count in counts:
        walkers = eqs.initial_walkers(crystal, count, key=key)
        residual = jnp.linspace(-1.0, 1.0, count) / count**0.5

        def differentiated(parameters, walkers):
            scores = eqs.Scores(eqs.combine(parameters, rest), walkers)  # noqa: B023
            return scores.factored(setting.chunk)

        factored = eqx.filter_jit(differentiated)(parameters, walkers)
        arrays, fixed = eqx.partition(factored, eqx.is_array)

        def gram(arrays):
            return eqx.combine(arrays, fixed).gram()  # noqa: B023

        def products(arrays, direction, residual):
            factored = eqx.combine(arrays, fixed)  # noqa: B023
            return factored.apply(direction), factored.transpose(residual)

        cells = [
            measured(differentiated, parameters, walkers, repeats=repeats),
            measured(gram, arrays, repeats=repeats),
            measured(
                lambda gram, residual: _solve(gram, DAMPING, residual),
                jax.jit(gram)(arrays),
                residual,
                repeats=repeats,
            ),
            measured(products, arrays, parameters, residual, repeats=repeats),
        ]
        shown = (f"{seconds:.3f} ({memory:.0f})" for seconds, memory in cells)
        print(f"| {count} |", " | ".join(shown), "|", flush=True)
        del factored, arrays
        gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--systems", nargs="+", choices=SETTINGS, default=list(SETTINGS)
    )
    parser.add_argument(
        "--walkers", nargs="+", type=int, default=[256, 512, 1024, 2048, 4096]
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.systems:
        compare(name, options.walkers, options.repeats)


if __name__ == "__main__":
    main()
