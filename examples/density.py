"""Electron densities of LiH and graphene: as trained, with the density averaged over
the space group, and of the wave function averaged over it.

    python examples/density.py
    python examples/density.py --crystal graphene

A short training, then one pass over walkers of the network for all three densities, the
pair correlation and the structure factor, with error bars. Writes density.png and
correlations.csv into the run folder. Run again, with more --steps, to go further.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import eqsym as eqs


class System(NamedTuple):
    """A crystal, and how to observe its density."""

    crystal: eqs.Crystal
    widths: tuple[tuple[int, int], ...]
    steps: int
    spacing: tuple[float, float, float]  # Bohr
    sides: np.ndarray  # of the plane to draw, Bohr


def lithium_hydride() -> System:
    crystal = eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    # The (001) plane through both nuclei.
    edge = 2 * crystal.positions[1, 0]
    sides = edge * np.eye(3)[:2]
    return System(crystal, ((32, 8),) * 3, 200, (0.25, 0.25, 0.25), sides)


def graphene() -> System:
    crystal = eqs.Crystal.graphene(a=2.4612, vacuum=10.0, unit="angstrom")
    # Integrated over z; in the plane two by two cells.
    sides = 2 * crystal.lattice.vectors[:2]
    return System(crystal, ((32, 8),) * 3, 150, (0.2, 0.2, np.inf), sides)


SYSTEMS = {"lih": lithium_hydride, "graphene": graphene}
WALKERS = 256
PRETRAINING_STEPS = 200
OBSERVATION_STEPS = 100
SEED = 0


def learning_rate(step):
    """Also the length of the longest step."""
    return 0.1 / (1 + step / 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--crystal", choices=SYSTEMS, default="lih")
    parser.add_argument("--path", type=Path, help="runs/density_<crystal> by default")
    parser.add_argument("--steps", type=int, help="instead of those of the crystal")
    parser.add_argument("--pretraining-steps", type=int, default=PRETRAINING_STEPS)
    parser.add_argument("--evaluation-steps", type=int, default=OBSERVATION_STEPS)
    parser.add_argument("--walkers", type=int, default=WALKERS)
    options = parser.parse_args()
    start = time.monotonic()
    system = SYSTEMS[options.crystal]()
    crystal = system.crystal
    path = options.path or Path(f"runs/density_{options.crystal}")
    path.mkdir(parents=True, exist_ok=True)

    mean_field = eqs.MeanField.solve(crystal, path=path / "mean_field.npz")
    network_key, key, observation_key = jax.random.split(jax.random.key(SEED), 3)
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(10),
        eqs.Spring(learning_rate, norm_bound=lambda step: learning_rate(step) ** 2),
        chunk=64,
    )
    result = eqs.run(
        vmc,
        eqs.SolidNet(
            crystal, mean_field.occupation, widths=system.widths, key=network_key
        ),
        steps=options.steps or system.steps,
        walkers=options.walkers,
        key=key,
        pretraining=eqs.Pretraining(mean_field, options.pretraining_steps),
        path=path,
    )

    group = eqs.SpaceGroup.of(crystal)
    density = eqs.Density.for_group(group, system.spacing)
    pairs = eqs.PairCorrelation(crystal, 20)
    unlike = eqs.PairCorrelation(crystal, 20, spins=(0, 1))
    structure = eqs.StructureFactor(crystal, 6.0)
    found = eqs.observe_post_hoc(
        result.wavefunction,
        {"density": density, "g": pairs, "g up-down": unlike, "S": structure},
        group,
        walkers=result.walkers,
        key=observation_key,
        steps=options.evaluation_steps,
        chunk=32,
    )
    print(f"{options.crystal}: {density.shape} points, {group.order} operations")
    print(f"symmetric weight |Pf|^2/|f|^2 = {found.weight}")
    voxel = density.lattice.volume / np.prod(density.shape)
    for name, row in (
        ("OG", found.plain),
        ("OG, density averaged", found.symmetrized),
        ("PA", found.averaged),
    ):
        values = row["density"]
        number, noise = np.sum(values.mean) * voxel, np.sum(values.error) * voxel
        print(
            f"{name:>21}: {number:.6f} electrons per cell, mean error per point ",
            end="",
        )
        print(f"{noise / number:.1%} of the mean density")

    figure = eqs.plot_densities(
        density,
        {
            "OG, as trained": found.plain["density"],
            "OG, density averaged": found.symmetrized["density"],
            "PA, wave function averaged": found.averaged["density"],
        },
        system.sides,
    )
    figure.savefig(path / "density.png")

    lengths = np.linalg.norm(structure.vectors, axis=1)
    lines = ["observable,r [Bohr] or q [1/Bohr],OG,error,PA,error"]
    for name, places in (
        ("g", pairs.radii),
        ("g up-down", unlike.radii),
        ("S", lengths),
    ):
        columns = [places]
        for row in (found.plain, found.averaged):
            columns += [row[name].mean, row[name].error]
        lines += [
            ",".join([name, *(f"{value:.6g}" for value in values)])
            for values in zip(*columns, strict=True)
        ]
    (path / "correlations.csv").write_text("\n".join(lines) + "\n")
    print(f"Wrote {path} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
