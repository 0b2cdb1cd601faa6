"""What does the energy of an averaged wave function cost?

    python benchmarks/post_hoc.py --system lih
    python benchmarks/post_hoc.py --system graphene --walkers 128 --chunk 16

Compares the time that estimators of it need for the same error bar. Trains a network
for a short time first (once: the run folder is used again). Times are medians of calls
after compilation, on a CPU in seconds of processor time, which other load changes
little; start it with `taskset -c 0` for one core. The variance per sample is the
squared error bar times the number of samples, from the scatter of independent walkers:
it contains the autocorrelation of the chains. Three kinds of estimators:

- direct: Markov chains of |Pf|^2, 20 moves between samples, one local energy of P f
  for each. From walkers that have reached |Pf|^2; getting there is not counted.
- published (Huang et al. 2025): the same with 30,000 moves between samples, which are
  taken for independent. Extrapolated from the measured time of a move.
- orbit: `eqsym.post_hoc`, chains of |f|^2 with 20 moves between samples, and for each a
  number of amplitudes and of local energies of f.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from iteration import CRYSTALS
from timing import clock, seconds

import eqsym as eqs
from eqsym._core.math import chunked_vmap


PUBLISHED_MOVES = 30_000
BATCH = 256  # samples that times are given for


class Row(NamedTuple):
    """Seconds per batch for moves, amplitudes and local energies; variance per sample
    in Hartree squared per primitive cell."""

    name: str
    moves: float
    amplitudes: float
    energies: float
    variance: float

    def hours(self) -> float:
        """To an error of 1 mHa."""
        total = self.moves + self.amplitudes + self.energies
        return self.variance / 1e-6 / BATCH * total / 3600


def trained(
    options: argparse.Namespace,
) -> tuple[eqs.AbstractHamiltonian, eqs.RunResult]:
    """A network after a short training."""
    crystal = CRYSTALS[options.system]()
    options.path.mkdir(parents=True, exist_ok=True)
    mean_field = eqs.MeanField.solve(crystal, path=options.path / "mean_field.npz")
    network, key = jax.random.split(jax.random.key(0))
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(moves=10),
        eqs.Spring(),
        chunk=options.chunk,
    )
    result = eqs.run(
        vmc,
        eqs.SolidNet(crystal, mean_field.occupation, key=network),
        steps=options.steps,
        walkers=256,
        key=key,
        pretraining=eqs.Pretraining(
            mean_field, options.pretraining_steps, optimizer=optax.adam(3e-3)
        ),
        path=options.path,
    )
    return vmc.hamiltonian, result


def groups(crystal: eqs.Crystal) -> list[eqs.SpaceGroup]:
    """The space group, and of graphene also the part that leaves z alone."""
    group = eqs.SpaceGroup.of(crystal)
    if crystal.species != ("C", "C"):
        return [group]
    return [group.subgroup(np.flatnonzero(group.frac_rotations[:, 2, 2] == 1)), group]


def table(rows: list[Row]) -> str:
    """Text, with the times of the first two rows, published and direct, over others."""
    published, direct = rows[0].hours(), rows[1].hours()
    lines = [
        f"{'':>28} {'moves':>9} {'amplitudes':>10} {'energies':>9} {'variance':>9} "
        f"{'to 1 mHa':>9} {'published/':>10} {'direct/':>8}",
        f"{'':>28} {'[s]':>9} {'[s]':>10} {'[s]':>9} {'[Ha^2]':>9} {'[h]':>9}",
    ]
    for row in rows:
        hours = row.hours()
        lines.append(
            f"{row.name:>28} {row.moves:9.3f} {row.amplitudes:10.3f} "
            f"{row.energies:9.3f} {row.variance:9.3f} {hours:9.3g} "
            f"{published / hours:10.1f} {direct / hours:8.1f}"
        )
    return "\n".join(lines)


def compare(
    wavefunction: eqs.AbstractWavefunction,
    hamiltonian: eqs.AbstractHamiltonian,
    group: eqs.SpaceGroup,
    walkers: jax.Array,
    options: argparse.Namespace,
) -> list[Row]:
    """All estimators for one group."""
    averaged = eqs.Symmetrized(wavefunction, eqs.GroupAverage(group))
    sampler = eqs.Metropolis(options.moves)
    chains = eqs.Chains(
        walkers,
        key=jax.random.key(1),
        steps=options.samples,
        burn_in=options.burn_in,
        sampler=sampler,
        chunk=options.chunk,
    )

    def timed(function, *arguments):
        found = seconds(
            eqx.filter_jit(function), *arguments, repeats=options.repeats, clock=clock
        )
        return found * BATCH / len(walkers)

    def moves(function):
        state = sampler.init(function, walkers, key=jax.random.key(0))
        return timed(sampler.step, function, state)

    def energies(function, walkers):
        return chunked_vmap(
            lambda x: hamiltonian.local_energy(function, x).total,
            walkers,
            options.chunk,
        )

    def amplitudes(function, walkers, count):
        some = np.arange(count)
        return chunked_vmap(
            lambda x: jax.vmap(function)(group.apply_inverse(x, some)).log,
            walkers,
            options.chunk,
        )

    def variance(estimate: eqs.Estimate, samples: int) -> float:
        return estimate.error**2 * samples

    direct = eqs.evaluate(averaged, hamiltonian, chains)
    move, energy = moves(averaged), timed(energies, averaged, walkers)
    scale = PUBLISHED_MOVES / options.moves
    assert direct.variance is not None
    rows = [
        Row("published", move * scale, 0.0, energy, direct.variance.mean),
        Row("direct", move, 0.0, energy, variance(direct.energy, direct.samples)),
    ]
    print(*rows, sep="\n", flush=True)
    move, energy = moves(wavefunction), timed(energies, wavefunction, walkers)
    for points in sorted({*options.orbit_points, group.order}):
        if points > group.order:
            continue
        amplitude = timed(amplitudes, wavefunction, walkers, points)
        for energies_each in sorted({*options.local_energies, group.order}):
            if energies_each > points:
                continue
            found = eqs.post_hoc(
                wavefunction,
                hamiltonian,
                group,
                chains,
                orbit_points=points,
                local_energies=energies_each,
            )
            assert found.averaged is not None, f"an average of 0: {found.weight}"
            rows.append(
                Row(
                    f"orbit, {points} and {energies_each}",
                    move,
                    amplitude,
                    energy * energies_each,
                    variance(found.averaged.energy, found.plain.samples),
                )
            )
            gap = found.averaged.energy.mean - direct.energy.mean
            error = np.hypot(found.averaged.energy.error, direct.energy.error)
            print(f"{rows[-1]}, {gap / error:+.1f} errors from direct", flush=True)
            print(f"{found}\n", flush=True)
    print(f"direct: {direct.energy} Ha, variance {direct.variance} Ha^2\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--system", choices=CRYSTALS, default="lih")
    parser.add_argument("--path", type=Path, help="runs/post_hoc_<system> by default")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--pretraining-steps", type=int, default=300)
    parser.add_argument("--walkers", type=int, default=256)
    parser.add_argument("--moves", type=int, default=20, help="between samples")
    parser.add_argument("--samples", type=int, default=20, help="of every walker")
    parser.add_argument("--burn-in", type=int, default=20, help="before the first")
    parser.add_argument(
        "--orbit-points", type=int, nargs="+", default=[4, 8], help="and all"
    )
    parser.add_argument(
        "--local-energies", type=int, nargs="+", default=[1, 2, 4], help="and all"
    )
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.path is None:
        options.path = Path("runs") / f"post_hoc_{options.system}"

    hamiltonian, result = trained(options)
    walkers = result.walkers[: options.walkers]
    for group in groups(hamiltonian.crystal):
        rows = compare(result.wavefunction, hamiltonian, group, walkers, options)
        print(
            f"{options.system}, {group.order} operations, {len(walkers)} walkers, "
            f"{options.samples} samples of each; seconds per {BATCH} samples; orbit: "
            f"amplitudes and local energies per sample\n{table(rows)}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
