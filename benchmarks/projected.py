"""Does it help to train for the energy after averaging?

    taskset -c 1 python benchmarks/projected.py --seconds 230

Training with the energy of the projection in the objective, against training without
and with other uses of symmetry: LiH, for the same time each from the same start. A
plain run of some steps is the start. How long a step takes is measured for all in turn,
several times, and the fastest counts: each gets the steps that fit into the time. Over
these the learning rate falls to the same value for all. Seconds are processor time, on
one core that other programs may use as well. Every result is then evaluated as trained
and averaged over the group, with the walkers of the start moved on.
"""

import argparse
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

import eqsym as eqs


LATTICE_CONSTANT = 4.02  # Angstrom
WALKERS = 256  # of plain training; other strategies get as many local energies
PRETRAINING_STEPS = 300
START_STEPS = 500
LAST_STEP = 1700  # of the learning rate
BURN_IN = 20
CHUNK = 64
ROUNDS = 5  # of timing
TIMED_STEPS = 4  # in each


class Rate(eqx.Module):
    """The learning rate of `examples/lih.py` from its step `first` to the last one, in
    `steps` steps."""

    first: int
    steps: jax.Array

    def __call__(self, step):
        along = self.first + (LAST_STEP - self.first) * step / self.steps
        return eqs.InverseDecay(0.1)(along)


@eqx.filter_jit
def advance(vmc, state):
    return vmc.step(state)


def several(vmc, state, steps):
    seen = None
    for _ in range(steps):
        state, seen = advance(vmc, state)
    return jax.block_until_ready((state, seen))


def strategies(group):
    """Names, strategies and their images per walker."""
    average = eqs.GroupAverage(group)

    def project(**kwargs):
        return eqs.ProjectedTraining(average, chunk=CHUNK, **kwargs)

    return {
        "plain": (eqs.PlainTraining(), 1),
        "augmented": (eqs.AugmentedTraining(group, 4, chunk=CHUNK), 4),
        "augmented, unweighted": (eqs.AugmentedTraining(group, 4, weighted=False), 4),
        "random subset of 4": (eqs.SymmetrizedTraining(eqs.RandomSubset(group, 4)), 4),
        "P alone, all": (project(share=0.0, orbit_points=group.order), 2),
        "P alone, 2": (project(share=0.0), 2),
        "half P, all": (project(orbit_points=group.order), 2),
        "half P, 2": (project(), 2),
        "half P, 4": (project(local_energies=4), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/projected"))
    parser.add_argument("--seconds", type=float, default=230.0, help="of training each")
    parser.add_argument("--start-steps", type=int, default=START_STEPS)
    parser.add_argument("--pretraining-steps", type=int, default=PRETRAINING_STEPS)
    parser.add_argument("--evaluation-steps", type=int, default=100)
    parser.add_argument("--walkers", type=int, default=WALKERS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="strategies, by name")
    options = parser.parse_args()

    crystal = eqs.Crystal.rock_salt("Li", "H", a=LATTICE_CONSTANT, unit="angstrom")
    options.path.mkdir(parents=True, exist_ok=True)
    mean_field = eqs.MeanField.solve(
        crystal, basis="cc-pvdz", path=options.path / "mean_field.npz"
    )
    group = eqs.SpaceGroup.of(crystal)
    hamiltonian = eqs.Hamiltonian(crystal)
    keys = jax.random.split(jax.random.key(options.seed), 4)

    def trainer(strategy, first, steps):
        rate = Rate(first, jnp.asarray(float(steps)))
        return eqs.VMC(
            hamiltonian,
            eqs.Metropolis(10),
            eqs.Spring(rate, chunk=CHUNK),
            strategy=strategy,
            chunk=CHUNK,
        )

    first = options.start_steps
    start = eqs.run(
        trainer(eqs.PlainTraining(), 0, LAST_STEP),
        eqs.SolidNet(crystal, mean_field.occupation, key=keys[0]),
        steps=options.start_steps,
        walkers=options.walkers,
        key=keys[1],
        pretraining=eqs.Pretraining(mean_field, options.pretraining_steps),
        path=options.path / f"start_{options.seed}",
    )

    chosen = strategies(group)
    names = options.only or list(chosen)
    trainers, states, times = {}, {}, {name: [] for name in names}
    for name in names:
        strategy, images = chosen[name]
        trainers[name] = trainer(strategy, first, 1000)
        walkers = start.walkers[: max(2, options.walkers // images)]
        states[name] = trainers[name].init(start.wavefunction, walkers, key=keys[2])
        several(trainers[name], states[name], 1)
    for _ in range(ROUNDS):
        for name in names:
            begin = time.process_time()
            several(trainers[name], states[name], TIMED_STEPS)
            times[name].append((time.process_time() - begin) / TIMED_STEPS)

    def evaluated(name, wavefunction):
        found = eqs.post_hoc(
            wavefunction,
            hamiltonian,
            group,
            eqs.Chains(
                start.walkers,
                key=keys[3],
                steps=options.evaluation_steps,
                burn_in=BURN_IN,
                chunk=CHUNK,
            ),
        )
        report[name] |= found.to_dict()
        averaged = "-" if found.averaged is None else found.averaged.energy
        print(
            f"| {name} | {report[name]['steps']} | {report[name]['seconds']:.0f} | "
            f"{found.plain.energy} | {averaged} | {found.difference} | "
            f"{found.weight} | {found.plain.variance} |",
            flush=True,
        )

    print(f"LiH, {options.seconds:.0f} s each; Ha per primitive cell")
    print(
        "| | steps | seconds | plain | averaged | averaged - plain | weight of Pf | "
        "variance of plain |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    report = {"start": {"steps": 0, "seconds": 0.0}}
    evaluated("start", start.wavefunction)
    for name in names:
        steps = max(1, round(options.seconds / min(times[name])))
        begin = time.process_time()
        state, _ = several(trainer(chosen[name][0], first, steps), states[name], steps)
        seconds = time.process_time() - begin
        report[name] = {"steps": steps, "seconds": seconds, "step": min(times[name])}
        evaluated(name, state.wavefunction)
        file = options.path / f"projected_{options.seed}.json"
        file.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
