"""Rock-salt LiH, from the crystal to the symmetrized ground state.

    python examples/lih.py
    python examples/lih.py --pseudopotential ccecp

Mean field, pretraining, training, then averaging over the 48 operations of the space
group. Writes a run folder and prints one table. Ctrl-C saves; run again to resume. With
a pseudopotential there are two electrons instead of four.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import eqsym as eqs


LATTICE_CONSTANT = 4.02  # Angstrom
WALKERS = 256
PRETRAINING_STEPS = 300
STEPS = 1700
EVALUATION_STEPS = 160
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, help="of the run folder")
    parser.add_argument("--pseudopotential", help="such as ccecp")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pretraining-steps", type=int, default=PRETRAINING_STEPS)
    parser.add_argument("--evaluation-steps", type=int, default=EVALUATION_STEPS)
    parser.add_argument("--walkers", type=int, default=WALKERS)
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()
    cores = options.pseudopotential
    path = options.path or Path("runs/lih" if cores is None else f"runs/lih-{cores}")
    start = time.monotonic()

    crystal = eqs.Crystal.rock_salt(
        "Li", "H", a=LATTICE_CONSTANT, unit="angstrom", pseudopotential=cores
    )
    mean_field = eqs.MeanField.solve(crystal, path=path / "mean_field.npz")
    print(f"Mean field: {mean_field.energy:.5f} Ha per cell")

    network_key, key, evaluation_key = jax.random.split(jax.random.key(SEED), 3)
    wavefunction = eqs.SolidNet(crystal, mean_field.occupation, key=network_key)
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(moves=10),
        eqs.Spring(),
        chunk=64,
    )
    result = eqs.run(
        vmc,
        wavefunction,
        steps=options.steps,
        walkers=options.walkers,
        key=key,
        pretraining=eqs.Pretraining(mean_field, options.pretraining_steps),
        path=path,
    )

    group = eqs.SpaceGroup.of(crystal)
    post_hoc = eqs.post_hoc(
        result.wavefunction,
        vmc.hamiltonian,
        group,
        eqs.Chains(result.walkers, key=evaluation_key, steps=options.evaluation_steps),
    )
    print(f"\nLiH, averaged over {group.order} operations; per primitive cell:")
    print(post_hoc)
    report = json.dumps(post_hoc.to_dict(), indent=2)
    (path / "post_hoc.json").write_text(report)

    references = {"Hartree-Fock": mean_field.energy}
    if cores is None:
        references["FCI, cc-pVDZ"] = -8.4880
    training = eqs.plot.training(result.history, references=references)
    training.savefig(path / "training.png")

    # One spin-up and one spin-down electron on each nucleus, or one of each: every
    # operation of the group leaves them where they are, but for vectors of the lattice,
    # so an invariant function looks symmetric.
    count = sum(crystal.electrons)
    electrons = jnp.tile(jnp.asarray(crystal.cart_positions), (2, 1))[:count]
    edge = crystal.cart_positions[1, 0] * 2
    sides = [[edge, 0, 0], [0, edge, 0]]
    averaged = eqs.Symmetrized(result.wavefunction, eqs.GroupAverage(group))
    scans = {
        "plain": eqs.translation_scan(result.wavefunction, electrons, sides),
        "averaged": eqs.translation_scan(averaged, electrons, sides),
    }
    eqs.plot.scans(scans).savefig(path / "scan.png")
    print(f"\nWrote {path} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
