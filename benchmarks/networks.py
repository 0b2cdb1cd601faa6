"""Energies of networks against the processor time of their training.

    taskset -c 1 python benchmarks/networks.py --path runs/networks --seeds 0 1 2
    python benchmarks/networks.py --path runs/networks --figure networks.png
    taskset -c 1 python benchmarks/networks.py --cost

Trains SolidNet and AttentionNet, each with and without a Jastrow factor, and after some
numbers of steps averages over the group. Writes a line for each such energy to
`energies.csv` of the folder, and goes on where it was stopped. `--figure` draws what
the file has. `--cost` times local energies and steps for more and more electrons.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from timing import clock, seconds

import eqsym as eqs


WALKERS = 256
PRETRAINING_STEPS = 200
COLUMNS = ("crystal", "network", "seed", "steps", "seconds", "energy", "error", "plain")
CRYSTALS = {
    "lithium-hydride": lambda cores: eqs.Crystal.rock_salt(
        "Li", "H", a=4.02, unit="angstrom", pseudopotential=cores
    ),
    "diamond": lambda cores: eqs.Crystal.diamond(
        "C", a=3.567, unit="angstrom", pseudopotential=cores
    ),
    "graphene": lambda cores: eqs.Crystal.graphene(
        a=2.4612 / 0.529177210903, vacuum=100.0, unit="bohr", pseudopotential=cores
    ),
}


def network(name, crystal, occupation, width, key):
    """Of equal width. `AttentionNet full` has queries and keys of all electrons,
    `AttentionNet norm` normalizes, `+ Jastrow` is the factor."""
    kind, *factor = name.split(" + ")
    if kind == "SolidNet":
        made = eqs.SolidNet(
            crystal, occupation, widths=[(width, width // 4)] * 3, key=key
        )
    else:
        made = eqs.AttentionNet(
            crystal,
            occupation,
            width=width,
            pair_width=width // 4,
            split="full" not in kind,
            layer_norm="norm" in kind,
            key=key,
        )
    return eqs.Jastrow(made) if factor else made


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--crystal", choices=CRYSTALS, default="lithium-hydride")
    parser.add_argument("--pseudopotential")
    parser.add_argument(
        "--networks",
        nargs="+",
        default=[
            "SolidNet",
            "SolidNet + Jastrow",
            "AttentionNet",
            "AttentionNet + Jastrow",
        ],
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--evaluation-steps", type=int, default=80)
    parser.add_argument("--path", type=Path, default=Path("runs/networks"))
    parser.add_argument("--figure", type=Path, help="draw it, and train nothing")
    parser.add_argument("--cost", action="store_true", help="time, and train nothing")
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 3, 8])
    parser.add_argument("--walkers", type=int, default=128, help="to time")
    options = parser.parse_args()
    table = options.path / "energies.csv"
    label = "-".join(filter(None, (options.crystal, options.pseudopotential)))
    if options.figure:
        draw(table, label, options.figure)
        return
    if options.cost:
        cost(options)
        return
    options.path.mkdir(parents=True, exist_ok=True)
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    eqs.checkpoint.keep_compiled()
    crystal = CRYSTALS[options.crystal](options.pseudopotential)
    mean_field = eqs.MeanField.solve(crystal, path=options.path / f"{label}.npz")
    group = eqs.SpaceGroup.of(crystal)
    for seed in options.seeds:
        for name in options.networks:
            train(options, label, mean_field, group, name, seed)


@eqx.filter_jit
def energies(hamiltonian, network, chunks):
    energy = lambda electrons: hamiltonian.local_energy(network, electrons).total
    return jax.lax.map(jax.vmap(energy), chunks)


def cost(options) -> None:
    """Of LiH in longer and longer supercells."""
    print("electrons, network, parameters; ms per walker: local energy, training step")
    for cells in options.cells:
        crystal = eqs.Crystal.rock_salt(
            "Li", "H", a=4.02, unit="angstrom", supercell=(cells, 1, 1)
        )
        k = crystal.frac_kpoints @ crystal.lattice.reciprocal
        bands = np.repeat(k, 2, axis=0)
        occupation = eqs.Occupation((bands, bands))
        walkers = eqs.initial_walkers(crystal, options.walkers, key=jax.random.key(1))
        hamiltonian = eqs.Hamiltonian(crystal)
        # A power of two.
        chunk = 1 << min(options.walkers, max(1, 64 // cells**2)).bit_length() - 1
        vmc = eqs.VMC(hamiltonian, eqs.Metropolis(moves=10), eqs.Spring(), chunk=chunk)

        chunks = walkers.reshape(-1, chunk, *walkers.shape[1:])
        step = eqx.filter_jit(vmc.step)
        for name in options.networks:
            made = network(name, crystal, occupation, options.width, jax.random.key(0))
            state = vmc.init(made, walkers, key=jax.random.key(2))
            size = sum(x.size for x in jax.tree.leaves(eqs.partition(made)[0]))
            calls: Any = (energies, hamiltonian, made, chunks), (step, state)
            times = [
                1e3 * seconds(*call, repeats=5, clock=clock) / options.walkers
                for call in calls
            ]
            electrons = sum(crystal.electrons)
            print(f"{electrons:3} {name:24} {size:7}", *(f"{t:7.3f}" for t in times))


def train(options, label, mean_field, group, name, seed) -> None:
    table, crystal = options.path / "energies.csv", mean_field.crystal
    done = {
        int(row["steps"])
        for row in rows(table, label)
        if (row["network"], int(row["seed"])) == (name, seed)
    }
    keys = jax.random.split(jax.random.key(seed), 3)
    wavefunction = network(name, crystal, mean_field.occupation, options.width, keys[0])
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal), eqs.Metropolis(moves=10), eqs.Spring(), chunk=64
    )
    path = options.path / f"{label}-{name.replace(' + ', '-')}-{seed}"
    spent = Spent(path / "seconds.txt")
    for steps in options.steps:
        with spent:
            result = eqs.run(
                vmc,
                wavefunction,
                steps=steps,
                walkers=WALKERS,
                key=keys[1],
                pretraining=eqs.Pretraining(mean_field, PRETRAINING_STEPS),
                checkpoint_every=250,
                path=path,
            )
        if steps in done:
            continue
        chains = eqs.Chains(
            result.walkers, key=keys[2], steps=options.evaluation_steps, chunk=64
        )
        found = eqs.post_hoc(result.wavefunction, vmc.hamiltonian, group, chains)
        plain, averaged = found.plain, found.averaged
        assert plain is not None and averaged is not None
        row = (
            *(label, name, seed, steps, round(spent.seconds)),
            f"{float(averaged.energy):.6f}",
            f"{averaged.energy.error:.6f}",
            f"{float(plain.energy):.6f}",
        )
        with table.open("a") as file:
            csv.writer(file).writerow(row)
        print(*row, f"variance {averaged.variance}", flush=True)


class Spent:
    """Adds up processor time, also over several programs."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds = float(path.read_text()) if path.exists() else 0.0

    def __enter__(self):
        self.start = clock()

    def __exit__(self, *error):
        self.seconds += clock() - self.start
        self.path.write_text(str(self.seconds))


