"""Any crystal, from a structure file or a preset, to plain and averaged energies.

    python examples/crystal.py my_crystal.cif
    python examples/crystal.py diamond --pseudopotential ccecp
    python examples/crystal.py lithium-hydride --supercell 2 --twist 0.5 0.5 0.5

Says what it understood; then mean field, training, the energies before and after
averaging over the group, the symmetry sectors, and figures, all in one run folder.
Ctrl-C saves; run again to go on, with more --steps to go further. A first look is fast
with a small network: --layers 2 --widths 16 4 --determinants 1. Files need the extra
`ase` of eqsym.
"""

import argparse
import functools
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np

import eqsym as eqs


PRESETS = {
    "boron-nitride": functools.partial(
        eqs.Crystal.zinc_blende, "B", "N", a=3.615, unit="angstrom"
    ),
    "diamond": functools.partial(eqs.Crystal.diamond, "C", a=3.567, unit="angstrom"),
    "graphene": functools.partial(
        eqs.Crystal.graphene, a=2.4612, vacuum=10.0, unit="angstrom"
    ),
    "hydrogen-chain": functools.partial(
        eqs.Crystal.hydrogen_chain, spacing=1.8, vacuum=20.0, unit="bohr"
    ),
    "lithium": functools.partial(eqs.Crystal.bcc, "Li", a=3.427, unit="angstrom"),
    "lithium-hydride": functools.partial(
        eqs.Crystal.rock_salt, "Li", "H", a=4.02, unit="angstrom"
    ),
    "silicon": functools.partial(eqs.Crystal.diamond, "Si", a=5.431, unit="angstrom"),
    "sodium-chloride": functools.partial(
        eqs.Crystal.rock_salt, "Na", "Cl", a=5.64, unit="angstrom"
    ),
}
ROUNDING = 5e-3  # Bohr: what four digits of a fraction may be off
BOHR = 0.529177210903  # Angstrom
SEED = 0


def crystal_of(
    name: str,
    supercell: list[int],
    twist: list[float],
    pseudopotential: str | None = None,
) -> eqs.Crystal:
    """The preset of this name, or else the primitive cell of the file of this name."""
    if len(supercell) not in (1, 3, 9):
        raise ValueError(
            "`--supercell` must be one integer, three, or the nine of a matrix, row by "
            f"row, got {len(supercell)}."
        )
    rows = {1: (), 3: (3,), 9: (3, 3)}[len(supercell)]
    settings: dict[str, Any] = {
        "supercell": np.reshape(supercell, rows),
        "twist": twist,
    }
    cores: dict[str, Any] = {"pseudopotential": pseudopotential}
    if name in PRESETS:
        return PRESETS[name](**settings, **cores)
    if not Path(name).is_file():
        raise ValueError(
            f"There is neither a file nor a preset {name!r}. The presets are "
            f"{', '.join(PRESETS)}."
        )
    crystal = eqs.Crystal.from_ase(name, **cores)
    return crystal.symmetrized(ROUNDING).primitive(**settings)


def described(crystal: eqs.Crystal) -> str:
    """Formula, cell and electrons."""
    counts = Counter(crystal.species).items()
    formula = "".join(f"{name}{n}" if n > 1 else name for name, n in counts)
    vectors = crystal.lattice.vectors * BOHR
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors / lengths[:, None]
    cosines = [unit[1] @ unit[2], unit[2] @ unit[0], unit[0] @ unit[1]]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    up, down = crystal.electrons
    names = ", ".join(map(repr, crystal.pseudopotential.values()))
    cores = f"; {names}" if names else ""
    return "\n".join(
        [
            f"Primitive cell: {formula}, "
            + " x ".join(f"{length:.4f}" for length in lengths)
            + " Angstrom, "
            + ", ".join(f"{angle:.2f}" for angle in angles)
            + " degrees",
            f"Supercell: {crystal.cells} of them, matrix {crystal.matrix.tolist()}, "
            f"twist {crystal.twist.tolist()}",
            f"Electrons: {up} up, {down} down, charge {crystal.charge}{cores}",
        ]
    )


