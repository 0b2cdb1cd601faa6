"""Training from another crystal's network, against training from the mean field.

    taskset -c 1 python benchmarks/transfer.py --path runs/transfer --seeds 0 1 2

LiH: an AttentionNet with a Jastrow factor is trained in the primitive cell, and goes on
in a supercell and at a twist. Prints mean energies of 50 steps each, and after how many
steps the mean of the last 50 is as low as at the end of the run from the mean field.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import eqsym as eqs


WALKERS = 256
PRETRAINING_STEPS = 200
WINDOW = 50
TARGETS = {
    "supercell 2x1x1": dict(supercell=(2, 1, 1)),
    "twist (1/4, 1/4, 1/4)": dict(twist=(0.25, 0.25, 0.25)),
}


def crystal_of(**kwargs):
    return eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom", **kwargs)


def trained(crystal, network, steps, key, path, pretraining=None):
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal), eqs.Metropolis(moves=10), eqs.Spring(), chunk=32
    )
    return eqs.run(
        vmc,
        network,
        steps=steps,
        walkers=WALKERS,
        key=key,
        pretraining=pretraining,
        path=path,
    )


def fresh(mean_field, width, key):
    network = eqs.AttentionNet(
        mean_field.crystal,
        mean_field.occupation,
        width=width,
        layers=2,
        pair_width=8,
        determinants=2,
        key=key,
    )
    return eqs.Jastrow(network)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--first-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--path", type=Path, default=Path("runs/transfer"))
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()
    options.path.mkdir(parents=True, exist_ok=True)

    def solved(name, **kwargs):
        file = options.path / f"{''.join(filter(str.isalnum, name))}.npz"
        return eqs.MeanField.solve(crystal_of(**kwargs), path=file)

    first = solved("first")
    for seed in options.seeds:
        keys = jax.random.split(jax.random.key(seed), 4)
        start = trained(
            first.crystal,
            fresh(first, options.width, keys[0]),
            options.first_steps,
            keys[1],
            options.path / f"first-{seed}",
            eqs.Pretraining(first, PRETRAINING_STEPS),
        )
        for name, kwargs in TARGETS.items():
            mean_field = solved(name, **kwargs)
            crystal = mean_field.crystal
            folder = f"{''.join(filter(str.isalnum, name))}-{seed}"
            networks = {
                "mean field": fresh(mean_field, options.width, keys[0]),
                "transfer": eqs.transfer(
                    start.wavefunction, crystal, mean_field, key=keys[3]
                ),
            }
            means = {}
            for kind, network in networks.items():
                pretraining = None
                if kind == "mean field":
                    pretraining = eqs.Pretraining(mean_field, PRETRAINING_STEPS)
                result = trained(
                    crystal,
                    network,
                    options.steps,
                    keys[2],
                    options.path / f"{folder}-{kind.replace(' ', '-')}",
                    pretraining,
                )
                energy = np.asarray(result.history["energy"])
                means[kind] = np.convolve(energy, np.ones(WINDOW) / WINDOW, "valid")
                every = means[kind][::WINDOW]
                print(f"{name}, seed {seed}, {kind}:", *np.round(every, 4), flush=True)
            goal = means["mean field"][-1]
            below = np.flatnonzero(means["transfer"] <= goal)
            reached = f"{below[0] + WINDOW}" if len(below) else "not reached"
            print(
                f"{name}, seed {seed}: Hartree-Fock {mean_field.energy:.4f}, "
                f"{goal:.4f} Ha after {options.steps} steps, by transfer {reached}",
                flush=True,
            )


if __name__ == "__main__":
    main()
