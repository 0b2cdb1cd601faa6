"""Times one training iteration and its parts: sampling, local energy, optimizer.

    python benchmarks/iteration.py --system lih --widths 256,32 --layers 4 \
        --determinants 16 --walkers 256 --moves 10

Printed are wall times after compilation, temporary memory by XLA's plan, and seconds of
the processor for tracing and compilation. Compare systems and settings within one run
on a quiet machine; for one core start it with `taskset -c 0`.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
from scaling import Network
from timing import add_settings, report, seconds

import eqsym as eqs
from eqsym._core.math import chunked_vmap


LIH = functools.partial(eqs.Crystal.rock_salt, "Li", "H", a=4.02, unit="angstrom")
VACUUM = 50 * 0.529177210903  # Angstrom, of graphene
CRYSTALS = {
    "lih": LIH,
    "lih-2x2x2": functools.partial(LIH, supercell=2),
    "graphene": functools.partial(
        eqs.Crystal.graphene, a=2.4612, vacuum=VACUUM, unit="angstrom"
    ),
    "hydrogen": functools.partial(
        eqs.Crystal.hydrogen_chain, spacing=1.8, vacuum=20.0, atoms=4, unit="bohr"
    ),
}


def started(
    crystal: eqs.Crystal,
    network: Network,
    walkers: int,
    moves: int,
    optimizer: eqs.AbstractOptimizer,
    chunk: int | None = None,
    devices: int = 1,
) -> tuple[eqs.VMC, eqs.VMCState]:
    """What trains an untrained network, and the state before the first step."""
    sampler = eqs.Metropolis(moves)
    vmc = eqs.VMC(eqs.Hamiltonian(crystal), sampler, optimizer, chunk=chunk)
    key = jax.random.key(0)
    placed = eqs.initial_walkers(crystal, walkers, key=key)
    if devices > 1:
        placed = eqs.shard_walkers(placed, eqs.device_mesh())
    return vmc, vmc.init(network(crystal), placed, key=key)


def kinetic_energies(
    vmc: eqs.VMC, wavefunction: eqs.AbstractWavefunction, walkers: jax.Array
) -> jax.Array:
    kinetic: Any = vmc.hamiltonian
    return chunked_vmap(
        lambda electrons: kinetic.kinetic(wavefunction, electrons), walkers, vmc.chunk
    )


def parts(vmc: eqs.VMC, state: eqs.VMCState) -> dict[str, tuple[Callable, tuple]]:
    """An iteration and what it consists of: functions and arguments."""
    wavefunction, walkers = state.wavefunction, state.sampler.walkers
    hamiltonian: Any = vmc.hamiltonian
    is_real = jax.eval_shape(wavefunction, walkers[0]).is_real
    residual = walkers[:, 0, 0] + (0.0 if is_real else 0j)
    return {
        "amplitudes, one pass": (
            lambda w, x: jax.vmap(w)(x).log,
            (wavefunction, walkers),
        ),
        "sampling": (vmc.sampler.step, (wavefunction, state.sampler)),
        "kinetic energy": (
            functools.partial(kinetic_energies, vmc),
            (wavefunction, walkers),
        ),
        "Ewald sums": (lambda x: jax.vmap(hamiltonian.ewald)(x), (walkers,)),
        "optimizer": (
            lambda w, x, r, s: vmc.optimizer.step(eqs.Scores(w, x), r, s)[0],
            (wavefunction, walkers, residual, state.optimizer),
        ),
        "whole iteration": (vmc.step, (state,)),
    }


def timed(
    vmc: eqs.VMC, state: eqs.VMCState, repeats: int
) -> Iterator[tuple[str, float]]:
    """The parts with their seconds, one after the other."""
    for name, (function, arguments) in parts(vmc, state).items():
        yield name, seconds(eqx.filter_jit(function), *arguments, repeats=repeats)


def parameters(state: eqs.VMCState) -> int:
    leaves = jax.tree.leaves(eqs.partition(state.wavefunction)[0])
    return sum(leaf.size for leaf in leaves)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--system", choices=CRYSTALS, default="lih")
    parser.add_argument("--supercell", help="such as 3,1,1; of a closed shell")
    add_settings(parser, widths="64,16", layers=3, determinants=4, moves=20)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices")
    parser.add_argument(
        "--complex", action="store_true", help="a complex wave function"
    )
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)

    supercell = {}
    if options.supercell is not None:
        supercell["supercell"] = tuple(map(int, options.supercell.split(",")))
    crystal = CRYSTALS[options.system](**supercell)
    one, two = (int(width) for width in options.widths.split(","))
    vmc, state = started(
        crystal,
        Network(
            ((one, two),) * options.layers,
            options.determinants,
            False if options.complex else None,
        ),
        options.walkers,
        options.moves,
        eqs.Spring(chunk=options.chunk),
        options.chunk,
        options.devices,
    )
    network: Any = state.wavefunction
    print(
        f"{options.system}, {'real' if network.real else 'complex'}: "
        f"{sum(crystal.electrons)} electrons, {options.walkers} walkers, "
        f"{options.moves} moves, {options.layers} layers of ({one}, {two}), "
        f"{options.determinants} determinants, {parameters(state)} parameters, "
        f"{len(jax.devices())} x {jax.devices()[0].platform}"
    )
    report(
        (
            (name, eqx.filter_jit(function), arguments)
            for name, (function, arguments) in parts(vmc, state).items()
        ),
        options.repeats,
    )


if __name__ == "__main__":
    main()
