"""What pseudopotentials cost: the local energy and its parts, and a training step.

    taskset -c 0 python benchmarks/pseudopotential.py
    taskset -c 0 python benchmarks/pseudopotential.py --systems lih --points 6 12 26

Networks are not trained, and walkers come from the sampler after some steps: the same
work as in training. Times are per walker, the best of some repetitions.

    python benchmarks/pseudopotential.py --mean-field runs/lih-ccecp/mean_field.npz

does something else: the pseudopotential energy of a Hartree-Fock determinant with all
quadratures, random and fixed, at the same walkers.
"""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from timing import clock, times

import eqsym as eqs


CRYSTALS: dict[str, Any] = {
    "lih": lambda **given: eqs.Crystal.rock_salt(
        "Li", "H", a=4.02, unit="angstrom", **given
    ),
    "diamond": lambda **given: eqs.Crystal.diamond(
        "C", a=3.567, unit="angstrom", **given
    ),
    "silicon": lambda **given: eqs.Crystal.diamond(
        "Si", a=5.431, unit="angstrom", **given
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--systems", nargs="+", choices=CRYSTALS, default=["lih", "diamond", "silicon"])
    add("--points", nargs="+", type=int, default=[12])
    add("--amplitudes", type=int, help="with an electron moved, for each walker")
    add("--walkers", type=int, default=256)
    add("--chunk", type=int, default=64, help="walkers at a time")
    add("--equilibration", type=int, default=20, help="steps of the sampler before")
    add("--repeats", type=int, default=3)
    add("--all-electron", action="store_true", help="without pseudopotentials too")
    add("--mean-field", help="a file: compares quadratures for its determinant")
    options = parser.parse_args()
    if options.mean_field:
        return compare_quadratures(eqs.MeanField.load(options.mean_field), options)
    print("ms per walker: kinetic, Ewald, pseudopotential, local energy; step; and the")
    print("local energy over its kinetic part")
    for name in options.systems:
        for points in options.points:
            crystal = CRYSTALS[name](pseudopotential="ccecp")
            quadrature = eqs.SphericalQuadrature(points, amplitudes=options.amplitudes)
            hamiltonian = eqs.Hamiltonian(crystal, quadrature=quadrature)
            measure(f"{name}, ccecp, {points} points", hamiltonian, options)
        if options.all_electron:
            measure(
                f"{name}, all electrons", eqs.Hamiltonian(CRYSTALS[name]()), options
            )


def measure(name: str, hamiltonian: eqs.Hamiltonian, options: argparse.Namespace):
    crystal = hamiltonian.crystal
    up, down = (np.zeros((count, 3)) for count in crystal.electrons)
    f = eqs.SolidNet(crystal, eqs.Occupation((up, down)), key=jax.random.key(0))
    walkers = eqs.initial_walkers(crystal, options.walkers, key=jax.random.key(1))
    vmc = eqs.VMC(hamiltonian, eqs.Metropolis(), eqs.Spring(), chunk=options.chunk)
    state = vmc.init(f, walkers, key=jax.random.key(2))
    move = eqx.filter_jit(vmc.equilibrate)
    for _ in range(options.equilibration):
        state = move(state)
    walkers = state.sampler.walkers
    keys = jax.random.split(jax.random.key(3), len(walkers))

    def timed(part) -> float:
        @eqx.filter_jit
        def over_walkers(f, walkers, keys):
            one = lambda pair: part(f, *pair)
            return jax.lax.map(one, (walkers, keys), batch_size=options.chunk)

        return best(over_walkers, f, walkers, keys)

    def best(function, *arguments) -> float:
        found = times(function, *arguments, repeats=options.repeats, clock=clock)
        return 1e3 * min(found) / len(walkers)

    kinetic = timed(lambda f, x, key: hamiltonian.kinetic(f, x))
    ewald = timed(lambda f, x, key: hamiltonian.ewald(x))
    cores = hamiltonian.pseudopotential
    core = timed(lambda f, x, key: cores(f, x, key=key)) if cores else 0.0
    total = timed(lambda f, x, key: hamiltonian.local_energy(f, x, key=key).total)
    step_time = best(eqx.filter_jit(vmc.step), state)
    moved = "" if cores is None else f", {cores.amplitudes} amplitudes"
    print(
        f"{name}{moved}: {kinetic:.4f}, {ewald:.4f}, {core:.4f}, {total:.4f}; "
        f"{step_time:.4f}; {total / kinetic:.2f}",
        flush=True,
    )
    if cores is not None:
        noise(hamiltonian, f, walkers, options)


def noise(
    hamiltonian: eqs.Hamiltonian,
    f: eqs.SolidNet,
    walkers: jax.Array,
    options: argparse.Namespace,
):
    """How much of the variance of the local energy is noise of the quadrature."""

    @eqx.filter_jit
    def pair(f, walkers):
        def both(args):
            x, keys = args
            local = lambda key: hamiltonian.local_energy(f, x, key=key).total.real
            return jax.vmap(local)(keys)

        keys = jax.random.split(jax.random.key(4), (len(walkers), 2))
        return jax.lax.map(both, (walkers, keys), batch_size=options.chunk)

    one, two = jnp.asarray(pair(f, walkers)).T
    share = np.mean((one - two) ** 2) / 2
    print(f"  variance {np.var(one):.3g} Ha^2, of which noise {share:.2g}", flush=True)


def compare_quadratures(mean_field: eqs.MeanField, options: argparse.Namespace):
    """Means over walkers, and the noise of the points, in Ha per primitive cell."""
    crystal, f = mean_field.crystal, eqs.HartreeFock(mean_field)
    sampler = eqs.Metropolis()
    walkers = eqs.initial_walkers(crystal, options.walkers, key=jax.random.key(1))
    state = sampler.init(f, walkers, key=jax.random.key(2))
    move = eqx.filter_jit(sampler.step)
    for _ in range(options.equilibration):
        state = move(f, state)
    keys = jax.random.split(jax.random.key(3), len(walkers))
    print(f"{mean_field!r}, {len(walkers)} walkers: points, random, noise, fixed")

    def energies(points: int, random: bool):
        # All pairs, so that the noise is of the points alone.
        amplitudes = 10_000 if random else None
        quadrature = eqs.SphericalQuadrature(
            points, random=random, amplitudes=amplitudes
        )
        cores = eqs.Pseudopotential(crystal, quadrature)

        @eqx.filter_jit
        def over_walkers(walkers, keys):
            def one(pair):
                x, key = pair
                if not random:
                    return cores(f, x).real[None]
                return jax.vmap(lambda k: cores(f, x, key=k).real)(
                    jax.random.split(key)
                )

            return jax.lax.map(one, (walkers, keys))

        return np.asarray(over_walkers(state.walkers, keys)) / crystal.cells

    exact = np.mean(energies(50, True), axis=1)
    for points in (6, 12, 26, 32, 50):
        turned, fixed = energies(points, True), energies(points, False)[:, 0]
        noise = np.sqrt(np.mean(np.diff(turned) ** 2) / 2)
        gaps = [np.mean(turned, axis=1) - exact, fixed - exact]
        means, errors = zip(
            *((np.mean(g), np.std(g) / np.sqrt(len(g))) for g in gaps), strict=True
        )
        print(
            f"{points}: {means[0]:+.6f}({errors[0]:.6f}), {noise:.5f}, "
            f"{means[1]:+.6f}({errors[1]:.6f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