def rows(table: Path, crystal: str) -> list[dict[str, str]]:
    with table.open() as file:
        return [row for row in csv.DictReader(file) if row["crystal"] == crystal]


def draw(table: Path, crystal: str, path: Path) -> None:
    """Means over seeds, with the errors of these means."""
    import matplotlib.pyplot as plt

    curves = defaultdict(lambda: defaultdict(list))
    for row in rows(table, crystal):
        point = float(row["seconds"]), float(row["energy"]), float(row["error"])
        curves[row["network"]][int(row["steps"])].append(point)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    print("| network | steps | processor time [s] | energy [Ha] |\n|---|---|---|---|")
    for name, by_steps in curves.items():
        points = []
        for steps, found in sorted(by_steps.items()):
            seconds, energies, errors = np.array(found).T
            mean, error = np.mean(energies), np.linalg.norm(errors) / len(errors)
            if len(energies) > 1:
                error = max(error, np.std(energies, ddof=1) / len(energies) ** 0.5)
            points.append((np.mean(seconds), mean, error))
            print(
                f"| {name} | {steps} | {np.mean(seconds):.0f} | "
                f"{mean:.4f}({error * 1e4:.0f}) |"
            )
        axes.errorbar(*np.array(points).T, marker="o", capsize=2, label=name)
    axes.set(xlabel="processor time of training [s]", ylabel="energy [Ha per cell]")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
