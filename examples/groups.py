"""Space groups of crystals with published structures, and pictures of them.

    python examples/groups.py

Reads the CIF files in examples/crystals; writes one picture each to runs/groups.
"""

import argparse
from pathlib import Path

import ase.io
import spglib

import eqsym as eqs


CRYSTALS = Path(__file__).parent / "crystals"
BOHR = 0.529177210903  # Angstrom


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/groups"))
    options = parser.parse_args()
    options.path.mkdir(parents=True, exist_ok=True)

    print("crystal             space group     operations  domain [Angstrom^3]")
    for file in sorted(CRYSTALS.glob("*.cif")):
        atoms = ase.io.read(file)
        assert isinstance(atoms, ase.Atoms)
        crystal = eqs.Crystal.from_ase(atoms)
        group = eqs.SpaceGroup.of(crystal)
        frac = crystal.lattice.to_fractional(crystal.positions)
        cell = (crystal.lattice.vectors, frac, crystal.atomic_numbers)
        found = spglib.get_symmetry_dataset(tuple(part.tolist() for part in cell))
        assert found is not None
        # Images of a fundamental domain, one for each operation, fill the cell.
        volume = crystal.lattice.volume / group.order * BOHR**3
        symbol = f"{found.international} ({found.number})"
        print(f"{file.stem:20}{symbol:16}{group.order:10}{volume:21.3f}")
        figure = eqs.plot_group(crystal, group=group)
        figure.savefig(options.path / f"{file.stem}.png")
    print(f"Wrote {options.path}")


if __name__ == "__main__":
    main()
