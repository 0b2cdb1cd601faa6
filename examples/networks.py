"""Networks: SolidNet and AttentionNet, with and without a Jastrow factor.

    python examples/networks.py

LiH. Trains each network for as many steps from the same mean field, averages over the
space group, and prints the energies with the processor time of the training,
compilation included. Run again, with more --steps, to go on.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax

import eqsym as eqs


LATTICE_CONSTANT = 4.02  # Angstrom
WIDTH = 32
DETERMINANTS = 2
WALKERS = 256
PRETRAINING_STEPS = 200
STEPS = 400
EVALUATION_STEPS = 40
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/networks"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pretraining-steps", type=int, default=PRETRAINING_STEPS)
    parser.add_argument("--evaluation-steps", type=int, default=EVALUATION_STEPS)
    parser.add_argument("--walkers", type=int, default=WALKERS)
    parser.add_argument("--only", nargs="+", help="networks to train, by name")
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()

    crystal = eqs.Crystal.rock_salt("Li", "H", a=LATTICE_CONSTANT, unit="angstrom")
    options.path.mkdir(parents=True, exist_ok=True)
    mean_field = eqs.MeanField.solve(crystal, path=options.path / "mean_field.npz")
    group = eqs.SpaceGroup.of(crystal)
    keys = jax.random.split(jax.random.key(SEED), 3)

    settings: Any = dict(determinants=DETERMINANTS, key=keys[0])
    solid = eqs.SolidNet(
        crystal, mean_field.occupation, widths=[(WIDTH, WIDTH // 4)] * 2, **settings
    )
    attention = eqs.AttentionNet(
        crystal, mean_field.occupation, width=WIDTH, layers=2, pair_width=8, **settings
    )
    networks = {
        "SolidNet": solid,
        "SolidNet with Jastrow": eqs.Jastrow(solid),
        "AttentionNet": attention,
        "AttentionNet with Jastrow": eqs.Jastrow(attention),
    }
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal), eqs.Metropolis(moves=10), eqs.Spring(), chunk=64
    )
    print(f"Mean field: {mean_field.energy:.5f} Ha per cell")
    evaluations, seconds = {}, {}
    for name, network in networks.items():
        if options.only and name not in options.only:
            continue
        start = time.process_time()
        result = eqs.run(
            vmc,
            network,
            steps=options.steps,
            walkers=options.walkers,
            key=keys[1],
            pretraining=eqs.Pretraining(mean_field, options.pretraining_steps),
            path=options.path / name.replace(" ", "-"),
        )
        seconds[name] = time.process_time() - start
        chains = eqs.Chains(
            result.walkers, key=keys[2], steps=options.evaluation_steps, chunk=64
        )
        found = eqs.post_hoc(result.wavefunction, vmc.hamiltonian, group, chains)
        evaluations[name] = found.averaged
        print(f"{name}: plain {found.plain.energy} Ha", flush=True)

    print(f"\nAveraged over {group.order} operations; per primitive cell:")
    print(eqs.table(evaluations))
    times = ", ".join(f"{name} {spent:.0f} s" for name, spent in seconds.items())
    print(f"\nProcessor time of the trainings: {times}")


if __name__ == "__main__":
    main()
