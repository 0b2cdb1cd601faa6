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
from iteration import CRYSTALS
from scaling import LARGE, Network, SMALL
from timing import times

import eqsym as eqs
from eqsym._training.optimizer import _solve


class Setting(NamedTuple):
    """A crystal with a network, and walkers differentiated at a time."""

    crystal: str
    network: Network
    chunk: int


SETTINGS = {
    "lih-small": Setting("lih", SMALL, 64),
    "lih": Setting("lih", Network(((256, 32),) * 4, 16), 32),
    "graphene-small": Setting("graphene", SMALL, 32),
    "graphene": Setting("graphene", LARGE, 16),
}
DAMPING = 1e-3


def measured(function: Callable, *arguments: Any, repeats: int) -> tuple[float, float]:
    """The least processor time of a call in seconds, and its temporary memory in MB."""
    compiled = jax.jit(function).lower(*arguments).compile()
    taken = times(compiled, *arguments, repeats=repeats, clock=time.process_time)
    memory = compiled.memory_analysis()
    return min(taken), memory.temp_size_in_bytes / 2**20 if memory else float("nan")


def compare(name: str, counts: list[int], repeats: int) -> None:
    setting = SETTINGS[name]
    network, crystal = setting.network, CRYSTALS[setting.crystal]()
    wavefunction, key = network(crystal), jax.random.key(0)
    parameters, rest = eqs.partition(wavefunction)
    size = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    print(
        f"\n{name}: {sum(crystal.electrons)} electrons, {len(network.widths)} layers "
        f"of {network.widths[0]}, {network.determinants} determinants, {size} "
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
