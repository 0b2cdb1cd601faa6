"""Times one training iteration after compilation: sampling, local energy, optimizer.

    python benchmarks/iteration.py --system lih --widths 256,32 --layers 4 \
        --determinants 16 --walkers 256 --moves 10

Compare systems and settings within one run on a quiet machine; for one core start it
with `taskset -c 0`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

import eqsym as eqs
from eqsym._core.math import chunked_vmap


CRYSTALS = {
    "lih": lambda **kwargs: eqs.Crystal.rock_salt(
        "Li", "H", a=4.02, unit="angstrom", **kwargs
    ),
    "graphene": lambda **kwargs: eqs.Crystal.graphene(
        a=2.4612, vacuum=26.4589, unit="angstrom", **kwargs
    ),
    "hydrogen": lambda **kwargs: eqs.Crystal.hydrogen_chain(
        spacing=1.8, vacuum=20.0, atoms=4, unit="bohr", **kwargs
    ),
}


def seconds(function: Callable, *arguments, repeats: int) -> float:
    """Median wall time of a call, compilation and one warm-up call excluded."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--system", choices=CRYSTALS, default="lih")
    parser.add_argument("--supercell", default="1,1,1", help="of a closed shell")
    parser.add_argument("--widths", default="64,16", help="per electron and per pair")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--determinants", type=int, default=4)
    parser.add_argument("--walkers", type=int, default=256)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices")
    parser.add_argument(
        "--complex", action="store_true", help="a complex wave function"
    )
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)

    supercell = tuple(map(int, options.supercell.split(",")))
    crystal = CRYSTALS[options.system](supercell=supercell)
    # As many bands at every k-point, without a mean field.
    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    bands = sum(crystal.electrons) // (2 * crystal.cells)
    occupied = np.repeat(kpoints, bands, axis=0)
    occupation = eqs.Occupation((occupied, occupied))
    key = jax.random.key(0)
    one, two = (int(width) for width in options.widths.split(","))
    wavefunction = eqs.SolidNet(
        crystal,
        occupation,
        widths=((one, two),) * options.layers,
        determinants=options.determinants,
        real=False if options.complex else None,
        key=key,
    )
    hamiltonian = eqs.Hamiltonian(crystal)
    sampler = eqs.Metropolis(options.moves)
    optimizer = eqs.Spring(chunk=options.chunk)
    vmc = eqs.VMC(hamiltonian, sampler, optimizer, chunk=options.chunk)
    walkers = eqs.initial_walkers(crystal, options.walkers, key=key)
    if options.devices > 1:
        walkers = eqs.shard_walkers(walkers, eqs.device_mesh())
    state = vmc.init(wavefunction, walkers, key=key)
    walkers = state.sampler.walkers
    residual = walkers[:, 0, 0] + (0j if options.complex else 0.0)

    def kinetic_energies(wavefunction, walkers):
        return chunked_vmap(
            lambda electrons: hamiltonian.kinetic(wavefunction, electrons),
            walkers,
            options.chunk,
        )

    parts = {
        "amplitudes, one pass": (
            lambda w, x: jax.vmap(w)(x).log,
            (wavefunction, walkers),
        ),
        "sampling": (sampler.step, (wavefunction, state.sampler)),
        "kinetic energy": (
            kinetic_energies,
            (wavefunction, walkers),
        ),
        "Ewald sums": (lambda x: jax.vmap(hamiltonian.ewald)(x), (walkers,)),
        "optimizer": (
            lambda w, x, r, s: optimizer.step(eqs.Scores(w, x), r, s)[0],
            (wavefunction, walkers, residual, state.optimizer),
        ),
        "whole iteration": (vmc.step, (state,)),
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(eqs.partition(wavefunction)[0]))
    print(
        f"{options.system}, {'real' if wavefunction.real else 'complex'}: "
        f"{sum(crystal.electrons)} electrons, {options.walkers} "
        f"walkers, {options.moves} moves, {options.layers} layers of ({one}, {two}), "
        f"{options.determinants} determinants, {count} parameters, "
        f"{len(jax.devices())} x {jax.devices()[0].platform}"
    )
    for name, (function, arguments) in parts.items():
        taken = seconds(eqx.filter_jit(function), *arguments, repeats=options.repeats)
        print(f"{name:>22}  {taken:8.4f} s")
    step: Any = eqx.filter_jit(vmc.step)
    compiled = step.lower(state).compile().compiled
    mebibytes = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(f"{'memory of it':>22}  {mebibytes:8.0f} MiB")


if __name__ == "__main__":
    main()
