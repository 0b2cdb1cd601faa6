"""Graphene, 12 electrons in the 1x1 cell, averaged over 24 operations after training.

    python examples/graphene.py                  # a small network, for a CPU
    python examples/graphene.py --preset paper   # settings of arXiv 2502.05318, one GPU

Ctrl-C saves; run again to resume, with more --steps to go further.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import eqsym as eqs


class Preset(NamedTuple):
    """Size of the network and of the run."""

    widths: tuple[tuple[int, int], ...]
    determinants: int
    walkers: int
    moves: int
    pretraining_steps: int
    steps: int
    chunk: int | None


PRESETS = {
    "cpu": Preset(((64, 16),) * 3, 4, 256, 20, 500, 800, 16),
    "paper": Preset(((256, 32),) * 3, 8, 1000, 20, 1000, 80_000, None),
}
LATTICE_CONSTANT = 2.4612  # Angstrom
VACUUM = 50 * 0.529177210903  # Angstrom
EVALUATION_STEPS = 40
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--path", type=Path, help="by default runs/graphene-PRESET")
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--pretraining-steps", type=int, help="instead of the preset's")
    parser.add_argument("--walkers", type=int, help="instead of the preset's")
    parser.add_argument("--evaluation-steps", type=int, default=EVALUATION_STEPS)
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()
    changes = {
        name: getattr(options, name)
        for name in ("steps", "pretraining_steps", "walkers")
        if getattr(options, name) is not None
    }
    preset = PRESETS[options.preset]._replace(**changes)

    crystal = eqs.Crystal.graphene(a=LATTICE_CONSTANT, vacuum=VACUUM, unit="angstrom")
    path = options.path or Path(f"runs/graphene-{options.preset}")
    mean_field = eqs.MeanField.solve(crystal, path=path / "mean_field.npz")
    print(f"Mean field: {mean_field.energy:.5f} Ha per cell")

    network_key, key, evaluation_key = jax.random.split(jax.random.key(SEED), 3)
    wavefunction = eqs.SolidNet(
        crystal,
        mean_field.occupation,
        widths=preset.widths,
        determinants=preset.determinants,
        key=network_key,
    )
    # Does not depend on the number of steps: a prolonged run is the same run.
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(preset.moves),
        eqs.Spring(),
        chunk=preset.chunk,
    )
    result = eqs.run(
        vmc,
        wavefunction,
        steps=preset.steps,
        walkers=preset.walkers,
        key=key,
        pretraining=eqs.Pretraining(
            mean_field, preset.pretraining_steps, optimizer=optax.adam(3e-3)
        ),
        path=path,
    )
    training = eqs.plot.training(
        result.history, references={"Hartree-Fock": mean_field.energy}
    )
    training.savefig(path / "training.png")

    group = eqs.SpaceGroup.of(crystal)
    post_hoc = eqs.post_hoc(
        result.wavefunction,
        vmc.hamiltonian,
        group,
        eqs.Chains(
            result.walkers,
            key=evaluation_key,
            steps=options.evaluation_steps,
            chunk=preset.chunk,
        ),
    )
    print(f"\nGraphene, averaged over {group.order} operations; per primitive cell:")
    print(post_hoc)

    # An electron of each spin on both atoms, on the three bonds and in the middle of
    # the hexagon: the in-plane operations only exchange them. Above the plane, because
    # the pi orbitals vanish in it.
    sites = [[1 / 3, 2 / 3], [2 / 3, 1 / 3], [0.5, 0], [0, 0.5], [0.5, 0.5], [0, 0]]
    in_plane = np.array(sites) @ crystal.lattice.vectors[:2]
    electrons = jnp.tile(jnp.asarray(in_plane + [0, 0, 0.3]), (2, 1))
    sides = crystal.lattice.vectors[:2]
    averaged = eqs.Symmetrized(result.wavefunction, eqs.GroupAverage(group))
    scans = {
        "plain": eqs.translation_scan(result.wavefunction, electrons, sides),
        "averaged": eqs.translation_scan(averaged, electrons, sides),
    }
    eqs.plot.scans(scans).savefig(path / "scan.png")
    print(f"\nWrote {path}")


if __name__ == "__main__":
    main()
