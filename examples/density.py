"""Electron densities of LiH and graphene, before and after averaging.

    python examples/density.py                      # LiH
    python examples/density.py --crystal graphene

Densities of the plain network, the same averaged over the space group, and of the wave
function averaged over it. A short training, then one pass over walkers of the network
for all three densities, the pair correlation and the structure factor, with error bars.
Writes density.png and correlations.csv into the run folder. Run again to observe again,
with more --steps to train further.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import eqsym as eqs


class System(NamedTuple):
    """A crystal, how long to train, and what to draw."""

    crystal: eqs.Crystal
    pretraining_steps: int
    steps: int
    spacing: float  # of the grid, Bohr
    along: tuple[float, float, float]  # in units of it, for each lattice vector
    sides: np.ndarray  # of the parallelogram to draw, Bohr


def lithium_hydride() -> System:
    crystal = eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    # The (001) plane through both nuclei.
    sides = 2 * crystal.cart_positions[1, 0] * np.eye(3)[:2]
    return System(crystal, 200, 200, 0.25, (1, 1, 1), sides)


def graphene() -> System:
    crystal = eqs.Crystal.graphene(a=2.4612, vacuum=10.0, unit="angstrom")
    # Integrated over z; a rectangle of four cells.
    sides = np.array([[2, 0, 0], [1, 2, 0]]) @ crystal.lattice.vectors
    return System(crystal, 200, 150, 0.2, (1, 1, np.inf), sides)


SYSTEMS = {"lih": lithium_hydride, "graphene": graphene}
WIDTHS = ((32, 8),) * 3
WALKERS = 256
OBSERVATION_STEPS = 100
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--crystal", choices=SYSTEMS, default="lih")
    parser.add_argument("--path", type=Path, help="runs/density_<crystal> by default")
    parser.add_argument("--steps", type=int, help="instead of the crystal's")
    parser.add_argument("--pretraining-steps", type=int, help="instead of the same")
    parser.add_argument("--spacing", type=float, help="instead of the same, in Bohr")
    parser.add_argument("--evaluation-steps", type=int, default=OBSERVATION_STEPS)
    parser.add_argument("--walkers", type=int, default=WALKERS)
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()
    changes = {
        name: getattr(options, name)
        for name in ("steps", "pretraining_steps", "spacing")
        if getattr(options, name) is not None
    }
    system = SYSTEMS[options.crystal]()._replace(**changes)
    path = options.path or Path(f"runs/density_{options.crystal}")
    path.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    crystal = system.crystal
    mean_field = eqs.MeanField.solve(crystal, path=path / "mean_field.npz")
    network_key, key, observation_key = jax.random.split(jax.random.key(SEED), 3)
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(10),
        eqs.Spring(),
        chunk=64,
    )
    result = eqs.run(
        vmc,
        eqs.SolidNet(crystal, mean_field.occupation, widths=WIDTHS, key=network_key),
        steps=system.steps,
        walkers=options.walkers,
        key=key,
        pretraining=eqs.Pretraining(mean_field, system.pretraining_steps),
        path=path,
    )

    group = eqs.SpaceGroup.of(crystal)
    spacing = [system.spacing * factor for factor in system.along]
    density = eqs.Density.for_group(group, spacing)
    pairs = eqs.PairCorrelation(crystal, bins=20)
    unlike = eqs.PairCorrelation(crystal, bins=20, spins=(0, 1))
    structure = eqs.StructureFactor(crystal, max_q=4.0)
    found = eqs.observe_post_hoc(
        result.wavefunction,
        {"density": density, "g": pairs, "g up-down": unlike, "S": structure},
        group,
        eqs.Chains(
            result.walkers,
            key=observation_key,
            steps=options.evaluation_steps,
            chunk=32,
        ),
    )
    if found.averaged is None:
        raise SystemExit(
            "The average over the group is zero as far as these samples can tell: "
            f"|Pf|^2/|f|^2 = {found.weight}."
        )
    densities = {
        "plain": found.plain["density"],
        "plain, density averaged": found.mixture["density"],
        "averaged": found.averaged["density"],
    }
    print(f"{options.crystal}: {density.shape} grid points, {group.order} operations")
    print(f"symmetric weight |Pf|^2/|f|^2 = {found.weight}")
    for name, one in densities.items():
        number = np.mean(one.mean) * density.lattice.volume
        noise = np.mean(one.error) / np.mean(one.mean)
        print(f"{name:>26}: {number:.5f} electrons per cell, errors {noise:.1%}")
    figure = eqs.plot.densities(density, densities, system.sides)
    figure.savefig(path / "density.png")

    lines = ["observable,r [Bohr] or q [1/Bohr],plain,error,averaged,error"]
    for name, places in (
        ("g", pairs.radii),
        ("g up-down", unlike.radii),
        ("S", np.linalg.norm(structure.vectors, axis=1)),
    ):
        plain, averaged = found.plain[name], found.averaged[name]
        columns = places, plain.mean, plain.error, averaged.mean, averaged.error
        for row in zip(*columns, strict=True):
            lines.append(",".join([name, *(f"{value:.6g}" for value in row)]))
    (path / "correlations.csv").write_text("\n".join(lines) + "\n")
    print(f"Wrote {path} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
