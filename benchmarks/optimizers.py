"""Times steps of SPRING and KFAC, derivatives by the parameters included, for more and
more walkers.

    taskset -c 1 python benchmarks/optimizers.py --walkers 256 512 1024 2048 4096

Both take turns, and the least time of each counts.
"""

import argparse
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np
from scaling import Network

import eqsym as eqs


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--walkers", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--widths", default="64,16", help="per electron and per pair")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--determinants", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--supercell", type=int, default=1, help="cells along an edge")
    options = parser.parse_args()

    crystal = eqs.Crystal.rock_salt(
        "Li", "H", a=4.02, unit="angstrom", supercell=options.supercell
    )
    one, two = (int(width) for width in options.widths.split(","))
    widths = ((one, two),) * options.layers
    network = Network(widths, options.determinants)(crystal)
    parameters = eqs.partition(network)[0]
    sizes = (x.size for x in jax.tree.leaves(parameters))
    print(f"{sum(crystal.electrons)} electrons, {sum(sizes)} parameters; seconds")
    print("walkers  SPRING    KFAC")
    optimizers: tuple[Any, ...] = (
        eqs.Spring(chunk=options.chunk),
        eqs.Kfac(chunk=options.chunk),
    )
    for count in options.walkers:
        walkers = eqs.initial_walkers(crystal, count, key=jax.random.key(1))
        residual = jax.random.normal(jax.random.key(2), (count,)) / count**0.5
        scores = eqs.Scores(network, walkers)
        steps = [
            (eqx.filter_jit(optimizer.step), optimizer.init(parameters))
            for optimizer in optimizers
        ]
        least = [np.inf, np.inf]
        for repeat in range(1 + options.repeats):
            for i, (step, state) in enumerate(steps):
                start = time.perf_counter()
                jax.block_until_ready(step(scores, residual, state))
                # The first time includes compilation.
                if repeat > 0:
                    least[i] = min(least[i], time.perf_counter() - start)
        print(f"{count:7d} {least[0]:7.3f} {least[1]:7.3f}", flush=True)


if __name__ == "__main__":
    main()