def main() -> None:
    summary, *_ = str(__doc__).splitlines()
    parser = argparse.ArgumentParser(description=summary)
    add = parser.add_argument
    add("crystal", metavar="FILE_OR_PRESET", help=f"presets: {', '.join(PRESETS)}")
    add("--supercell", type=int, nargs="+", default=[1], help="1, 3 or 9 integers")
    add("--twist", type=float, nargs=3, default=[0, 0, 0], help="in fractions")
    add("--layers", type=int, default=3, help="of the network, 3 by default")
    add(
        "--widths",
        type=int,
        nargs=2,
        default=[64, 16],
        help="of a layer: features per electron and per pair, 64 16 by default",
    )
    add("--determinants", type=int, default=4, help="4 by default")
    add(
        "--attention",
        action="store_true",
        help="AttentionNet with a Jastrow factor instead of SolidNet",
    )
    add("--steps", type=int, default=1000, help="of training, 1000 by default")
    add("--walkers", type=int, default=256, help="256 by default")
    add("--pretraining-steps", type=int, default=300, help="300 by default")
    add("--evaluation-steps", type=int, default=100, help="100 by default")
    add("--pseudopotential", help="such as ccecp: then only valence electrons")
    add("--basis", help="of the mean field, cc-pvdz or ccecp-cc-pvdz by default")
    add("--path", type=Path, help="the run folder, runs/FILE_OR_PRESET by default")
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()
    name = Path(options.crystal).stem
    if options.pseudopotential:
        name += f"-{options.pseudopotential}"
    if options.attention:
        name += "-attention"
    path = options.path or Path("runs") / name
    # What eqsym notes about the file, the group and the run comes between the lines.
    logging.basicConfig(format="eqsym: %(message)s", stream=sys.stdout)
    logger = logging.getLogger("eqsym")
    logger.setLevel(logging.INFO)
    # Nobody has to be told to take the primitive cell of a file: this does.
    logger.addFilter(lambda record: "primitive()`" not in record.getMessage())

    keys = jax.random.split(jax.random.key(SEED), 4)
    try:
        crystal = crystal_of(
            options.crystal, options.supercell, options.twist, options.pseudopotential
        )
        print(described(crystal), flush=True)
        group = eqs.SpaceGroup.of(crystal)
        print(f"Group: {group.symbol}, {group.order} operations", flush=True)
        mean_field = eqs.MeanField.solve(
            crystal, basis=options.basis, path=path / "mean_field.npz"
        )
        settings: dict[str, Any] = dict(determinants=options.determinants, key=keys[0])
        if options.attention:
            width, pair_width = options.widths
            network = eqs.Jastrow(
                eqs.AttentionNet(
                    crystal,
                    mean_field.occupation,
                    width=width,
                    pair_width=pair_width,
                    layers=options.layers,
                    **settings,
                )
            )
        else:
            network = eqs.SolidNet(
                crystal,
                mean_field.occupation,
                widths=[tuple(options.widths)] * options.layers,
                **settings,
            )
    except ValueError as error:
        parser.error(str(error))
    print(f"Mean field: {mean_field.energy:.5f} Ha per primitive cell", flush=True)

    chunk = 32 if jax.default_backend() == "cpu" else None
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal), eqs.Metropolis(moves=10), eqs.Spring(), chunk=chunk
    )
    result = eqs.run(
        vmc,
        network,
        steps=options.steps,
        walkers=options.walkers,
        key=keys[1],
        pretraining=eqs.Pretraining(mean_field, options.pretraining_steps),
        path=path,
    )
    references = {"Hartree-Fock": mean_field.energy}
    eqs.plot.training(result.history, references=references).savefig(
        path / "training.png"
    )
    eqs.plot.group(crystal, group=group).savefig(path / "group.png")

    # A run that is prolonged gets new estimates; they too go on when interrupted.
    estimates = path / "estimates" / str(int(result.history["step"][-1]))
    arguments = result.wavefunction, vmc.hamiltonian, group
    steps = options.evaluation_steps
    chains = eqs.Chains(result.walkers, key=keys[2], steps=steps, chunk=chunk)
    averaging = eqs.post_hoc(*arguments, chains, path=estimates / "post_hoc")
    print(f"\nAveraged over {group.order} operations; per primitive cell:\n{averaging}")
    chains = eqs.Chains(result.walkers, key=keys[3], steps=steps, chunk=chunk)
    sectors = eqs.sectors(*arguments, chains, path=estimates / "sectors")
    print(f"\nParts of the plain function, by symmetry:\n{sectors}")
    eqs.plot.sectors(sectors).savefig(path / "sectors.png")
    for name, estimate in (("post_hoc", averaging), ("sectors", sectors)):
        report = json.dumps(estimate.to_dict(), indent=2)
        (path / f"{name}.json").write_text(report)
    print(f"\nWrote {path}")


if __name__ == "__main__":
    main()
